package client

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

// Token is the token endpoint's answer (RFC 6749 section 5.1).
type Token struct {
	AccessToken string `json:"access_token"`
	Type        string `json:"token_type"`           // "Bearer", also when bound to a certificate (RFC 8705 section 3), or "DPoP"
	ExpiresIn   int64  `json:"expires_in,omitempty"` // seconds
	Scope       string `json:"scope,omitempty"`

	expiry time.Time
}

// TokenError is an OAuth error (RFC 6749 section 5.2).
type TokenError struct {
	Code        string `json:"error"`
	Description string `json:"error_description"`
	Status      int    `json:"-"`
}

func (e *TokenError) Error() string {
	if e.Description == "" {
		return e.Code
	}
	return e.Code + ": " + e.Description
}

// ErrTokenType reports a token endpoint that answered with a token of another kind than was asked for, such
// as one that is not bound to the DPoP key. The token is discarded (RFC 9449 section 5).
var ErrTokenType = errors.New("the token endpoint answered with another token_type than was asked for")

// TokenConfig describes a TokenSource. Identity, or ClientID with Secret, is needed.
type TokenConfig struct {
	Identity *Identity     // authenticates with its certificate (tls_client_auth), and binds the tokens to it
	Issuer   string        // of the authorization server; the identity's public URL if empty
	ClientID string        // the identity's if empty
	Secret   string        // for client_secret_basic, where there is no Identity
	DPoPKey  crypto.Signer // if set, tokens are bound to it (RFC 9449), and each request carries a proof
	Scopes   []string
	Resource string           // an RFC 8707 resource indicator
	Roots    *x509.CertPool   // for servers' certificates; the identity's root, or the system's, if nil
	Now      func() time.Time // time.Now if nil
}

// TokenSource fetches access tokens with the client credentials grant, keeps one until shortly before it
// expires, and sends it: it is an http.RoundTripper that authorises the requests that pass through it.
//
// A token, the certificate that it is bound to and the connections that show this certificate go together: a
// renewed certificate brings a new token over new connections (RFC 8705 sections 3 and 6.3). A request that is
// answered with 401 is sent again once with a new token if the old one was refused, and once with the
// server's nonce if it wants one (RFC 9449 sections 8 and 9), provided that its body can be read again.
//
// The token goes to the origin that the caller asked for, over https only, and never along with a redirect
// to another.
type TokenSource struct {
	c      TokenConfig
	prover *tokenbind.Prover // nil without DPoP
	nonces nonces
	turn   chan struct{} // holds one value; whoever takes it may use session and metadata
	session
	metadata *metadata
	refused  atomic.Pointer[Token] // the last one that a resource server did not take

	elsewhere struct { // for requests that a redirect led to another origin
		once      sync.Once
		transport *http.Transport
	}
}

// session is a certificate with the connections that show it and the token that is bound to it.
type session struct {
	cert  thumbprint.Cert // zero without an identity
	pair  *tls.Certificate
	hc    *http.Client
	token *Token
}

// metadata is what is used of RFC 8414's document. Of the aliases of RFC 8705 section 5, those of endpoints
// that a client does not call itself are not even read.
type metadata struct {
	Issuer        string `json:"issuer"`
	TokenEndpoint string `json:"token_endpoint"`
	Aliases       struct {
		TokenEndpoint string `json:"token_endpoint"`
	} `json:"mtls_endpoint_aliases"`

	expiry time.Time
}

const (
	metadataLifetime = time.Hour
	// tokenMargin is how long before its end a token is no longer used: the way to the resource server, and
	// its clock.
	tokenMargin = 15 * time.Second
)

