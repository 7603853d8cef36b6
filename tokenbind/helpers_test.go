package tokenbind

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/thumbprint"
)

var testStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// clock is a clock that tests set.
type clock struct {
	mu sync.Mutex // guards t
	t  time.Time
}

func newClock(t time.Time) *clock { return &clock{t: t} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

type object = map[string]any

var b64 = base64.RawURLEncoding.EncodeToString

// compact signs a JWS with the standard library alone, so that the package is not its own witness. A header
// or payload may be any JSON text: a string is taken as it is.
func compact(t testing.TB, key crypto.Signer, header, payload any) string {
	t.Helper()
	alg := "ES256"
	switch key.(type) {
	case ed25519.PrivateKey:
		alg = "EdDSA"
	case *rsa.PrivateKey:
		alg = "PS256"
	}
	return compactAs(t, alg, key, header, payload)
}

// compactAs signs with an algorithm that is not the first choice for the key.
func compactAs(t testing.TB, alg string, key crypto.Signer, header, payload any) string {
	t.Helper()
	input := b64(jsonText(t, header)) + "." + b64(jsonText(t, payload))
	return input + "." + b64(rawSignature(t, alg, key, input))
}

func jsonText(t testing.TB, v any) []byte {
	t.Helper()
	if s, ok := v.(string); ok {
		return []byte(s)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func rawSignature(t testing.TB, alg string, key crypto.Signer, input string) []byte {
	t.Helper()
	var digest []byte
	if hash, hashed := hashes[alg]; hashed {
		h := hash.New()
		h.Write([]byte(input))
		digest = h.Sum(nil)
	}
	var sig []byte
	var err error
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, k, digest)
		if e != nil {
			t.Fatal(e)
		}
		n := (k.Params().BitSize + 7) / 8
		sig = append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...)
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, []byte(input))
	case *rsa.PrivateKey:
		if strings.HasPrefix(alg, "RS") {
			sig, err = rsa.SignPKCS1v15(rand.Reader, k, hashes[alg], digest)
		} else {
			sig, err = rsa.SignPSS(rand.Reader, k, hashes[alg], digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func ecKeyFor(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// testRSA is made once, because it takes a while.
var testRSA = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func jwkOf(t testing.TB, pub crypto.PublicKey) object {
	t.Helper()
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		n := (len(point) - 1) / 2
		return object{"kty": "EC", "crv": k.Params().Name, "x": b64(point[1 : 1+n]), "y": b64(point[1+n:])}
	case ed25519.PublicKey:
		return object{"kty": "OKP", "crv": "Ed25519", "x": b64(k)}
	case *rsa.PublicKey:
		return object{"kty": "RSA", "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
	}
	t.Fatalf("no JWK for %T", pub)
	return nil
}

// proofKit makes proofs for one request, and a checker that accepts them.
type proofKit struct {
	key     *ecdsa.PrivateKey
	jkt     thumbprint.Key
	clock   *clock
	checker *ProofChecker
	request ProofRequest
}

func newProofKit(t testing.TB) *proofKit {
	t.Helper()
	k := &proofKit{key: ecKeyFor(t), clock: newClock(testStart)}
	var err error
	if k.jkt, err = thumbprint.OfKey(k.key.Public()); err != nil {
		t.Fatal(err)
	}
	k.checker = &ProofChecker{Replay: NewMemoryReplay(1000, k.clock.Now), Now: k.clock.Now}
	k.request = ProofRequest{Method: "POST", URLs: []string{"https://as.example/token"}}
	return k
}

// proof makes one with fresh header and claims, changed by edit.
func (k *proofKit) proof(t testing.TB, edit ...func(header, claims object)) string {
	t.Helper()
	header := object{"typ": "dpop+jwt", "alg": "ES256", "jwk": jwkOf(t, k.key.Public())}
	claims := object{"jti": rand.Text(), "htm": "POST", "htu": "https://as.example/token", "iat": k.clock.Now().Unix()}
	for _, e := range edit {
		e(header, claims)
	}
	return compact(t, k.key, header, claims)
}

func (k *proofKit) check(t testing.TB, headers ...string) (*Proof, error) {
	t.Helper()
	r := k.request
	r.Headers = headers
	return k.checker.Check(t.Context(), r)
}

func (k *proofKit) accept(t testing.TB, headers ...string) *Proof {
	t.Helper()
	p, err := k.check(t, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// refuse wants the named check to fail, and the same from Explain.
func (k *proofKit) refuse(t testing.TB, check string, headers ...string) *ProofError {
	t.Helper()
	r := k.request
	r.Headers = headers
	checks, err := k.checker.Explain(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if first := firstFailure(checks); first.Name != check {
		t.Errorf("Explain fails at %q (%+v), want %q", first.Name, first, check)
	}
	_, err = k.check(t, headers...)
	refused, ok := errors.AsType[*ProofError](err)
	if !ok {
		t.Fatalf("want a ProofError at %q, got %v", check, err)
	}
	if refused.Check != check {
		t.Fatalf("refused at %q, want %q: %v", refused.Check, check, err)
	}
	if refused.Section == "" || refused.Code == "" {
		t.Errorf("incomplete: %+v", refused)
	}
	return refused
}

func firstFailure(checks []Check) Check {
	for _, c := range checks {
		if c.Result == Fail {
			return c
		}
	}
	return Check{}
}

// resourceKit is a verifier, an issuer whose tokens it takes, and a client with a certificate and a DPoP key.
type resourceKit struct {
	clock  *clock
	issuer *ecdsa.PrivateKey
	cert   tls.Certificate
	x5t    thumbprint.Cert
	proofs *Prover
	conf   Config
}

const (
	testIssuer   = "https://as.example"
	testAudience = "https://rs.example"
)

func newResourceKit(t testing.TB) *resourceKit {
	t.Helper()
	k := &resourceKit{clock: newClock(testStart), issuer: ecKeyFor(t)}
	k.cert = newCertificate(t, "client", testStart.Add(-time.Hour), testStart.Add(24*time.Hour))
	k.x5t = thumbprint.OfCertificate(k.cert.Leaf)
	var err error
	if k.proofs, err = NewProver(ecKeyFor(t)); err != nil {
		t.Fatal(err)
	}
	k.conf = Config{
		Issuer:   testIssuer,
		Audience: testAudience,
		Keys:     StaticKeys{{ID: "k1", Key: k.issuer.Public()}},
		Replay:   keeping{NewMemoryReplay(200_000, k.clock.Now)},
		Logger:   slog.New(slog.DiscardHandler),
		Now:      k.clock.Now,
	}
	return k
}

func newCertificate(t testing.TB, name string, notBefore, notAfter time.Time) tls.Certificate {
	t.Helper()
	key := ecKeyFor(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    notBefore,
		NotAfter:     notAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (k *resourceKit) verifier(t testing.TB, edit ...func(*Config)) *Verifier {
	t.Helper()
	c := k.conf
	for _, e := range edit {
		e(&c)
	}
	v, err := NewVerifier(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// token makes an access token with the given cnf (nil: none), changed by edit.
func (k *resourceKit) token(t testing.TB, cnf any, edit ...func(header, claims object)) string {
	t.Helper()
	now := k.clock.Now()
	header := object{"typ": "at+jwt", "alg": "ES256", "kid": "k1"}
	claims := object{
		"iss": testIssuer, "aud": testAudience, "sub": "alice", "client_id": "app", "jti": "t-1", "scope": "read write",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	if cnf != nil {
		claims["cnf"] = cnf
	}
	for _, e := range edit {
		e(header, claims)
	}
	return compact(t, k.issuer, header, claims)
}

func (k *resourceKit) certToken(t testing.TB) string {
	return k.token(t, object{"x5t#S256": k.x5t.String()})
}

func (k *resourceKit) dpopToken(t testing.TB) string {
	return k.token(t, object{"jkt": k.proofs.Key().String()})
}

// request is one that reached the server over TLS with the given certificates.
func (k *resourceKit) request(authorization string, certs ...*x509.Certificate) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://rs.example/things/1?page=2", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: certs}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return r
}

// dpopRequest is one with a token, the DPoP scheme and a fresh proof.
func (k *resourceKit) dpopRequest(t testing.TB, token string, o ProofOptions) *http.Request {
	t.Helper()
	r := k.request("DPoP " + token)
	if o.Now.IsZero() {
		o.Now = k.clock.Now()
	}
	o.AccessToken = token
	proof, err := k.proofs.Proof(http.MethodGet, "https://rs.example/things/1", o)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("DPoP", proof)
	return r
}

func accepts(t testing.TB, v *Verifier, r *http.Request) *Claims {
	t.Helper()
	claims, err := v.Verify(r)
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

// refuses wants a refusal with a status, a code and at a check, and the same from Explain.
func refuses(t testing.TB, v *Verifier, r *http.Request, status int, code, check string) *Error {
	t.Helper()
	if first := firstFailure(v.Explain(r)); first.Name != check {
		t.Errorf("Explain fails at %q (%+v), want %q", first.Name, first, check)
	}
	_, err := v.Verify(r)
	refused, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("want an Error at %q, got %v", check, err)
	}
	if refused.Status != status || refused.Code != code || refused.Check != check {
		t.Fatalf("got %d %q at %q, want %d %q at %q: %v", refused.Status, refused.Code, refused.Check, status, code, check, err)
	}
	return refused
}

// serve runs a request through the handler and returns the answer.
func serve(v *Verifier, r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	v.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })).ServeHTTP(w, r)
	return w.Result()
}

func parsed(t testing.TB, compact string) *jws.Token {
	t.Helper()
	j, err := jws.Parse(compact, nil)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// cutSignature returns what was signed, and the signature.
func cutSignature(t testing.TB, compact string) (string, []byte) {
	t.Helper()
	at := strings.LastIndex(compact, ".")
	sig, err := base64.RawURLEncoding.DecodeString(compact[at+1:])
	if err != nil {
		t.Fatal(err)
	}
	return compact[:at], sig
}

// challenges maps the schemes of an answer to their parameters.
func challenges(resp *http.Response) map[string]string {
	out := map[string]string{}
	for _, c := range resp.Header.Values("WWW-Authenticate") {
		scheme, params, _ := strings.Cut(c, " ")
		out[scheme] = params
	}
	return maps.Clone(out)
}

// keeping stands for a replay memory that outlives the process: a Verifier does not ask for nonces after a start.
type keeping struct{ *MemoryReplay }

// hintOf is the likely cause of a refusal.
func hintOf(t testing.TB, v *Verifier, authorization string, k *resourceKit, certs ...*x509.Certificate) string {
	t.Helper()
	_, err := v.Verify(k.request(authorization, certs...))
	refused, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("want an Error, got %v", err)
	}
	return refused.Hint
}
