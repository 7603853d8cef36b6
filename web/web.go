// Package web is everything that the daemon says over HTTP: every route in one table, the handlers behind
// them, the table that maps errors to answers, the OpenAPI document and the operator's console.
//
// Handlers hold no logic: they decode a request, call the package that decides, and encode what it
// returned. An error goes up as it is and becomes an RFC 9457 problem document in one place.
package web

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/feed"
	"github.com/pkid/pkid/internal/rollover"
	"github.com/pkid/pkid/ocsp"
	"github.com/pkid/pkid/tokenbind"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// Check is one thing that must hold for the daemon to be of use; /readyz runs them all.
type Check struct {
	Name string
	Run  func(context.Context) error
}

// Config is what a Server needs. All of it is required but Snapshot, OCSP, Feed, RootCRL, RootCRLs, Checks, Limits, Metrics, Logger and Now.
type Config struct {
	Authority *ca.Authority
	Enroll    *enroll.Service
	OAuth     *authserver.Server
	Clients   *authserver.Registry
	CRL       *crl.Publisher
	Audit     AuditLog
	// Explain says what a resource server makes of a request, which the first argument describes.
	Explain  func(client.Presented, *http.Request) (*client.Explanation, error)
	Verify   http.Handler // of sub-requests by which proxies ask whether a request may pass; it knows whom to tell
	Snapshot Snapshot     // nil: the store is not a file of the daemon's
	RootCRL  []byte       // DER, the status of the issuing CA itself, signed by who signed its certificate; nil: published elsewhere, or nowhere
	// RootCRLs returns newer ones, and those of other roots and intermediates; nil: there are none.
	RootCRLs  func() []*x509.RevocationList
	Issuers   *rollover.Issuers
	TokenKeys *rollover.Tokens
	OCSP      *ocsp.Responder // nil: none
	URLs      client.URLs     // as the world reaches the listeners
	Name      string          // of this CA, for people
	Checks    []Check         // for /readyz, beside the store and the CRL
	Logger    *slog.Logger
	Now       func() time.Time

	Feed *feed.Feed // nil: no revocations are streamed
	// Proxies may speak for their clients, but for operators; nil: nobody may.
	Proxies *tokenbind.Proxies
	Limits  *Limits           // nil: nothing is limited
	Metrics []func(io.Writer) // what others measure, in the text format of /metrics
}

// Server makes one handler for each listener of the daemon. All of them may be used at once.
type Server struct {
	c       Config
	log     *slog.Logger
	now     func() time.Time
	table   []Route
	pages   map[string]*template.Template
	metrics *metrics

	underWay map[Listener]*underWay
	streams  map[Listener]*streams

	snapshots snapshots

	rootCRL *x509.RevocationList
	trusts  sync.Map // issuer's id -> []byte, what trust returns for it
}

// New validates c and parses what the handlers need, so that nothing is left to fail later.
func New(c Config) (*Server, error) {
	switch {
	case c.Authority == nil, c.Enroll == nil, c.OAuth == nil, c.Clients == nil, c.CRL == nil, c.Audit == nil, c.Explain == nil, c.Verify == nil, c.Issuers == nil, c.TokenKeys == nil:
		return nil, errors.New("web: Authority, Enroll, OAuth, Clients, CRL, Audit, Explain, Verify, Issuers and TokenKeys are required")
	case c.URLs.Public == "", c.URLs.MTLS == "", c.URLs.Status == "":
		return nil, errors.New("web: URLs of the public, mtls and status listeners are required")
	}
	rootCRL, err := parseRootCRL(c.RootCRL, c.Authority.Issuers())
	if err != nil {
		return nil, err
	}
	s := &Server{c: c, log: c.Logger, now: c.Now, rootCRL: rootCRL}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.pages, err = parsePages(); err != nil {
		return nil, fmt.Errorf("web: %w", err)
	}
	if s.c.Limits == nil {
		s.c.Limits = NewLimits(LimitsConfig{})
	}
	s.underWay = map[Listener]*underWay{Public: {}, MTLS: {}, Status: {}, Ops: {}}
	s.streams = map[Listener]*streams{Public: {}, MTLS: {}}
	s.table, s.metrics = s.routes(), newMetrics()
	return s, nil
}

// parseRootCRL reads the CRL of a root or an intermediate of one of the issuing CAs.
func parseRootCRL(der []byte, issuers []*ca.Issuer) (*x509.RevocationList, error) {
	if der == nil {
		return nil, nil
	}
	list, err := x509.ParseRevocationList(der)
	for _, i := range issuers {
		if err != nil {
			break
		}
		if list.CheckSignatureFrom(i.Above()) == nil || list.CheckSignatureFrom(i.Root) == nil {
			return list, nil
		}
	}
	return nil, fmt.Errorf("web: the root's CRL: %w", cmp.Or(err, errors.New("no CA above the issuing ones has signed it")))
}

// Public serves the REST API, OAuth and discovery over TLS without client certificates.
func (s *Server) Public() http.Handler { return s.listener(Public) }

// MTLS serves the same, with client certificates, and the console. The TLS server must ask for a certificate
// without naming acceptable CAs, and must not refuse one that it cannot verify: the handlers look every
// certificate up in the CA's own records.
func (s *Server) MTLS() http.Handler { return s.listener(MTLS) }

// Status serves CRLs and issuer certificates over plain HTTP, as relying parties expect them.
func (s *Server) Status() http.Handler { return s.listener(Status) }

// Ops serves metrics and health checks. It belongs on an address that only the operator reaches.
func (s *Server) Ops() http.Handler { return s.listener(Ops) }
