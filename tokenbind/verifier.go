package tokenbind

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/internal/recent"
	"github.com/pkid/pkid/thumbprint"
)

// Config sets up a Verifier. Audience is required, and Issuer; the zero value of every other field is safe.
type Config struct {
	// Issuer is the authorization server's identifier, compared as a string with the tokens' iss.
	Issuer string
	// Audience is this resource server's identifier; a token must name it in aud.
	Audience string
	// Keys that sign tokens. Nil: those that the issuer publishes, found through its metadata (RFC 8414),
	// fetched at the first request and refreshed as needed.
	Keys KeySource
	// HTTPClient fetches them; nil is a plain client with the system's roots. Redirects are not followed.
	HTTPClient *http.Client
	// InsecureIssuerHTTP allows an issuer with an http URL: whoever is on the network then makes tokens.
	InsecureIssuerHTTP bool

	// FAPI2 holds this server to the FAPI 2.0 Security Profile, sections 5.3.4 and 5.4: it takes bound tokens only, whose
	// revocation Tokens knows, over https, with its algorithms in tokens and proofs. What does not go with that is an error.
	FAPI2 bool
	// AllowBearer takes tokens that are bound to nothing. One with a cnf claim is never taken as such.
	AllowBearer bool
	// Algorithms of tokens; ES256, EdDSA and PS256 by default (FAPI 2.0 section 5.4).
	Algorithms []string
	// RequiredScopes must all be in the token's scope.
	RequiredScopes []string
	// Tolerance is how far clocks may be apart, for tokens and proofs; 10 s by default, at most 60 s.
	Tolerance time.Duration

	// ProofMaxAge is how old a DPoP proof may be, Tolerance apart; 60 s by default.
	ProofMaxAge time.Duration
	// Replay remembers the proofs of all nodes of this server. Nil, or a MemoryReplay: they are remembered in
	// memory, for a server of one node. Because a proof may have been used before a restart, those that were
	// made before the start (or up to Tolerance after it, by a fast clock) are then answered with
	// use_dpop_nonce and a nonce: a client that tries again with it is let in at once.
	Replay Replay
	// ReplaySince is the instant from which on Replay knows of every proof, where it is one that forgets what a crash
	// took: proofs from before are answered as above. Zero: it knows of all, unless it is a MemoryReplay.
	ReplaySince time.Time
	// MaxProofs bounds that memory; 1,000,000 by default, at some 150 octets each. While it is full, proofs
	// are answered with 503. The bound is for all clients together, so one that holds a bound token can fill
	// it for all by so many valid proofs within ProofMaxAge and twice Tolerance: let it be more than this
	// machine can verify in that time.
	MaxProofs int
	// MaxTokens bounds how many tokens that were verified are remembered, so that a token's signature costs
	// once; 16,384 by default, at some 2 KiB each for tokens as pkid makes them, the latest used first. A
	// negative number: none, and 1 is none too, because they are kept in two halves. Whatever may change between
	// two requests is judged on each: the token's lifetime, the issuer's keys, the certificate and its revocation,
	// the proof. Tokens beyond 4 KiB are not remembered.
	MaxTokens int
	// RequireNonce demands a nonce of ours in every proof (RFC 9449 section 9).
	RequireNonce bool
	// NonceKey is 32 octets that all nodes share. Nil: a random one, for a server of one node.
	NonceKey []byte
	// BaseURL is the public URL up to where the request's path begins, such as https://api.example.com: what
	// clients put before the path in a proof's htu. Empty: the origin of Audience, if that is an https URL.
	// One of the two is needed, or NoDPoP. The request's own Host is not asked, because whoever sends the
	// request chooses it: a proof that was made for another server, and stolen there, would fit here.
	BaseURL string
	// BaseURLs are those of a server that has several public hosts, in place of BaseURL. The Host of a request, or what a
	// trusted proxy tells of it, chooses among them; a proof is good at the one for which it was made.
	BaseURLs []string
	// NoDPoP refuses DPoP-bound tokens, for a server whose clients all have certificates.
	NoDPoP bool
	// InsecureHostFromRequest compares htu with the request's own Host and TLS instead. It is safe only where
	// something in front of this server refuses every Host that is not this server's.
	InsecureHostFromRequest bool

	// Revocation checks the client certificate of a certificate-bound token on every request. Nil: the
	// certificate's revocation is not checked here, and a token works until it expires.
	Revocation Revocation

	// Tokens checks on every request whether the token was revoked, or its client disabled. Nil: that is not checked here.
	Tokens TokenStatus
	// Proxies are those that TLS ends at, before this server. Nil: none is trusted, and what they would send is refused.
	Proxies *Proxies

	Logger *slog.Logger     // nil: slog.Default()
	Now    func() time.Time // nil: time.Now
}

