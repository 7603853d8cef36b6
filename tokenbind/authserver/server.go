// Package authserver is the authorization server: it registers and authenticates clients, and issues,
// introspects and revokes access tokens that are bound to the client's key.
//
// There is one grant, client_credentials, and one kind of token, a signed JWT (RFC 9068) that is not stored.
// A token is bound to the certificate of the TLS connection that asked for it (RFC 8705), to the key of a
// DPoP proof (RFC 9449), or to both. It dies before its time when it is revoked, when its client is disabled
// and when its certificate is revoked, because introspection asks for all three.
package authserver

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/pkid/pkid/internal/recent"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

// The paths of the endpoints, under Config.Issuer and Config.MTLSBase alike.
const (
	TokenPath      = "/oauth/token"
	IntrospectPath = "/oauth/introspect"
	RevokePath     = "/oauth/revoke"
	JWKSPath       = "/oauth/jwks"
)

const (
	defaultLifetime  = 5 * time.Minute
	maxLifetime      = time.Hour // long-lived tokens without a nonce are advised against (RFC 9449 section 11.2)
	defaultTolerance = 10 * time.Second
	maxTolerance     = time.Minute // FAPI 2.0 section 5.3.2.1 item 13
	proofMaxAge      = time.Minute
	nonceLifetime    = 5 * time.Minute
	fetchTimeout     = 5 * time.Second
)

// Config is what a Server needs. All of it is required but Intermediates, ProofsSince, Restored, Profile, RequireNonce, Limits and what has a default.
type Config struct {
	// Issuer is the origin of the public listener, such as https://pkid.example:8443, and the "iss" of tokens.
	Issuer string
	// MTLSBase is the origin of the listener that asks for client certificates.
	MTLSBase     string
	Registry     *Registry
	Certificates Certificates
	// Anchors are the certificates that tls_client_auth chains end in: those of the root and of the issuing
	// CAs. They are trusted by key, not by name. A certificate that verifies but is not among Certificates
	// is refused all the same: only this CA's own record says which client a certificate was issued to.
	Anchors func() *x509.CertPool
	// Intermediates may be nil. What a client sends beside its certificate is not used.
	Intermediates func() *x509.CertPool
	// Replay remembers DPoP proofs, and Assertions the client assertions, for all nodes.
	Replay     tokenbind.Replay
	Assertions tokenbind.Replay
	// ProofsSince is the instant from which on Replay knows of every proof; zero: it knows of all. A Replay in
	// memory costs no write to disk for each proof, and in return does not know, after a crash, what was used
	// before. Proofs that may have been are refused then, with a nonce that lets the client's next one in.
	ProofsSince time.Time
	// Restored is when the store was brought back from a backup; zero if it never was. No token from before counts:
	// it, its client or its certificate may have been revoked after the backup.
	Restored time.Time
	Revoked  RevokedTokens
	// Keys sign tokens: the first one does, and all are published, so that a key can be announced before and
	// kept after its time. SetKeys puts others in their place.
	Keys          []SigningKey
	TokenLifetime time.Duration // 5 minutes if zero; at most an hour
	// Profile holds every client to a security profile; a client's record can hold that client to it alone.
	Profile Profile
	// RequireNonce demands a nonce in every DPoP proof, unless the client's record says otherwise: see Nonce.
	RequireNonce bool
	NonceKey     []byte        // 32 octets, the same on all nodes
	Tolerance    time.Duration // how far a client's clock may be ahead: 10 seconds if zero; at most a minute
	// Limits may be nil: then no client is limited.
	Limits Limits
	// HTTPClient reads jwks_uri; http.DefaultClient if nil. Redirects are refused whatever it says.
	HTTPClient *http.Client
	Logger     *slog.Logger // slog.Default() if nil
	Now        func() time.Time
}

// Limits bound what one client may ask for, and hear of who tries what is not theirs.
type Limits interface {
	// Token takes a token from the allowance of a client that has authenticated. The error says that it has none
	// left; its RetryAfter method, if it has one, until when.
	Token(clientID string) error
	// Failed hears of a request whose credentials or proof were wrong.
	Failed(context.Context)
}

// Server is the authorization server. Its methods that take a request are http.HandlerFuncs.
type Server struct {
	c          Config
	keys       *atomic.Pointer[signingKeys]
	proofs     *tokenbind.ProofChecker
	fapiProofs *tokenbind.ProofChecker // of clients under FAPI2
	nonces     *tokenbind.Nonces
	vetted     *recent.Cache[thumbprint.Cert, vetted]
	registered *registeredKeys // in clients' records
	remote     *remoteKeys     // at clients' jwks_uri
	tokenURLs  []string
	metadata   []byte
}

