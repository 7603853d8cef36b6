package authserver

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

// clock is a hand-set clock.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time          { c.mu.Lock(); defer c.mu.Unlock(); return c.at }
func (c *clock) advance(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.at = c.at.Add(d) }

// memClients is a ClientStore in memory. conflicts makes the next writes fail as if another node was faster.
type memClients struct {
	mu        sync.Mutex
	records   map[string]Client
	events    []audit.Event
	conflicts int
	err       error
}

func (m *memClients) Client(_ context.Context, id string) (*Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	c, ok := m.records[id]
	if !ok {
		return nil, ErrNoClient
	}
	return &c, nil
}

func (m *memClients) PutClient(_ context.Context, c Client, ev audit.Event) (*Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conflicts > 0 || m.records[c.ID].Version != c.Version {
		m.conflicts = max(m.conflicts-1, 0)
		return nil, ErrConflict
	}
	c.Version++
	m.records[c.ID] = c
	m.events = append(m.events, ev)
	return &c, nil
}

func (m *memClients) Clients(_ context.Context, after string, limit int) ([]*Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*Client
	for _, id := range slices.Sorted(maps.Keys(m.records)) {
		if c := m.records[id]; id > after && len(out) < limit {
			out = append(out, &c)
		}
	}
	return out, nil
}

type memRevoked struct {
	mu     sync.Mutex
	ids    map[string]time.Time
	events []audit.Event
	err    error
}

func (m *memRevoked) RevokeToken(_ context.Context, jti string, until time.Time, ev audit.Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ids[jti] = until
	m.events = append(m.events, ev)
	return m.err
}

func (m *memRevoked) TokenRevoked(_ context.Context, jti string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.ids[jti].IsZero(), m.err
}

type memCertificates struct {
	mu  sync.Mutex
	all map[thumbprint.Cert]CertificateStatus
	err error
}

func (m *memCertificates) Certificate(_ context.Context, cert *x509.Certificate) (*CertificateStatus, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	status, ok := m.all[thumbprint.OfCertificate(cert)]
	if !ok && m.err == nil {
		return nil, ErrNoCertificate
	}
	return &status, m.err
}

func (m *memCertificates) Revoked(_ context.Context, t thumbprint.Cert) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all[t].Revoked, m.err
}

func (m *memCertificates) revoke(c tls.Certificate) {
	m.set(c, func(s *CertificateStatus) { s.Revoked = true })
}

func (m *memCertificates) set(c tls.Certificate, change func(*CertificateStatus)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := thumbprint.OfCertificate(c.Leaf)
	status := m.all[t]
	change(&status)
	m.all[t] = status
}

