package web

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/rollover"
	"github.com/pkid/pkid/internal/stepca"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// fixture is a whole server over a real store, real keys and real TLS connections.
type fixture struct {
	*Server
	t                         testing.TB
	store                     stores
	log                       *logBuffer
	public, mtls, status, ops *httptest.Server
	admin                     tls.Certificate
	limits                    *Limits
	rootKey                   crypto.Signer
}

// wide are limits that no test reaches by chance, and that all are in force.
var wide = LimitsConfig{
	UnderWay: 1000, AtOnce: 64, Wait: time.Second, CertificatesPerAddress: 1e9, CertificatesPerClient: 1e9,
	TokensPerAddress: 1e9, TokensPerClient: 1e9, FailuresPerAddress: 1e6,
}

// stores are all that a server keeps.
type stores interface {
	ca.Store
	enroll.Store
	authserver.ClientStore
	authserver.RevokedTokens
	tokenbind.Replay
	keyring.Store
	crl.Store
	crl.Revocations
	Audit(ctx context.Context, after uint64, limit int) ([]audit.Entry, error)
	AuditHead(ctx context.Context) (audit.Head, error)
	audit.Archive
	Close() error
}

// logBuffer collects the log of handlers that run at once.
type logBuffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	store := must[*boltstore.Store](t)(boltstore.Open(filepath.Join(t.TempDir(), "pkid.db"), boltstore.Options{Create: true}))
	t.Cleanup(func() { store.Close() })
	return newFixtureOver(t, store, wide)
}

func newFixtureOver(t testing.TB, store stores, limits LimitsConfig) *fixture {
	t.Helper()
	f := &fixture{t: t, store: store, log: &logBuffer{}, limits: NewLimits(limits)}
	f.start()
	f.setup()
	f.admin = f.certificate("admin", enroll.OperatorProfile)
	return f
}