// Verifier checks access tokens and what binds them to their holder. It is safe for concurrent use.
//
// It verifies the token (RFC 9068 section 4), and then whatever its cnf claim demands: the certificate of the
// connection, a DPoP proof, or both. It does NOT check the certificate's chain, which RFC 8705 section 6.2
// leaves to proof of possession, nor, without Config.Tokens, whether the token itself was revoked at the authorization
// server (RFC 7009); Config.Revocation makes it stop with its certificate. Tokens that passed are remembered, within the
// bounds of Config.MaxTokens.
type Verifier struct {
	conf      Config
	keys      KeySource
	proofs    *ProofChecker
	tokens    *recent.Cache[thumbprint.Token, *knownToken]
	tolerance time.Duration
	bases     []base // of proofs' htu; none with InsecureHostFromRequest and NoDPoP
}

const (
	maxProofs     = 1_000_000
	nonceLifetime = 2 * time.Minute
)

// NewVerifier checks the configuration. It does no I/O: keys are fetched when they are first needed.
func NewVerifier(c Config) (*Verifier, error) {
	if err := c.fill(); err != nil {
		return nil, fmt.Errorf("setting up a verifier: %w", err)
	}
	v := &Verifier{conf: c, keys: c.Keys, tokens: recent.New[thumbprint.Token, *knownToken](c.MaxTokens), tolerance: c.Tolerance}
	var err error
	if v.bases, err = c.bases(); err != nil {
		return nil, fmt.Errorf("setting up a verifier: %w", err)
	}
	if v.keys == nil {
		if v.keys, err = newRemoteKeys(c); err != nil {
			return nil, fmt.Errorf("setting up a verifier: %w", err)
		}
	}
	if v.proofs, err = newProofChecker(c); err != nil {
		return nil, fmt.Errorf("setting up a verifier: %w", err)
	}
	return v, nil
}