// testCA signs whatever it is asked to.
type testCA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newCA(tb testing.TB, name string, now time.Time) *testCA {
	tb.Helper()
	key := newKey(tb)
	made := sign(tb, nil, key, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return &testCA{made.Leaf, key}
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// sign makes a certificate; without a CA it is self-signed.
func sign(tb testing.TB, ca *testCA, key crypto.Signer, template *x509.Certificate) tls.Certificate {
	tb.Helper()
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	parent, parentKey := template, key
	if ca != nil {
		parent, parentKey = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// leafTemplate is what the CA's client profile issues.
func leafTemplate(name string, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
}

// house is an authorization server behind a real TLS listener, with a CA.
type house struct {
	testing.TB
	*Server
	config   Config
	url      string
	registry *Registry
	clients  *memClients
	certs    *memCertificates
	revoked  *memRevoked
	ca       *testCA
	anchors  *x509.CertPool
	clock    *clock
	log      *bytes.Buffer
	logMu    sync.Mutex     // guards log
	roots    *x509.CertPool // of the listener's own certificate
}

func newHouse(tb testing.TB, options ...func(*Config)) *house {
	tb.Helper()
	h := &house{
		TB: tb, clock: &clock{at: time.Now()}, log: &bytes.Buffer{}, anchors: x509.NewCertPool(), roots: x509.NewCertPool(),
		clients: &memClients{records: map[string]Client{}}, revoked: &memRevoked{ids: map[string]time.Time{}},
		certs: &memCertificates{all: map[thumbprint.Cert]CertificateStatus{}},
	}
	h.ca = newCA(tb, "Test CA", h.clock.now())
	h.anchors.AddCert(h.ca.cert)
	var err error
	if h.registry, err = NewRegistry(RegistryConfig{Store: h.clients, DataKey: make([]byte, 32), Now: h.clock.now}); err != nil {
		tb.Fatal(err)
	}
	mux := http.NewServeMux()
	srv := httptest.NewUnstartedServer(mux)
	// No list of acceptable CAs (A15), and no certificate is no error (A16).
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	tb.Cleanup(srv.Close)
	h.url = srv.URL
	h.roots.AddCert(srv.Certificate())
	h.config = Config{
		Issuer: srv.URL, MTLSBase: "https://mtls.example", Registry: h.registry, Certificates: h.certs,
		Anchors: func() *x509.CertPool { return h.anchors }, Revoked: h.revoked,
		Replay: tokenbind.NewMemoryReplay(1_000_000, h.clock.now), Assertions: tokenbind.NewMemoryReplay(1_000_000, h.clock.now),
		Keys: []SigningKey{{Key: newKey(tb), Algorithm: "ES256"}}, NonceKey: make([]byte, 32), Now: h.clock.now,
		Logger: slog.New(slog.NewJSONHandler(lockedWriter{&h.logMu, h.log}, nil)),
	}
	for _, option := range options {
		option(&h.config)
	}
	if h.Server, err = New(h.config); err != nil {
		tb.Fatal(err)
	}
	mux.HandleFunc(TokenPath, h.Token)
	mux.HandleFunc(IntrospectPath, h.Server.Introspect)
	mux.HandleFunc(RevokePath, h.Revoke)
	mux.HandleFunc(JWKSPath, h.JWKS)
	mux.HandleFunc("/.well-known/oauth-authorization-server", h.Metadata)
	return h
}

type lockedWriter struct {
	mu *sync.Mutex
	w  *bytes.Buffer
}

func (h *house) logged() string {
	h.logMu.Lock()
	defer h.logMu.Unlock()
	return h.log.String()
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// issue has the CA sign a certificate for a client, and record it.
func (h *house) issue(clientID string, template *x509.Certificate) tls.Certificate {
	h.Helper()
	made := sign(h, h.ca, newKey(h), template)
	h.record(clientID, made)
	return made
}

func (h *house) record(clientID string, c tls.Certificate) {
	h.certs.mu.Lock()
	defer h.certs.mu.Unlock()
	h.certs.all[thumbprint.OfCertificate(c.Leaf)] = CertificateStatus{Serial: c.Leaf.SerialNumber.Text(16), ClientID: clientID}
}

// enrol makes a client with a certificate, as an invitation does.
func (h *house) enrol(id string) tls.Certificate {
	h.Helper()
	if err := h.registry.Enrol(h.Context(), id, []string{"read", "write"}, nil); err != nil {
		h.Fatal(err)
	}
	return h.issue(id, leafTemplate(id, h.clock.now()))
}

// add registers a client and returns its secret.
func (h *house) add(c Client) string {
	h.Helper()
	if c.Scopes == nil {
		c.Scopes = []string{"read", "write"}
	}
	_, secret, err := h.registry.Add(h.Context(), c)
	if err != nil {
		h.Fatal(err)
	}
	return secret
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   map[string]any
}

func (a answer) text(member string) string { s, _ := a.body[member].(string); return s }

// option changes a request, or the client that sends it.
type option func(*http.Request, *tls.Config)

func presenting(c tls.Certificate) option {
	return func(_ *http.Request, t *tls.Config) { t.Certificates = []tls.Certificate{c} }
}

func basic(id, secret string) option {
	return func(r *http.Request, _ *tls.Config) { r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret)) }
}

func header(name string, values ...string) option {
	return func(r *http.Request, _ *tls.Config) { r.Header[http.CanonicalHeaderKey(name)] = values }
}

// post sends a form given as pairs of name and value.
func (h *house) post(path string, form []string, options ...option) answer {
	h.Helper()
	values := url.Values{}
	for i := 0; i+1 < len(form); i += 2 {
		values.Add(form[i], form[i+1])
	}
	req, err := http.NewRequestWithContext(h.Context(), http.MethodPost, h.url+path, strings.NewReader(values.Encode()))
	if err != nil {
		h.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return h.send(req, options...)
}

func (h *house) send(req *http.Request, options ...option) answer {
	h.Helper()
	conf := &tls.Config{RootCAs: h.roots}
	for _, o := range options {
		o(req, conf)
	}
	transport := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	return h.via(transport, req)
}

func (h *house) via(transport http.RoundTripper, req *http.Request) answer {
	h.Helper()
	res, err := transport.RoundTrip(req)
	if err != nil {
		h.Fatal(err)
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode, header: res.Header, body: map[string]any{}}
	if res.ContentLength != 0 {
		if err := json.NewDecoder(res.Body).Decode(&a.body); err != nil {
			h.Fatalf("status %d, body: %v", res.StatusCode, err)
		}
	}
	return a
}

// token asks for one; the form pairs come after the grant type.
func (h *house) token(form []string, options ...option) answer {
	h.Helper()
	return h.post(TokenPath, append([]string{"grant_type", "client_credentials"}, form...), options...)
}

func clientID(id string) []string { return []string{"client_id", id} }

// mustIssue wants a token and returns it with its claims.
func mustIssue(tb testing.TB, a answer) (token string, claims map[string]any) {
	tb.Helper()
	if a.status != http.StatusOK || a.text("access_token") == "" {
		tb.Fatalf("status %d, %v; want a token", a.status, a.body)
	}
	token = a.text("access_token")
	return token, decodeSegment(tb, token, 1)
}

func decodeSegment(tb testing.TB, token string, i int) map[string]any {
	tb.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[i])
	if err != nil {
		tb.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		tb.Fatal(err)
	}
	return m
}

// mustRefuse wants an error answer whose description holds a text.
func mustRefuse(tb testing.TB, a answer, status int, code, part string) {
	tb.Helper()
	if a.status != status || a.text("error") != code || !strings.Contains(a.text("error_description"), part) {
		tb.Fatalf("status %d, %v; want %d, %s, %q", a.status, a.body, status, code, part)
	}
	if a.header.Get("Cache-Control") != "no-store" {
		tb.Fatalf("an error answer may be cached: %q", a.header)
	}
}

// mustFail wants the one answer that failed authentication has, and the cause in the log alone.
func (h *house) mustFail(a answer, cause string) {
	h.Helper()
	mustRefuse(h, a, 401, "invalid_client", "client authentication failed: ")
	lines := strings.Split(strings.TrimSpace(h.logged()), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(last, cause) {
		h.Errorf("the log lacks %q: %s", cause, last)
	}
	if strings.Contains(a.text("error_description"), cause) {
		h.Errorf("the answer tells the cause: %s", a.text("error_description"))
	}
}

// prover makes proofs for the token endpoint.
type prover struct {
	*house
	*tokenbind.Prover
}

func (h *house) prover() *prover {
	h.Helper()
	p, err := tokenbind.NewProver(newKey(h))
	if err != nil {
		h.Fatal(err)
	}
	return &prover{h, p}
}

func (p *prover) proof(nonce string) string {
	p.Helper()
	proof, err := p.Proof(http.MethodPost, p.url+TokenPath, tokenbind.ProofOptions{Nonce: nonce, Now: p.clock.now()})
	if err != nil {
		p.Fatal(err)
	}
	return proof
}

func (h *house) introspect(token, id, secret string) answer {
	h.Helper()
	return h.post(IntrospectPath, []string{"token", token}, basic(id, secret))
}

// member reads a nested member, such as cnf, x5t#S256.
func member(m map[string]any, path ...string) any {
	var v any = m
	for _, name := range path {
		inner, _ := v.(map[string]any)
		v = inner[name]
	}
	return v
}