// New validates c.
func New(c Config) (*Server, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("authserver: %w", err)
	}
	c.fill()
	nonces, err := tokenbind.NewNonces(c.NonceKey, "authorization server", nonceLifetime, c.Now)
	if err != nil {
		return nil, fmt.Errorf("authserver: %w", err)
	}
	s := &Server{
		c: c, keys: new(atomic.Pointer[signingKeys]), nonces: nonces, vetted: recent.New[thumbprint.Cert, vetted](maxVetted),
		remote: newRemoteKeys(c.HTTPClient, c.Now, c.Logger), registered: newRegisteredKeys(),
		tokenURLs: []string{c.Issuer + TokenPath, c.MTLSBase + TokenPath},
	}
	s.newProofCheckers()
	s.metadata, _ = json.Marshal(s.describe()) // texts always encode
	return s, s.SetKeys(c.Keys)
}

func (c *Config) validate() error {
	if c.Registry == nil || c.Certificates == nil || c.Anchors == nil || c.Replay == nil || c.Assertions == nil || c.Revoked == nil {
		return errors.New("Registry, Certificates, Anchors, Replay, Assertions and Revoked are required")
	}
	for name, origin := range map[string]string{"Issuer": c.Issuer, "MTLSBase": c.MTLSBase} {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "https" || u.Host == "" || origin != "https://"+u.Host {
			return fmt.Errorf("%s %q: want an origin such as https://pkid.example:8443", name, origin)
		}
	}
	if c.TokenLifetime < 0 || c.TokenLifetime > maxLifetime {
		return fmt.Errorf("TokenLifetime %s: want at most %s", c.TokenLifetime, maxLifetime)
	}
	if c.Tolerance < 0 || c.Tolerance > maxTolerance {
		return fmt.Errorf("Tolerance %s: want at most %s", c.Tolerance, maxTolerance)
	}
	if c.Profile == FAPI2 && c.Tolerance != 0 && c.Tolerance < fapiTolerance {
		return fmt.Errorf("Tolerance %s: profile %s wants at least %s (FAPI 2.0 section 5.3.2.1)", c.Tolerance, c.Profile, fapiTolerance)
	}
	return c.Profile.validate()
}

// fill sets what was left to its default.
func (c *Config) fill() {
	if c.TokenLifetime == 0 {
		c.TokenLifetime = defaultLifetime
	}
	if c.Tolerance == 0 {
		c.Tolerance = defaultTolerance
	}
	if c.Intermediates == nil {
		c.Intermediates = func() *x509.CertPool { return nil }
	}
	if c.HTTPClient == nil {
		c.HTTPClient = http.DefaultClient
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// call is one request to an endpoint that clients authenticate to.
type call struct {
	http     *http.Request
	header   http.Header // of the answer
	form     url.Values
	now      time.Time
	cert     *x509.Certificate // what the TLS handshake proved; nil if the client sent none
	x5t      thumbprint.Cert   // of cert; zero without one
	clientID string            // as claimed, for the log
}

// peerCertificate returns the certificate whose key the handshake proved (RFC 8705 section 2). A resumed
// session still has that of its first handshake.
func peerCertificate(r *http.Request) *x509.Certificate {
	if r.TLS == nil || !r.TLS.HandshakeComplete || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

// serve runs a POST endpoint: read and bound the request, handle it, answer. Nothing of it may be cached.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, handle func(*call) ([]byte, error)) {
	allowOrigins(w.Header())
	setHeaders(w.Header(), "Cache-Control", "no-store", "Pragma", "no-cache") // RFC 6749 section 5.1 asks for both
	if r.Method == http.MethodOptions {
		preflight(w)
		return
	}
	c := &call{http: r, header: w.Header(), now: s.c.Now(), cert: peerCertificate(r)}
	if c.cert != nil {
		c.x5t = thumbprint.OfCertificate(c.cert)
	}
	answer, err := s.run(w, c, handle)
	if err != nil {
		s.refuse(w, c, err)
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

func (s *Server) run(w http.ResponseWriter, c *call, handle func(*call) ([]byte, error)) ([]byte, error) {
	// A certificate in a header counts only from a trusted proxy, and whoever trusts one takes the header
	// away and puts the certificate into r.TLS before the request comes here.
	if name, found := tokenbind.ForwardedCertificate(c.http.Header); found {
		return nil, invalidRequest("header %s: a forwarded client certificate is taken from a trusted proxy only; "+
			"remove the header, or have the operator trust the proxy", name)
	}
	form, err := readForm(w, c.http)
	if err != nil {
		return nil, err
	}
	c.form = form
	return handle(c)
}