// start opens the listeners first, since their URLs stand in what is signed.
func (f *fixture) start() {
	handler := func(pick func() http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { pick().ServeHTTP(w, r) })
	}
	f.public = httptest.NewTLSServer(handler(func() http.Handler { return f.Public() }))
	f.mtls = httptest.NewUnstartedServer(handler(func() http.Handler { return f.MTLS() }))
	f.mtls.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	f.mtls.StartTLS()
	f.status = httptest.NewServer(handler(func() http.Handler { return f.Status() }))
	f.ops = httptest.NewServer(handler(func() http.Handler { return f.Ops() }))
	for _, s := range []*httptest.Server{f.public, f.mtls, f.status, f.ops} {
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
		f.t.Cleanup(s.Close)
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (f *fixture) setup() {
	t := f.t
	rootKey, issuerKey, tokenKey := must[crypto.Signer](t)(stepca.GenerateKey(ca.P256)), must[crypto.Signer](t)(stepca.GenerateKey(ca.P256)), must[crypto.Signer](t)(stepca.GenerateKey(ca.P256))
	spec := stepca.CeremonySpec{Name: "Test", RootCRLURL: f.status.URL + "/crl/root.crl", RootAIAURL: f.status.URL + "/issuers/root.crt"}
	root := must[*x509.Certificate](t)(stepca.CreateRoot(spec, rootKey))
	cert := must[*x509.Certificate](t)(stepca.CreateIssuer(spec, root, rootKey, issuerKey.Public()))
	rootCRL := must[[]byte](t)(stepca.CreateRootCRL(root, rootKey, big.NewInt(1), time.Now(), cert.NotAfter))
	signer := must[*stepca.Signer](t)(stepca.NewSigner(cert, issuerKey))
	id := ca.IssuerID(cert)
	issuer := &ca.Issuer{Signer: signer, Root: root, CRLURL: f.status.URL + "/crl/" + id + ".crl", AIAURL: f.status.URL + "/issuers/" + id + ".crt", OCSPURL: f.status.URL + "/ocsp"}

	var publisher *crl.Publisher
	authority := must[*ca.Authority](t)(ca.New(ca.Config{
		Issuer: issuer, Store: f.store, Profiles: profiles(t),
		Changed: func(issuer string, shard uint32) { publisher.Changed(crl.Shard{Issuer: issuer, Number: shard}) },
	}))
	publisher = must[*crl.Publisher](t)(crl.NewPublisher(crl.PublisherConfig{
		Shards: []crl.PublishedShard{
			{Shard: crl.Shard{Issuer: id}, URL: issuer.CRLURL, DeltaURL: crl.DeltaURL(issuer.CRLURL), Issuer: cert},
			{Shard: crl.Shard{Issuer: id, Number: 1}, URL: issuer.CRLURLOf(1), DeltaURL: crl.DeltaURL(issuer.CRLURLOf(1)), Issuer: cert},
		},
		Store: f.store, Revocations: f.store, Signer: authority, Logger: slog.New(slog.DiscardHandler),
	}))
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var background sync.WaitGroup
	background.Go(func() { publisher.Run(ctx) })
	t.Cleanup(func() { cancel(); background.Wait() })

	dataKey := make([]byte, 32)
	rand.Read(dataKey)
	registry := must[*authserver.Registry](t)(authserver.NewRegistry(authserver.RegistryConfig{Store: f.store, DataKey: dataKey}))
	anchors := x509.NewCertPool()
	anchors.AddCert(cert)
	oauth := must[*authserver.Server](t)(authserver.New(authserver.Config{
		Issuer: f.public.URL, MTLSBase: f.mtls.URL, Registry: registry, Certificates: known{authority},
		Anchors: func() *x509.CertPool { return anchors }, Replay: f.store, Assertions: f.store, Revoked: f.store,
		Keys: []authserver.SigningKey{{Key: tokenKey, Algorithm: "ES256"}}, NonceKey: dataKey, Limits: f.limits, Logger: slog.New(slog.DiscardHandler),
	}))
	passphrase := []byte("a passphrase")
	issuers := rollover.NewIssuers(rollover.IssuersConfig{
		Store: f.store, First: issuer, Passphrase: passphrase, Name: "Test", ListLifetime: time.Hour,
		URLs: func(id string) (crl, aia string) {
			return f.status.URL + "/crl/" + id + ".crl", f.status.URL + "/issuers/" + id + ".crt"
		},
	})
	kid := must[thumbprint.Key](t)(thumbprint.OfKey(tokenKey.Public()))
	tokens := must[*rollover.Tokens](t)(rollover.NewTokens(rollover.TokensConfig{
		Store: f.store, Passphrase: passphrase, Configured: []rollover.TokenKey{{ID: kid.String(), Algorithm: "ES256", Key: tokenKey}},
	}))
	f.rootKey = rootKey
	f.Server = must[*Server](t)(New(Config{
		Issuers: issuers, TokenKeys: tokens, Verify: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Asked", r.Method+" "+r.RequestURI) }),
		Explain:   explainWith(oauth, f.public.URL),
		Authority: authority,
		Enroll:    must[*enroll.Service](t)(enroll.New(enroll.Config{Authority: authority, Store: f.store, Clients: registry, Allow: f.limits.Certificate})),
		Limits:    f.limits, OAuth: oauth, Clients: registry, CRL: publisher, Audit: auditLog{f.store}, RootCRL: rootCRL, Name: "Test CA",
		OCSP:   newOCSP(t, authority, issuerKey),
		URLs:   client.URLs{Public: f.public.URL, MTLS: f.mtls.URL, Status: f.status.URL},
		Logger: slog.New(slog.NewJSONHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}))
}

func profiles(t testing.TB) []*ca.Profile {
	t.Helper()
	every := []string{"*"}
	policy := must[ca.NamePolicy](t)(stepca.NewNamePolicy(stepca.NameRules{CommonNames: every, DNS: every}))
	var out []*ca.Profile
	for _, name := range []string{"client", enroll.OperatorProfile} {
		out = append(out, must[*ca.Profile](t)(ca.NewProfile(ca.ProfileConfig{
			Name: name, Lifetime: time.Hour, MaxLifetime: 24 * time.Hour,
			KeyTypes: []ca.KeyType{ca.P256}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, Policy: policy,
		})))
	}
	return out
}

// known tells the authorization server what the CA knows.
type known struct{ *ca.Authority }

func (k known) Certificate(ctx context.Context, cert *x509.Certificate) (*authserver.CertificateStatus, error) {
	rec, err := k.Lookup(ctx, cert)
	if err != nil {
		return nil, authserver.ErrNoCertificate
	}
	return &authserver.CertificateStatus{Serial: rec.Serial.String(), ClientID: rec.ClientID, Revoked: rec.Revocation != nil}, nil
}

// certificate issues one past enrolment, with its key.
func (f *fixture) certificate(clientID, profile string) tls.Certificate {
	f.t.Helper()
	key := must[crypto.Signer](f.t)(stepca.GenerateKey(ca.P256))
	proven := must[ca.ProvenKey](f.t)(ca.ProveOwn(key))
	issued := must[*ca.Issued](f.t)(f.c.Authority.Issue(f.t.Context(), ca.Request{
		Profile: profile, ClientID: clientID, Names: ca.Names{CommonName: clientID}, Key: proven,
	}))
	leaf := must[*x509.Certificate](f.t)(x509.ParseCertificate(issued.Record.DER))
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, issued.Chain[0].Raw}, PrivateKey: key, Leaf: leaf}
}

