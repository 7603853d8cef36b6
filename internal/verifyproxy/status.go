package verifyproxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/revocation"
	"github.com/pkid/pkid/tokenbind"
)

// status knows what was revoked: tokenbind.Revocation and tokenbind.TokenStatus. It begins without knowing the CA's
// issuers, so that a process starts while the CA is away, and knows nothing good of anybody until it has them.
type status struct {
	issuer string
	roots  []*x509.Certificate
	http   *http.Client
	log    *slog.Logger
	known  atomic.Pointer[knowledge]
}

// knowledge is there once the issuers are.
type knowledge struct {
	checker  *crl.Checker
	follower *revocation.Follower
}

var (
	errNoIssuers = errors.New("the CA was not reached yet, and its issuers are not known")
	errNoCRL     = errors.New("a CRL is missing, or past its nextUpdate")
)

func (s *status) Check(ctx context.Context, cert *x509.Certificate) error {
	k := s.known.Load()
	if k == nil {
		return fmt.Errorf("%w: %w", tokenbind.ErrUnavailable, errNoIssuers)
	}
	return k.follower.Check(ctx, cert)
}

func (s *status) CheckToken(ctx context.Context, claims *tokenbind.Claims) error {
	k := s.known.Load()
	if k == nil {
		return fmt.Errorf("%w: %w", tokenbind.ErrUnavailable, errNoIssuers)
	}
	return k.follower.CheckToken(ctx, claims)
}

// ready says what is missing.
func (s *status) ready() error {
	k := s.known.Load()
	if k == nil {
		return errNoIssuers
	}
	if st := k.follower.Status(); !st.Ready {
		if st.Err != nil {
			return fmt.Errorf("%w: %w", revocation.ErrNotReady, st.Err)
		}
		return revocation.ErrNotReady
	}
	for _, list := range k.checker.Status() {
		if list.Number == 0 || time.Now().After(list.NextUpdate) {
			return fmt.Errorf("%w: %s", errNoCRL, list.URL)
		}
	}
	return nil
}

func (s *status) writeMetrics(w io.Writer) {
	if k := s.known.Load(); k != nil {
		k.follower.WriteMetrics(w)
	}
}

// run learns the issuers, and then follows what is revoked until ctx ends.
func (s *status) run(ctx context.Context) {
	const first, most = 200 * time.Millisecond, 10 * time.Second
	for wait := first; ; wait = min(2*wait, most) {
		k, err := s.open(ctx)
		if err == nil {
			s.known.Store(k)
			var following sync.WaitGroup
			following.Go(func() { _ = k.checker.Run(ctx) }) // both return nil
			following.Go(func() { _ = k.follower.Run(ctx) })
			following.Wait()
			return
		}
		if ctx.Err() != nil {
			return
		}
		s.log.Error("the CA's issuers cannot be had; every request is refused until they are", "issuer", s.issuer, "cause", err)
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return
		}
	}
}

func (s *status) open(ctx context.Context) (*knowledge, error) {
	api := client.NewAPI(s.issuer, s.roots...)
	ca, err := api.CA(ctx)
	if err != nil {
		return nil, err
	}
	issuers, err := ca.VerifiedIssuers(s.roots...)
	if err != nil {
		return nil, err
	}
	c := crl.CheckerConfig{Issuers: issuers, Learn: api.Issuers, Logger: s.log}
	for _, cert := range issuers {
		issuer := ca.IssuerOf(cert)
		for _, u := range issuer.CRLs() {
			p := crl.Point{Issuer: cert, URL: u}
			if issuer.WholeCRL {
				p.URL, p.From = "", u
			}
			c.Points = append(c.Points, p)
		}
	}
	checker, err := crl.NewChecker(c)
	if err != nil {
		return nil, err
	}
	follower, err := revocation.New(revocation.Config{Issuer: s.issuer, HTTPClient: s.http, Checker: checker, Logger: s.log})
	if err != nil {
		return nil, err
	}
	return &knowledge{checker, follower}, nil
}

// trusting is a client for the issuer. It asks by HTTP/1.1, as the stream wants it.
func trusting(roots []*x509.Certificate) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: tokenbind.CipherSuites(), RootCAs: poolOf(roots)}
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	return &http.Client{Transport: transport}
}