// fill sets the defaults and refuses what cannot be meant.
func (c *Config) fill() error {
	if c.Tolerance == 0 {
		c.Tolerance = 10 * time.Second
	}
	if c.ProofMaxAge == 0 {
		c.ProofMaxAge = time.Minute
	}
	if c.MaxProofs == 0 {
		c.MaxProofs = maxProofs
	}
	if c.MaxTokens == 0 {
		c.MaxTokens = maxTokens
	}
	if c.Algorithms == nil {
		c.Algorithms = FAPIAlgorithms()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	switch {
	case c.Issuer == "":
		return errors.New("no Issuer")
	case c.Audience == "":
		return errors.New("no Audience: a token for another server would be taken")
	case c.Tolerance < 0 || c.Tolerance > maxTolerance:
		return fmt.Errorf("a Tolerance of %v, it is at most %v", c.Tolerance, maxTolerance)
	case c.ProofMaxAge < 0:
		return fmt.Errorf("a ProofMaxAge of %v", c.ProofMaxAge)
	case c.MaxProofs < 0:
		return fmt.Errorf("MaxProofs is %d", c.MaxProofs)
	case len(c.Algorithms) == 0:
		return errors.New("no Algorithms")
	}
	for _, alg := range c.Algorithms {
		if !jws.Asymmetric(alg) {
			return fmt.Errorf("algorithm %q: only asymmetric signatures are taken", alg)
		}
	}
	return c.checkFAPI()
}

func newProofChecker(c Config) (*ProofChecker, error) {
	checker := &ProofChecker{MaxAge: c.ProofMaxAge, Tolerance: c.Tolerance, Replay: c.Replay, Since: c.ReplaySince, Now: c.Now}
	if c.FAPI2 {
		checker.Algorithms = FAPIAlgorithms()
	}
	if c.Replay == nil {
		checker.Replay = NewMemoryReplay(c.MaxProofs, c.Now)
	}
	if _, forgets := checker.Replay.(*MemoryReplay); forgets && checker.Since.IsZero() { // what an earlier process has seen
		checker.Since = c.Now()
	}
	if c.NonceKey == nil && c.RequireNonce {
		c.NonceKey = randomKey()
	}
	var err error
	if c.NonceKey != nil {
		checker.Nonces, err = NewNonces(c.NonceKey, "resource server "+c.Audience, nonceLifetime, c.Now)
	}
	return checker, err
}

func randomKey() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return key
}

// base is what stands before the path of a request in a proof's htu.
type base struct {
	prefix       string
	scheme, host string // of it, in normal form
}

// bases are the public URLs, or none if requests say them or no proof is ever looked at.
func (c *Config) bases() (list []base, err error) {
	urls := c.BaseURLs
	switch u, err := url.Parse(c.Audience); {
	case c.InsecureHostFromRequest && (c.BaseURL != "" || len(urls) > 0 || c.NoDPoP):
		return nil, errors.New("InsecureHostFromRequest goes neither with BaseURL nor with NoDPoP")
	case c.BaseURL != "" && len(urls) > 0:
		return nil, errors.New("both BaseURL and BaseURLs")
	case c.NoDPoP, c.InsecureHostFromRequest:
		return nil, nil
	case c.BaseURL != "":
		urls = []string{c.BaseURL}
	case len(urls) == 0 && err == nil && u.Scheme == "https" && u.Host != "":
		urls = []string{"https://" + u.Host}
	case len(urls) == 0:
		return nil, fmt.Errorf("no BaseURL, and Audience %q is no https URL: DPoP proofs could not be told from those for another server; "+
			"set BaseURL to this server's public URL, or NoDPoP", jws.Short(c.Audience))
	}
	for _, raw := range urls {
		b, err := baseURL(raw)
		if err != nil {
			return nil, fmt.Errorf("BaseURL: %w", err)
		}
		if slices.ContainsFunc(list, func(other base) bool { return other.host == b.host }) {
			return nil, fmt.Errorf("BaseURLs: %s is there twice, and the host alone tells them apart", b.host)
		}
		list = append(list, b)
	}
	return list, nil
}

// baseURL refuses what is not a plain prefix of URLs.
func baseURL(raw string) (base, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return base{}, err
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return base{}, errors.New("no query or fragment may stand in it")
	}
	if _, err := NormalURL(raw); err != nil {
		return base{}, err
	}
	host, err := normalHost(u)
	return base{strings.TrimSuffix(raw, "/"), u.Scheme, host}, err
}

// request is the check of one request under way.
type request struct {
	ctx context.Context
	v   *Verifier
	r   *http.Request
	t   trail
	now time.Time

	proxied bool // r is what a trusted proxy handed on

	// what the rules found so far
	scheme string
	token  string
	hash   thumbprint.Token // of a token that may be remembered
	seen   *knownToken      // if it was; then the claims are taken from it, and jws, alg, kid and key stay unset
	jws    *jws.Token
	alg    string
	kid    string
	key    crypto.PublicKey // that verified the token
	claims Claims
	cert   *x509.Certificate
	proof  *proofRun // if the token is bound to a DPoP key
}