func serialOf(c tls.Certificate) string {
	s, _ := ca.SerialOf(c.Leaf.SerialNumber)
	return s.String()
}

// newCSR makes a request over a fresh key.
func newCSR(t testing.TB) (pemText string, key crypto.Signer) {
	t.Helper()
	key = must[crypto.Signer](t)(stepca.GenerateKey(ca.P256))
	der := must[[]byte](t)(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), key
}

// answer is a response with its body read.
type answer struct {
	*http.Response
	body string
}

// request is what a test sends. The zero Method is GET.
type request struct {
	method, url, body string
	header            http.Header
	cert              *tls.Certificate
}

// do sends r, and holds what came back against the OpenAPI document.
func (f *fixture) do(r request) answer {
	f.t.Helper()
	if r.method == "" {
		r.method = http.MethodGet
	}
	req := must[*http.Request](f.t)(http.NewRequestWithContext(f.t.Context(), r.method, r.url, strings.NewReader(r.body)))
	if r.header != nil {
		req.Header = r.header
	}
	if r.body != "" && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp := must[*http.Response](f.t)(f.http(r.cert).Do(req))
	defer resp.Body.Close()
	body := must[[]byte](f.t)(io.ReadAll(resp.Body))
	checkContract(f.t, r, req, resp, body)
	return answer{resp, string(body)}
}

func (f *fixture) http(cert *tls.Certificate) *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(f.public.Certificate())
	pool.AddCert(f.mtls.Certificate())
	config := &tls.Config{RootCAs: pool}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// operator sends a request with the operator's certificate.
func (f *fixture) operate(method, path, body string) answer {
	f.t.Helper()
	return f.do(request{method: method, url: f.mtls.URL + path, body: body, cert: &f.admin})
}

// want fails the test unless the answer has that status, and decodes it into v, if given.
func (a answer) want(t testing.TB, status int, v any) answer {
	t.Helper()
	if a.StatusCode != status {
		t.Fatalf("%s %s: status %d, want %d: %s", a.Request.Method, a.Request.URL, a.StatusCode, status, a.body)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(a.body), v); err != nil {
			t.Fatalf("%s %s: %v: %s", a.Request.Method, a.Request.URL, err, a.body)
		}
	}
	return a
}

// problem fails the test unless the answer is that problem.
func (a answer) problem(t *testing.T, status int, kind string) *client.Problem {
	t.Helper()
	p := &client.Problem{}
	a.want(t, status, p)
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q, want application/problem+json", got)
	}
	if p.Type != "urn:pkid:problem:"+kind || p.Status != status {
		t.Errorf("problem %s (%d), want %s (%d): %s", p.Type, p.Status, kind, status, p.Detail)
	}
	if p.RequestID == "" || p.RequestID != a.Header.Get("X-Request-Id") {
		t.Errorf("request id %q in the body, %q in the header", p.RequestID, a.Header.Get("X-Request-Id"))
	}
	return p
}

// invite makes an invitation through the API.
func (f *fixture) invite(clientID string) client.Invitation {
	f.t.Helper()
	var inv client.Invitation
	f.operate("POST", "/v1/invitations", `{"client_id":"`+clientID+`","sans":["`+clientID+`.example.com"]}`).want(f.t, http.StatusCreated, &inv)
	return inv
}

// enrol sends a CSR with an enrolment token.
func (f *fixture) enrol(token, csr string, header ...string) answer {
	f.t.Helper()
	h := http.Header{"Authorization": {"Bearer " + token}}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	body := csr
	if h.Get("Content-Type") == "" {
		body = string(must[[]byte](f.t)(json.Marshal(client.CSR{CSR: csr})))
	}
	return f.do(request{method: "POST", url: f.public.URL + "/v1/certificates", body: body, header: h})
}

func form(values ...string) string {
	v := url.Values{}
	for i := 0; i+1 < len(values); i += 2 {
		v.Set(values[i], values[i+1])
	}
	return v.Encode()
}

// auditLog drops what it is asked to drop.
type auditLog struct{ stores }

func (l auditLog) ArchiveAudit(ctx context.Context, upTo audit.Head) (audit.Head, error) {
	if _, err := l.DropAudit(ctx, upTo, 1000); err != nil {
		return audit.Head{}, err
	}
	return l.AuditBase(ctx)
}
