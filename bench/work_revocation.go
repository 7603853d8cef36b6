package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/revocation"
	"github.com/pkid/pkid/tokenbind"
)

const (
	followers = 20 // verifiers
	audience  = "https://orders.example.com"
	giveUp    = 30 * time.Second // on a refusal
)

// revocations measures how long after the return of a call that revokes something each of many verifiers refuses it: with
// the stream of revocations, and where the CRL is polled alone.
func (b *bench) revocations(ctx context.Context) (err error) {
	pk, err := b.startPKID(ctx, "revocation")
	if err != nil {
		return err
	}
	defer pk.stop()
	r := &revoking{pkidServer: pk, api: pk.operator.API(), dir: filepath.Join(b.dir, "revoked-clients")}
	t := table{
		title: "From the return of a revocation to its refusal",
		text: fmt.Sprintf("%d verifiers in one process, each with its own connections; the daemon in another one. %d of each kind were revoked, one after "+
			"the other at random moments, and each verifier checks the same request every millisecond, so a figure is the sum of a delay and of "+
			"up to a millisecond. What was refused before the call returned counts as 0.", followers, b.sizes.revocations),
		head: []string{"what", "how it is known", "p50", "p99", "longest"},
	}
	for _, m := range []struct {
		what, how string
		follow    bool
		revoke    func(context.Context, *subject) error
	}{
		{"certificates", "stream", true, r.certificate},
		{"clients disabled", "stream", true, r.client},
		{"tokens", "stream", true, r.token},
		{"certificates", "CRL, polled every 500 ms", false, r.certificate},
	} {
		log.Printf("%s by %s", m.what, m.how)
		took, err := r.measure(ctx, b.sizes.revocations, m.follow, m.revoke)
		if err != nil {
			return fmt.Errorf("%s by %s: %w", m.what, m.how, err)
		}
		row := []string{m.what, m.how}
		for _, at := range []float64{0.50, 0.99, 1} {
			row = append(row, tidy(quantile(took, at)).String())
		}
		t.rows = append(t.rows, row)
		log.Printf("p50 %s, p99 %s, longest %s", row[2], row[3], row[4])
	}
	b.report.tables = append(b.report.tables, t)
	return nil
}

// revoking is a CA and those whom it takes something away from.
type revoking struct {
	*pkidServer
	api  *client.API
	dir  string
	made int
}

// subject is a client with a certificate and a token.
type subject struct {
	*client.Identity
	token string
}

func (r *revoking) enrol(ctx context.Context) (*subject, error) {
	name := fmt.Sprintf("revoked-%d", r.made)
	r.made++
	inv, err := r.api.Invite(ctx, client.InvitationRequest{ClientID: name, Resources: []string{audience}})
	if err != nil {
		return nil, err
	}
	token, err := client.ParseEnrolmentToken(inv.Token)
	if err != nil {
		return nil, err
	}
	id, err := client.Enroll(ctx, token, client.EnrollOptions{Dir: filepath.Join(r.dir, name)})
	if err != nil {
		return nil, err
	}
	source, err := client.NewTokenSource(client.TokenConfig{Identity: id, Resource: audience})
	if err != nil {
		return nil, err
	}
	access, err := source.Token(ctx)
	if err != nil {
		return nil, err
	}
	return &subject{id, access.AccessToken}, nil
}

func (r *revoking) certificate(ctx context.Context, s *subject) error {
	_, err := r.api.Revoke(ctx, fmt.Sprintf("%032x", s.Certificate().Leaf.SerialNumber), client.Revocation{})
	return err
}

func (r *revoking) client(ctx context.Context, s *subject) error {
	disabled := true
	_, err := r.api.PatchClient(ctx, s.Info().ClientID, client.ClientPatch{Disabled: &disabled})
	return err
}

// token has the client itself revoke its token (RFC 7009).
func (r *revoking) token(ctx context.Context, s *subject) error {
	form := url.Values{"token": {s.token}, "client_id": {s.Info().ClientID}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Info().URLs.MTLS+"/oauth/revoke", strings.NewReader(form))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	hc := s.HTTPClient()
	defer hc.CloseIdleConnections()
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("revoking a token: %s", resp.Status)
	}
	return nil
}