// NewTokenSource checks c. It does not connect yet.
func NewTokenSource(c TokenConfig) (*TokenSource, error) {
	if c.Identity != nil {
		if c.Issuer == "" {
			c.Issuer = c.Identity.info.URLs.Public
		}
		if c.ClientID == "" {
			c.ClientID = c.Identity.info.ClientID
		}
		if c.Roots == nil {
			c.Roots = c.Identity.Roots()
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if u, err := url.Parse(c.Issuer); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("issuer %q is no https URL", c.Issuer)
	}
	if c.ClientID == "" || c.Identity == nil && c.Secret == "" {
		return nil, errors.New("a token source needs an identity, or a client id and its secret")
	}
	s := &TokenSource{c: c, turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	if c.DPoPKey != nil {
		prover, err := tokenbind.NewProver(c.DPoPKey)
		if err != nil {
			return nil, err
		}
		s.prover = prover
	}
	return s, nil
}

// Client returns an HTTP client whose requests s authorises.
func (s *TokenSource) Client() *http.Client { return &http.Client{Transport: s} }

// Token returns a token that is good for a while. Errors: a *TokenError with what the server says,
// ErrTokenType.
func (s *TokenSource) Token(ctx context.Context) (*Token, error) {
	now, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	copied := *now.token
	return &copied, nil
}

// current returns a token, the certificate that it is bound to and the client whose connections show that.
// A token that was refused is not returned again.
func (s *TokenSource) current(ctx context.Context) (session, error) {
	select {
	case <-s.turn:
		defer func() { s.turn <- struct{}{} }()
	case <-ctx.Done():
		return session{}, ctx.Err()
	}
	s.follow()
	if s.token != nil && s.token != s.refused.Load() && s.c.Now().Before(s.token.expiry) {
		return s.session, nil
	}
	token, err := s.fetch(ctx)
	if err != nil {
		return session{}, fmt.Errorf("getting a token for %s: %w", s.c.ClientID, err)
	}
	s.token = token
	return s.session, nil
}

// follow begins a new session if the certificate was renewed since the last one.
func (s *TokenSource) follow() {
	var cert *tls.Certificate
	var shown thumbprint.Cert
	if s.c.Identity != nil {
		cert = s.c.Identity.Certificate()
		shown = thumbprint.OfCertificate(cert.Leaf)
	}
	if s.hc != nil && s.cert == shown {
		return
	}
	if s.hc != nil {
		s.hc.CloseIdleConnections()
	}
	s.session = session{cert: shown, pair: cert, hc: newHTTPClient(showing(cert, s.c.Roots))}
}

// fetch asks for a token, a second time if the server wants its nonce in the proof.
func (s *TokenSource) fetch(ctx context.Context) (*Token, error) {
	endpoint, err := s.tokenEndpoint(ctx)
	if err != nil {
		return nil, err
	}
	token, err := s.ask(ctx, endpoint)
	if oauth, ok := errors.AsType[*TokenError](err); ok && oauth.Code == useNonce && s.prover != nil {
		token, err = s.ask(ctx, endpoint)
	}
	return token, err
}

func (s *TokenSource) ask(ctx context.Context, endpoint string) (*Token, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {s.c.ClientID}} // RFC 8705 section 2
	if len(s.c.Scopes) > 0 {
		form.Set("scope", strings.Join(s.c.Scopes, " "))
	}
	if s.c.Resource != "" {
		form.Set("resource", s.c.Resource)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if s.c.Secret != "" {
		req.SetBasicAuth(url.QueryEscape(s.c.ClientID), url.QueryEscape(s.c.Secret)) // RFC 6749 section 2.3.1
	}
	if err := s.prove(req.Header, authorizationServer, "", req.Method, req.URL); err != nil {
		return nil, err
	}
	asked := s.c.Now()
	resp, err := s.hc.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	s.nonces.learn(authorizationServer, req.URL, resp.Header)
	text, err := readBody(resp)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, tokenErrorOf(resp, text)
	}
	return s.accept(text, asked)
}

// accept reads a token. One of another kind than was asked for is discarded (RFC 9449 section 5).
func (s *TokenSource) accept(text []byte, asked time.Time) (*Token, error) {
	t := new(Token)
	if err := json.Unmarshal(text, t); err != nil || t.AccessToken == "" {
		return nil, errors.New("the token endpoint's answer holds no token")
	}
	want := "Bearer"
	if s.prover != nil {
		want = "DPoP"
	}
	if !strings.EqualFold(t.Type, want) {
		return nil, fmt.Errorf("%w: %q, not %q", ErrTokenType, t.Type, want)
	}
	const year = 365 * 24 * 60 * 60 // and no overflow where a server means "for ever"
	lifetime := time.Duration(min(max(t.ExpiresIn, 0), year)) * time.Second
	t.expiry = asked.Add(lifetime - min(tokenMargin, lifetime/4))
	return t, nil
}

func tokenErrorOf(resp *http.Response, text []byte) error {
	e := &TokenError{Status: resp.StatusCode}
	if err := json.Unmarshal(text, e); err != nil || e.Code == "" {
		return problemOf(resp, text)
	}
	return e
}

// tokenEndpoint discovers where to ask: at the mTLS alias if there is a certificate to show (RFC 8705 section 5).
func (s *TokenSource) tokenEndpoint(ctx context.Context) (string, error) {
	if s.metadata == nil || s.c.Now().After(s.metadata.expiry) {
		m, err := s.discover(ctx)
		if err != nil {
			return "", err
		}
		s.metadata = m
	}
	endpoint := s.metadata.TokenEndpoint
	if alias := s.metadata.Aliases.TokenEndpoint; alias != "" && s.c.Identity != nil {
		endpoint = alias
	}
	if u, err := url.Parse(endpoint); err != nil || u.Scheme != "https" {
		return "", fmt.Errorf("%s names no token endpoint over https", s.c.Issuer)
	}
	return endpoint, nil
}

// discover reads the metadata, whose address has the issuer's path after the well-known part, and believes it
// only if it names the issuer exactly (RFC 8414 sections 3 and 3.3).
func (s *TokenSource) discover(ctx context.Context) (*metadata, error) {
	u, err := url.Parse(s.c.Issuer)
	if err != nil {
		return nil, err
	}
	u.Path = "/.well-known/oauth-authorization-server" + strings.TrimSuffix(u.Path, "/")
	m := &metadata{expiry: s.c.Now().Add(metadataLifetime)}
	if err := call(ctx, s.hc, http.MethodGet, u.String(), nil, nil, m); err != nil {
		return nil, err
	}
	if m.Issuer != s.c.Issuer {
		return nil, fmt.Errorf("%s says that its issuer is %q, not %q: check the issuer's URL", u, m.Issuer, s.c.Issuer)
	}
	return m, nil
}
