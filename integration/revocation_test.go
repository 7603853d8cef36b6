package integration

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/revocation"
	"github.com/pkid/pkid/tokenbind"
)

// follower is a resource server's view of what was revoked.
type follower struct {
	*revocation.Follower
	stop func()
}

// follow follows the revocations of a daemon that answers at base. Its Checker does not run: it fetches the CRL when it is
// shown the first certificate, and never again, so what is refused later was told by the stream.
func follow(t *testing.T, s *pkitest.Server, op *client.API, base string) *follower {
	t.Helper()
	return followWith(t, s, op, base, func(context.Context, *crl.Checker) {})
}

// followWith follows beside what else is done with the Checker until the test ends.
func followWith(t *testing.T, s *pkitest.Server, op *client.API, base string, beside func(context.Context, *crl.Checker)) *follower {
	t.Helper()
	issuers, err := op.Issuers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checker, err := crl.NewChecker(crl.CheckerConfig{Issuers: issuers, Logger: pkitest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	f, err := revocation.New(revocation.Config{Issuer: base, HTTPClient: clientOf(t, s), Checker: checker, Logger: pkitest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = f.Run(ctx) })
	running.Go(func() { beside(ctx, checker) })
	out := &follower{f, func() { cancel(); running.Wait() }}
	t.Cleanup(out.stop)
	select {
	case <-f.Ready():
	case <-time.After(20 * time.Second):
		t.Fatalf("never ready: %+v", f.Status())
	}
	return out
}

// clientOf returns a client without a certificate that trusts a daemon's root.
func clientOf(t *testing.T, s *pkitest.Server) *http.Client {
	t.Helper()
	id, err := client.Load(s.Home)
	if err != nil {
		t.Fatal(err)
	}
	return id.HTTPClient()
}

func (f *follower) wantToken(t *testing.T, claims *tokenbind.Claims, refused bool) {
	t.Helper()
	pkitest.Eventually(t, 10*time.Second, func() error {
		_, is := errors.AsType[*revocation.RevokedError](f.CheckToken(t.Context(), claims))
		if is != refused {
			return errors.New("wrong answer about the token")
		}
		return nil
	})
}

func (f *follower) wantCertificate(t *testing.T, cert *x509.Certificate, refused bool) {
	t.Helper()
	pkitest.Eventually(t, 20*time.Second, func() error {
		err := f.Check(t.Context(), cert)
		if (err != nil) != refused {
			return errors.Join(errors.New("wrong answer about the certificate"), err)
		}
		return nil
	})
}

// TestA34_StreamOfRevocations: what is revoked while a resource server listens it refuses by the stream, before a CRL; what
// was revoked before it listened, too; and what is held and released works again.
func TestA34_StreamOfRevocations(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	op := s.Operator(t)
	f := follow(t, s, op, s.URLs.Public)

	id := s.Enrol(t, client.InvitationRequest{ClientID: "orders", Scopes: []string{"read"}})
	cert := id.Certificate().Leaf
	f.wantCertificate(t, cert, false)
	serial := serialInHex(cert)
	if _, err := op.Revoke(t.Context(), serial, client.Revocation{Reason: "certificateHold"}); err != nil {
		t.Fatal(err)
	}
	f.wantCertificate(t, cert, true)
	if _, err := op.Revoke(t.Context(), serial, client.Revocation{Reason: "removeFromCRL"}); err != nil {
		t.Fatal(err)
	}
	f.wantCertificate(t, cert, false)
	if _, err := op.Revoke(t.Context(), serial, client.Revocation{Reason: "keyCompromise"}); err != nil {
		t.Fatal(err)
	}
	f.wantCertificate(t, cert, true)

	before := &tokenbind.Claims{ClientID: "orders", ID: "some", IssuedAt: time.Now().Add(-time.Minute)}
	f.wantToken(t, before, false)
	disabled := true
	if _, err := op.PatchClient(t.Context(), "orders", client.ClientPatch{Disabled: &disabled}); err != nil {
		t.Fatal(err)
	}
	f.wantToken(t, before, true)
	late := follow(t, s, op, s.URLs.Public)
	late.wantToken(t, before, true)
	late.wantCertificate(t, cert, true)

	disabled = false
	if _, err := op.PatchClient(t.Context(), "orders", client.ClientPatch{Disabled: &disabled}); err != nil {
		t.Fatal(err)
	}
	f.wantToken(t, &tokenbind.Claims{ClientID: "orders", ID: "some", IssuedAt: time.Now().Add(time.Minute)}, false)
	f.wantToken(t, before, true)
}

// TestA34_StreamBesideTheCRL: what a CRL at hand tells the follower forgets, and all the same it stays refused until it is
// released, which takes another CRL.
func TestA34_StreamBesideTheCRL(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	op := s.Operator(t)
	f := followWith(t, s, op, s.URLs.Public, func(ctx context.Context, k *crl.Checker) { _ = k.Run(ctx) })
	cert := s.Enrol(t, client.InvitationRequest{ClientID: "orders"}).Certificate().Leaf
	f.wantCertificate(t, cert, false)
	if _, err := op.Revoke(t.Context(), serialInHex(cert), client.Revocation{Reason: "certificateHold"}); err != nil {
		t.Fatal(err)
	}
	f.wantCertificate(t, cert, true)
	pkitest.Eventually(t, 40*time.Second, func() error {
		if err := f.Check(t.Context(), cert); err == nil {
			t.Fatal("the certificate is taken while it is on hold")
		}
		if n := f.Status().Certificates; n > 0 {
			return fmt.Errorf("%d certificates are remembered beside the CRL", n)
		}
		return nil
	})
	if _, err := op.Revoke(t.Context(), serialInHex(cert), client.Revocation{Reason: "removeFromCRL"}); err != nil {
		t.Fatal(err)
	}
	f.wantCertificate(t, cert, false)
}

// TestA34_StreamOfRevocationsOverARestart: a follower goes on where it was when the daemon is there again, and misses
// nothing.
func TestA34_StreamOfRevocationsOverARestart(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	first := s.Enrol(t, client.InvitationRequest{ClientID: "first"}).Certificate().Leaf
	f := follow(t, s, s.Operator(t), s.URLs.Public)
	f.wantCertificate(t, first, false)

	s.Stop(t) // at once, or the test's time is over: a stream has no end of its own
	s = pkitest.Serve(t, s.Dir, pkitest.Options{})
	op := s.Operator(t)
	if _, err := op.Revoke(t.Context(), serialInHex(first), client.Revocation{}); err != nil {
		t.Fatal(err)
	}
	f.wantCertificate(t, first, true)
	if st := f.Status(); st.Connects != 2 || st.Resets != 1 {
		t.Errorf("%d streams and %d resets; want the second to go on from the first", st.Connects, st.Resets)
	}
}

// TestA34_StreamOfRevocationsOfOtherNodes: what one node revokes, a follower of another one refuses.
func TestA34_StreamOfRevocationsOfOtherNodes(t *testing.T) {
	t.Parallel()
	a := pkitest.Start(t, pkitest.Options{Database: pgtest.Database(t)})
	b := pkitest.Serve(t, a.NewNode(t), pkitest.Options{})
	_, port, err := net.SplitHostPort(b.Config.Listen.Public)
	if err != nil {
		t.Fatal(err)
	}
	op := a.Operator(t)
	f := follow(t, a, op, "https://localhost:"+port)

	robot := a.Enrol(t, client.InvitationRequest{ClientID: "robot", Scopes: []string{"read"}, Resources: []string{"https://api.example.com"}})
	cert := robot.Certificate().Leaf
	f.wantCertificate(t, cert, false)

	here := nodeOf(t, "a", a.Config)
	claims := func() (string, *tokenbind.Claims) {
		t.Helper()
		var issued struct {
			Token string `json:"access_token"`
		}
		answer := here.token(robot, "")
		if err := json.Unmarshal([]byte(answer.body), &issued); err != nil || issued.Token == "" {
			t.Fatalf("%v, %v", answer, err)
		}
		return issued.Token, claimsOf(t, issued.Token)
	}
	token, revoked := claims()
	_, other := claims()
	f.wantToken(t, revoked, false)
	form := url.Values{"token": {token}, "client_id": {"robot"}}.Encode()
	if got := here.must(robot, http.MethodPost, here.urls.MTLS+"/oauth/revoke", isForm, form); got.status != http.StatusOK {
		t.Fatal(got)
	}
	f.wantToken(t, revoked, true)
	f.wantToken(t, other, false)
	late := follow(t, a, op, "https://localhost:"+port)
	late.wantToken(t, revoked, true)
	late.wantToken(t, other, false)

	disabled := true
	if _, err := op.PatchClient(t.Context(), "robot", client.ClientPatch{Disabled: &disabled}); err != nil {
		t.Fatal(err)
	}
	f.wantToken(t, other, true)
	if _, err := op.Revoke(t.Context(), serialInHex(cert), client.Revocation{}); err != nil {
		t.Fatal(err)
	}
	f.wantCertificate(t, cert, true)
}

func serialInHex(cert *x509.Certificate) string { return fmt.Sprintf("%032x", cert.SerialNumber) }

// claimsOf reads a token that was issued just now.
func claimsOf(t *testing.T, token string) *tokenbind.Claims {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatal("not a JWT")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		ID       string `json:"jti"`
		ClientID string `json:"client_id"`
		IssuedAt int64  `json:"iat"`
	}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	return &tokenbind.Claims{ID: c.ID, ClientID: c.ClientID, IssuedAt: time.Unix(c.IssuedAt, 0)}
}
