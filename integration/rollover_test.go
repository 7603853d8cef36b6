package integration

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/pkitest"
)

// rotate brings a new issuing CA into service now.
func rotate(t *testing.T, s *pkitest.Server) *client.IssuerState {
	t.Helper()
	i, err := daemon.Rotation{ActiveIn: "0s"}.Rotate(t.Context(), s.Config)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// issuerIDs returns the id and state of each issuing CA.
func issuerIDs(t *testing.T, s *pkitest.Server) (ids, states []string) {
	t.Helper()
	all, err := s.Operator(t).IssuerStates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		ids, states = append(ids, i.ID), append(states, i.State)
	}
	return ids, states
}

// The whole of a rotation as clients, openssl and a resource server's checker see it, and again after a restart.
func TestRollover(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	old := s.Enrol(t, client.InvitationRequest{ClientID: "old"})
	bad := s.Enrol(t, client.InvitationRequest{ClientID: "bad"})
	renewed := s.Enrol(t, client.InvitationRequest{ClientID: "renewed"})
	checker := checkerOf(t, old)
	for _, id := range []*client.Identity{old, bad} {
		if err := checker.Check(t.Context(), id.Certificate().Leaf); err != nil {
			t.Fatal(err)
		}
	}

	next := rotate(t, s)
	fresh := s.Enrol(t, client.InvitationRequest{ClientID: "fresh"})
	if err := renewed.Renew(t.Context(), client.RenewOptions{}); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[*client.Identity]string{old: "pkid Issuing CA", fresh: next.Subject[3:], renewed: next.Subject[3:]} {
		if got := id.Certificate().Leaf.Issuer.CommonName; got != want {
			t.Errorf("%s is by %q, want %q", id.Info().ClientID, got, want)
		}
	}
	if _, err := s.Operator(t).Revoke(t.Context(), serialText(bad), client.Revocation{Reason: "keyCompromise"}); err != nil {
		t.Fatal(err)
	}

	check := func(when string) {
		t.Helper()
		for _, id := range []*client.Identity{old, fresh, renewed} {
			wantTokenError(t, id, "")
			if err := checker.Check(t.Context(), id.Certificate().Leaf); err != nil {
				t.Errorf("%s: a resource server that knew the CA before: %s: %v", when, id.Info().ClientID, err)
			}
		}
		wantTokenError(t, bad, "revoked")
		pkitest.Eventually(t, 5*time.Second, func() error {
			if err := checker.Refresh(t.Context()); err != nil {
				return err
			}
			err := checker.Check(t.Context(), bad.Certificate().Leaf)
			if _, revoked := errors.AsType[*crl.RevokedError](err); !revoked {
				return fmt.Errorf("%s: the revoked certificate: %w", when, cmp.Or(err, errors.New("good")))
			}
			return nil
		})
		openSSL(t, s, when, map[*client.Identity]string{old: "good", fresh: "good", renewed: "good", bad: "certificate revoked"})
	}
	check("after the rotation")
	pkitest.Eventually(t, 5*time.Second, func() error { return servedBy(s.URLs.Public, old.Roots(), next.Subject[3:]) })
	if _, states := issuerIDs(t, s); fmt.Sprint(states) != "[retiring active]" {
		t.Errorf("states %v", states)
	}

	s.Stop(t)
	s = pkitest.Serve(t, s.Dir, pkitest.Options{})
	check("after a restart")
	if err := servedBy(s.URLs.Public, old.Roots(), next.Subject[3:]); err != nil {
		t.Error(err)
	}
	if err := old.Renew(t.Context(), client.RenewOptions{Rekey: true}); err != nil || old.Certificate().Leaf.Issuer.CommonName != next.Subject[3:] {
		t.Errorf("renewing after the restart: %v, by %q", err, old.Certificate().Leaf.Issuer.CommonName)
	}
	if third := rotate(t, s); third.ID == next.ID {
		t.Error("a second rotation changed nothing")
	}
	if _, states := issuerIDs(t, s); fmt.Sprint(states) != "[retiring retiring active]" {
		t.Errorf("states %v", states)
	}
}

func serialText(id *client.Identity) string {
	return fmt.Sprintf("%032x", id.Certificate().Leaf.SerialNumber)
}

// checkerOf is a resource server's checker that knows what the CA is now.
func checkerOf(t *testing.T, id *client.Identity) *crl.Checker {
	t.Helper()
	issuers, err := id.API().Issuers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checker, err := crl.NewChecker(crl.CheckerConfig{Issuers: issuers, Learn: id.API().Issuers})
	if err != nil {
		t.Fatal(err)
	}
	return checker
}

// openSSL checks whole chains, each against the CRLs of every issuing CA and of the root.
func openSSL(t *testing.T, s *pkitest.Server, when string, want map[*client.Identity]string) {
	t.Helper()
	sh := newShell(t, s)
	sh.run(`pkictl crl fetch --pem --out lists.pem && curl -sSf "$STATUS/crl/root.crl" | openssl crl -inform DER >> lists.pem`)
	for id, want := range want {
		out, err := sh.try(fmt.Sprintf(`openssl verify -crl_check_all -CAfile %[1]s/root.crt -untrusted %[1]s/client.crt -CRLfile lists.pem %[1]s/client.crt 2>&1`, id.Dir()))
		if err == nil {
			out = "good"
		}
		if !strings.Contains(out, want) {
			t.Errorf("%s: openssl says of %s: %s; want %q", when, id.Info().ClientID, out, want)
		}
	}
}