// Verify checks a request's access token and everything that binds it. A refusal is an *Error. The request
// is to be as the client sent it: Method, Host, TLS, header and RequestURI, or URL where RequestURI is empty.
// A DPoP proof is used up by a success.
func (v *Verifier) Verify(r *http.Request) (*Claims, error) {
	q, err := v.verify(r)
	if err != nil {
		return nil, err
	}
	return &q.claims, nil
}

func (v *Verifier) verify(r *http.Request) (*request, error) {
	q := v.begin(r)
	if err := q.judge(); err != nil {
		return nil, err
	}
	return q, nil
}

// Explain checks a request by the same rules and reports each of them, those after a failure too as far as
// they can be judged. Like Verify it uses up a proof that passes.
func (v *Verifier) Explain(r *http.Request) []Check {
	q := v.begin(r)
	q.t.all = true
	_ = q.judge() // the error is that of a check which is in the list
	return q.t.checks
}

func (v *Verifier) begin(r *http.Request) *request {
	return &request{ctx: r.Context(), v: v, r: r, now: v.conf.Now()}
}

// judge walks all rules: those of the request, its token and its certificate, those of the proof, and the
// scope.
func (q *request) judge() error {
	if !walk(&q.t, requestRules, q) && !q.t.all {
		return newError(q.t.first, CodeInvalidToken, q.scheme)
	}
	if err := q.judgeProof(); err != nil {
		return err
	}
	if !walk(&q.t, scopeRules, q) {
		return newError(q.t.first, CodeInsufficientScope, q.scheme)
	}
	q.remember()
	return nil
}

func (q *request) judgeProof() error {
	if q.claims.Confirmation.Key.IsZero() && !q.t.stuck {
		q.t.note("DPoP proof", "RFC 9449 7", notApplicable("the token is not bound to a DPoP key"))
		return nil
	}
	run, err := q.v.proofs.run(q.ctx, ProofRequest{
		Headers:      q.r.Header.Values("DPoP"),
		Method:       q.r.Method,
		URLs:         q.requestURLs(),
		AccessToken:  q.token,
		Key:          q.claims.Confirmation.Key,
		RequireNonce: q.v.conf.RequireNonce,
	}, &q.t)
	if err != nil {
		return err
	}
	run.ath, q.proof = q.hash, run
	if walk(&q.t, proofRules, run) || q.t.all {
		return nil
	}
	e := newError(q.t.first, CodeInvalidProof, q.scheme)
	switch {
	case e.Check == checkKey: // as in the example of RFC 9449 section 7.1
		e.Code = CodeInvalidToken
	case e.Code == CodeUseNonce:
		e.Nonce = run.nonce()
	}
	e.err = run.refusal()
	return e
}

// requestURLs are what the absolute URL of a request may be as the client sees it: one, or none if it is for a host that
// is not this server's. RequestURI is preferred to URL, which handlers such as http.StripPrefix change.
func (q *request) requestURLs() []string {
	r, bases := q.r, q.v.bases
	u := r.URL
	if r.RequestURI != "" {
		if sent, err := url.ParseRequestURI(r.RequestURI); err == nil {
			u = sent
		}
	}
	host := r.Host
	if host == "" {
		host = u.Host
	}
	if len(bases) == 1 {
		return []string{bases[0].prefix + u.EscapedPath()}
	}
	for _, b := range bases {
		if named, err := normalHost(&url.URL{Scheme: b.scheme, Host: host}); err == nil && named == b.host {
			return []string{b.prefix + u.EscapedPath()}
		}
	}
	if len(bases) > 0 {
		return nil
	}
	scheme := "http" // InsecureHostFromRequest
	switch {
	case q.proxied:
		scheme = r.URL.Scheme
	case r.TLS != nil, r.RequestURI == "" && r.URL.Scheme == "https":
		scheme = "https"
	}
	return []string{scheme + "://" + host + u.EscapedPath()}
}