// measure revokes n times, and returns how long each verifier took each time.
func (r *revoking) measure(ctx context.Context, n int, follow bool, revoke func(context.Context, *subject) error) ([]time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	verifiers := make([]*resourceServer, followers)
	for i := range verifiers {
		var err error
		if verifiers[i], err = r.verifier(ctx, &running, follow); err != nil {
			return nil, err
		}
	}
	var took []time.Duration
	for range n {
		s, err := r.enrol(ctx)
		if err != nil {
			return nil, err
		}
		more, err := r.once(ctx, s, verifiers, revoke)
		if err != nil {
			return nil, err
		}
		took = append(took, more...)
	}
	return took, nil
}

// resourceServer is one, as docs/revocation.md has it.
type resourceServer struct {
	*tokenbind.Verifier
	follower *revocation.Follower // nil: none
}

func (r *revoking) verifier(ctx context.Context, running *sync.WaitGroup, follow bool) (*resourceServer, error) {
	issuers, err := r.api.Issuers(ctx)
	if err != nil {
		return nil, err
	}
	checker, err := crl.NewChecker(crl.CheckerConfig{Issuers: issuers})
	if err != nil {
		return nil, err
	}
	running.Go(func() { _ = checker.Run(ctx) })
	conf := tokenbind.Config{
		Issuer: r.operator.Info().URLs.Public, Audience: audience, HTTPClient: r.operator.HTTPClient(), Revocation: checker, NoDPoP: true,
	}
	var f *revocation.Follower
	if follow {
		if f, err = revocation.New(revocation.Config{Issuer: conf.Issuer, HTTPClient: r.operator.HTTPClient(), Checker: checker}); err != nil {
			return nil, err
		}
		running.Go(func() { _ = f.Run(ctx) })
		select {
		case <-f.Ready():
		case <-time.After(giveUp):
			return nil, fmt.Errorf("no stream: %w", f.Status().Err)
		}
		conf.Revocation, conf.Tokens = f, f
	}
	v, err := tokenbind.NewVerifier(conf)
	return &resourceServer{v, f}, err
}

// once revokes something of s that all verifiers accept, and waits until all refuse.
func (r *revoking) once(ctx context.Context, s *subject, verifiers []*resourceServer, revoke func(context.Context, *subject) error) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, giveUp)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, audience+"/", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.TLS = &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true, PeerCertificates: []*x509.Certificate{s.Certificate().Leaf}}
	for _, v := range verifiers {
		if _, err := v.Verify(req); err != nil {
			return nil, fmt.Errorf("before the revocation: %w", err)
		}
	}
	refused := make([]time.Time, len(verifiers))
	var waiting sync.WaitGroup
	for i, v := range verifiers {
		waiting.Go(func() { refused[i] = untilRefused(ctx, v.Verifier, req) })
	}
	time.Sleep(rand.N(500 * time.Millisecond)) // no moment between two polls is preferred
	err = revoke(ctx, s)
	done := time.Now()
	if err != nil {
		cancel()
	}
	waiting.Wait()
	took := make([]time.Duration, len(refused))
	for i, at := range refused {
		if at.IsZero() {
			err = errors.Join(err, verifiers[i].late())
		}
		took[i] = max(at.Sub(done), 0)
	}
	return took, err
}

// late says what a verifier that did not refuse knows.
func (v *resourceServer) late() error {
	if v.follower == nil {
		return errors.New("a verifier did not refuse in time")
	}
	return fmt.Errorf("a verifier did not refuse in time: %+v", v.follower.Status())
}

// untilRefused returns when a verifier began to refuse; zero if it did not.
func untilRefused(ctx context.Context, v *tokenbind.Verifier, req *http.Request) time.Time {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		_, err := v.Verify(req)
		switch {
		case ctx.Err() != nil:
			return time.Time{}
		case err != nil:
			return time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return time.Time{}
		}
	}
}

// quantile returns the shortest of all durations that so many of them do not exceed.
func quantile(all []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(math.Ceil(q*float64(len(sorted)))), len(sorted))-1]
}