// servedBy tells whether a listener shows a certificate of an issuing CA that clients accept.
func servedBy(base string, roots *x509.CertPool, issuer string) error {
	u, err := url.Parse(base)
	if err != nil {
		return err
	}
	conn, err := tls.Dial("tcp", u.Host, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	if err != nil {
		return err
	}
	defer conn.Close()
	if got := conn.ConnectionState().PeerCertificates[0].Issuer.CommonName; got != issuer {
		return fmt.Errorf("the daemon's own certificate is by %q, want %q", got, issuer)
	}
	return nil
}

// Clients enrol, renew and fetch tokens while the issuing CA changes, twice: nothing fails.
func TestRolloverUnderLoad(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var acts, failures atomic.Int64
	var clients sync.WaitGroup
	begun := make(chan struct{}, 4)
	for n := range 4 {
		clients.Go(func() {
			for round := 0; ctx.Err() == nil; round++ {
				if err := life(ctx, s, t, filepath.Join(t.TempDir(), "id"), fmt.Sprintf("client-%d-%d", n, round), &acts); err != nil && ctx.Err() == nil {
					failures.Add(1)
					t.Errorf("client %d, round %d: %v", n, round, err)
				}
				if round == 0 {
					begun <- struct{}{}
				}
			}
		})
	}
	for range 4 {
		<-begun
	}
	for range 2 {
		rotate(t, s)
		before := acts.Load() // a rotation takes its time
		pkitest.Eventually(t, 30*time.Second, func() error {
			if done := acts.Load() - before; done < 60 {
				return fmt.Errorf("%d acts since the rotation", done)
			}
			return nil
		})
	}
	cancel()
	clients.Wait()
	t.Logf("%d acts, %d failures", acts.Load(), failures.Load())
	all, err := s.Operator(t).IssuerStates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Issued < 10 {
			t.Errorf("issuing CA %s has signed %d certificates", i.ID, i.Issued)
		}
	}
}

// life enrols a client, fetches a token, renews and fetches another.
func life(ctx context.Context, s *pkitest.Server, t *testing.T, dir, name string, acts *atomic.Int64) error {
	operator, err := client.Load(s.Home)
	if err != nil {
		return err
	}
	inv, err := operator.API().Invite(ctx, client.InvitationRequest{ClientID: name})
	if err != nil {
		return err
	}
	token, err := client.ParseEnrolmentToken(inv.Token)
	if err != nil {
		return err
	}
	id, err := client.Enroll(ctx, token, client.EnrollOptions{Dir: dir})
	if err != nil {
		return err
	}
	acts.Add(1)
	for _, act := range []func() error{
		func() error { return fetchToken(ctx, id) },
		func() error { return id.Renew(ctx, client.RenewOptions{}) },
		func() error { return fetchToken(ctx, id) },
	} {
		if err := act(); err != nil {
			return err
		}
		acts.Add(1)
	}
	return nil
}

func fetchToken(ctx context.Context, id *client.Identity) error {
	source, err := client.NewTokenSource(client.TokenConfig{Identity: id})
	if err != nil {
		return err
	}
	_, err = source.Token(ctx)
	return err
}

// Whatever a rotation has come to when the daemon stops, it goes on from there.
func TestRolloverGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	restart := func(want ...string) {
		t.Helper()
		s.Stop(t)
		s = pkitest.Serve(t, s.Dir, pkitest.Options{})
		if _, states := issuerIDs(t, s); fmt.Sprint(states) != fmt.Sprint(want) {
			t.Fatalf("states %v, want %v", states, want)
		}
		if id := s.Enrol(t, client.InvitationRequest{ClientID: fmt.Sprintf("client-%d", time.Now().UnixNano())}); id.Certificate().Leaf.Issuer.CommonName != "pkid Issuing CA" {
			t.Errorf("%v: a certificate by %q", want, id.Certificate().Leaf.Issuer.CommonName)
		}
	}
	next, err := daemon.Rotation{}.Next(t.Context(), s.Config)
	if err != nil {
		t.Fatal(err)
	}
	restart("active", "requested")
	made, err := daemon.Rotation{ActiveIn: "1h"}.Rotate(t.Context(), s.Config)
	if err != nil || made.ID != next.ID {
		t.Fatalf("got %+v, %v; want %s", made, err, next.ID)
	}
	restart("active", "waiting")
	sh := newShell(t, s)
	pkitest.Eventually(t, 5*time.Second, func() error {
		_, err := sh.try(fmt.Sprintf(`curl -sSf "$STATUS/issuers/%[1]s.crt" | openssl x509 -inform DER -out next.pem &&
			curl -sSf "$STATUS/crl/%[1]s.crl" | openssl crl -inform DER -noout -CAfile next.pem`, next.ID))
		return err
	})
	if again, err := (daemon.Rotation{ActiveIn: "0s"}).Rotate(t.Context(), s.Config); err != nil || again.State != "active" {
		t.Errorf("another one before the time of that: %+v, %v", again, err)
	}
}
