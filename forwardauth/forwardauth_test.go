package forwardauth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

const (
	issuer  = "https://as.example"
	orders  = "https://orders.example"
	billing = "https://billing.example"
)

// house is an issuer, a client with a certificate and a DPoP key, and a Handler for two resource servers.
type house struct {
	*Handler
	t      testing.TB
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	prover *tokenbind.Prover
	seen   []Outcome
}

// keeping stands for a replay memory that outlives the process: no nonces are asked for after the start.
type keeping struct{ *tokenbind.MemoryReplay }

// headers is a Receiver that believes everybody, save those who say that they are strangers.
type headers struct{ cert *x509.Certificate }

func (h headers) ReceiveCheck(r *http.Request) (*http.Request, error) {
	if r.Header.Get("Stranger") != "" {
		return nil, errors.New(`forwarded header refused: "10.0.0.1" is no trusted proxy`)
	}
	out := r.Clone(r.Context())
	out.Method = r.Header.Get("X-Forwarded-Method")
	out.RequestURI = r.Header.Get("X-Forwarded-Uri")
	var err error
	if out.URL, err = url.ParseRequestURI(out.RequestURI); err != nil {
		return nil, err
	}
	out.TLS = &tls.ConnectionState{}
	if r.Header.Get("Cert") != "" {
		out.TLS.PeerCertificates = []*x509.Certificate{h.cert}
	}
	return out, nil
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newHouse(t testing.TB, edit ...func(*Config)) *house {
	t.Helper()
	h := &house{t: t, key: newKey(t)}
	own := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, own.Public(), own)
	if err != nil {
		t.Fatal(err)
	}
	if h.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if h.prover, err = tokenbind.NewProver(newKey(t)); err != nil {
		t.Fatal(err)
	}
	server := func(name, audience string, scopes ...string) Server {
		return Server{Name: name, Config: tokenbind.Config{
			Issuer: issuer, Audience: audience, RequiredScopes: scopes,
			Keys: tokenbind.StaticKeys{{ID: "k", Key: h.key.Public()}}, Logger: slog.New(slog.DiscardHandler),
		}}
	}
	c := Config{
		Proxies: headers{h.cert}, Servers: []Server{server("orders", orders), server("billing", billing, "pay")},
		Replay: keeping{tokenbind.NewMemoryReplay(1000, nil)}, Logger: slog.New(slog.DiscardHandler),
		Observe: func(_ *http.Request, o Outcome) { h.seen = append(h.seen, o) },
	}
	for _, e := range edit {
		e(&c)
	}
	if h.Handler, err = New(c); err != nil {
		t.Fatal(err)
	}
	return h
}

// token is an access token for both servers; edit changes its claims.
func (h *house) token(cnf map[string]string, edit ...func(map[string]any)) string {
	h.t.Helper()
	claims := map[string]any{
		"iss": issuer, "aud": []string{orders, billing}, "sub": "alice", "client_id": "app", "jti": "t1", "scope": "read pay",
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(), "cnf": cnf,
	}
	for _, e := range edit {
		e(claims)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		h.t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64([]byte(`{"alg":"ES256","kid":"k","typ":"at+jwt"}`)) + "." + b64(payload)
	signature, err := jws.Sign(h.key, "ES256", []byte(input))
	if err != nil {
		h.t.Fatal(err)
	}
	return input + "." + b64(signature)
}

func (h *house) mtlsToken(edit ...func(map[string]any)) string {
	return h.token(map[string]string{"x5t#S256": thumbprint.OfCertificate(h.cert).String()}, edit...)
}

func (h *house) dpopToken() string {
	return h.token(map[string]string{"jkt": h.prover.Key().String()})
}

func (h *house) proof(method, target, token string) string {
	h.t.Helper()
	proof, err := h.prover.Proof(method, target, tokenbind.ProofOptions{AccessToken: token})
	if err != nil {
		h.t.Fatal(err)
	}
	return proof
}

// ask sends a sub-request with headers in pairs.
func (h *house) ask(method, target string, headers ...string) *http.Response {
	h.t.Helper()
	r := httptest.NewRequestWithContext(h.t.Context(), method, target, nil)
	r.Header.Set("X-Forwarded-Method", "GET")
	r.Header.Set("X-Forwarded-Uri", "/orders/17?x=1")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func wants(t testing.TB, resp *http.Response, status int) {
	t.Helper()
	if resp.StatusCode != status {
		t.Fatalf("status %d, want %d: %v", resp.StatusCode, status, resp.Header)
	}
	if resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("Cache-Control %q", resp.Header.Get("Cache-Control"))
	}
}

// TestSevenCases: what a proxy hears of the clients there are.
func TestSevenCases(t *testing.T) {
	h := newHouse(t)
	mtls, dpop := "Bearer "+h.mtlsToken(), h.dpopToken()
	other := "Bearer " + h.token(map[string]string{"x5t#S256": thumbprint.Cert{1}.String()})
	proof := h.proof("GET", orders+"/orders/17", dpop)
	for _, c := range []struct {
		name    string
		headers []string
		status  int
		code    string
	}{
		{"right certificate", []string{"Authorization", mtls, "Cert", "1"}, 200, ""},
		{"another's", []string{"Authorization", other, "Cert", "1"}, 401, "invalid_token"},
		{"none", []string{"Authorization", mtls}, 401, "invalid_token"},
		{"no token", []string{"Cert", "1"}, 401, ""},
		{"dpop", []string{"Authorization", "DPoP " + dpop, "DPoP", proof}, 200, ""},
		{"replay", []string{"Authorization", "DPoP " + dpop, "DPoP", proof}, 401, "invalid_dpop_proof"},
		{"as bearer", []string{"Authorization", "Bearer " + dpop}, 401, "invalid_token"},
	} {
		resp := h.ask("GET", "/v1/verify?audience="+orders, c.headers...)
		wants(t, resp, c.status)
		challenge := strings.Join(resp.Header.Values("WWW-Authenticate"), ", ")
		if c.status == 401 && !strings.Contains(challenge, "DPoP algs=") || c.code != "" && !strings.Contains(challenge, `error="`+c.code+`"`) {
			t.Errorf("%s: challenge %q, want %s", c.name, challenge, c.code)
		}
		last := h.seen[len(h.seen)-1]
		if last.Server != "orders" || last.Status != c.status || (last.Err == nil) != (c.status == 200) || (last.Claims != nil) != (c.status == 200) {
			t.Errorf("%s: observed %+v", c.name, last)
		}
	}
}

// TestIdentity: an answer has every header, so that a proxy overwrites what the client sends of them.
func TestIdentity(t *testing.T) {
	h := newHouse(t)
	x5t := thumbprint.OfCertificate(h.cert).String()
	token := h.mtlsToken(func(c map[string]any) {
		c["sub"], c["client_id"], c["exp"] = "a\r\nPkid-Scope: all\x00é%", "-", 1<<33
		delete(c, "scope")
	})
	resp := h.ask("GET", "/v1/verify?audience="+orders, "Authorization", "Bearer "+token, "Cert", "1")
	wants(t, resp, 200)
	for name, want := range map[string]string{
		HeaderSubject: "a%0D%0APkid-Scope:%20all%00%C3%A9%25", HeaderClientID: "%2D", HeaderScope: "-", HeaderTokenID: "t1",
		HeaderExpires: "8589934592", HeaderBinding: "mtls", HeaderThumbprint: x5t, HeaderJKT: "-",
	} {
		if got := resp.Header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, name := range Headers() {
		if resp.Header.Get(name) == "" {
			t.Errorf("%s is not there", name)
		}
	}
	if resp.ContentLength > 0 {
		t.Errorf("a body of %d octets", resp.ContentLength)
	}

	both := h.token(map[string]string{"x5t#S256": x5t, "jkt": h.prover.Key().String()})
	resp = h.ask("GET", "/v1/verify/orders", "Authorization", "DPoP "+both, "DPoP", h.proof("GET", orders+"/orders/17", both), "Cert", "1")
	wants(t, resp, 200)
	if got := resp.Header.Get(HeaderBinding); got != "mtls dpop" || resp.Header.Get(HeaderJKT) != h.prover.Key().String() || resp.Header.Get(HeaderScope) != "read pay" {
		t.Errorf("two members: %v", resp.Header)
	}

	long := h.mtlsToken(func(c map[string]any) { c["sub"] = strings.Repeat("é", 600) })
	resp = h.ask("GET", "/v1/verify/orders", "Authorization", "Bearer "+long, "Cert", "1")
	wants(t, resp, 500)
	if resp.Header.Get(HeaderClientID) != "" {
		t.Error("who is refused is named")
	}
}

// TestParameters: the query narrows, and what is not the proxy's is refused.
func TestParameters(t *testing.T) {
	h := newHouse(t)
	auth := []string{"Authorization", "Bearer " + h.mtlsToken(), "Cert", "1"}
	for target, status := range map[string]int{
		"/v1/verify/orders":                                   200,
		"/v1/verify/orders?scope=read&scope=pay+read":         200,
		"/v1/verify/orders?scope=read+delete":                 403,
		"/v1/verify/orders?audience=" + orders:                200,
		"/v1/verify/orders?audience=" + billing:               404,
		"/v1/verify?audience=" + billing:                      200,
		"/v1/verify/billing?scope=delete":                     403,
		"/v1/verify?audience=https://x":                       404,
		"/v1/verify/nobody":                                   404,
		"/v1/verify/nobody/path":                              404,
		"/v1/verify/":                                         404,
		"/v1/verifyorders":                                    404,
		"/v1/verify":                                          400, // which?
		"/v1/verify/orders?audience=a&audience=b":             400,
		"/v1/verify/orders?page=2":                            400, // the client's own query
		"/v1/verify/orders?scope=%22":                         400,
		"/v1/verify/orders?scope=" + strings.Repeat("s+", 33): 400,
		"/v1/verify/orders?bad_request=200":                   400,
		"/v1/verify/orders?a;b":                               400,
	} {
		if resp := h.ask("POST", target, auth...); resp.StatusCode != status {
			t.Errorf("%s: status %d, want %d", target, resp.StatusCode, status)
		}
	}
}

// TestF14_Prefixed: under a prefix the sub-request is the client's request, whose method and path count, and whose query
// and headers choose nothing.
func TestF14_Prefixed(t *testing.T) {
	h := newHouse(t)
	token := h.dpopToken()
	ask := func(method, target, htm, htu string) *http.Response {
		return h.ask(method, target, "Authorization", "DPoP "+token, "DPoP", h.proof(htm, htu, token), "X-Original-Uri", "/other")
	}
	wants(t, ask("PUT", "/v1/verify/orders/a%2Fb/17?scope=delete&audience=x&bad_request=401", "PUT", orders+"/a%2Fb/17"), 200)
	wants(t, ask("GET", "/v1/verify/orders/", "GET", orders+"/"), 200)
	wants(t, ask("GET", "/v1/verify/orders//x", "GET", orders+"//x"), 200)
	wants(t, ask("GET", "/v1/verify/orders/17", "PUT", orders+"/17"), 401)
	wants(t, ask("PUT", "/v1/verify/orders/17", "PUT", orders+"/other"), 401)
	wants(t, ask("PUT", "/v1/verify/orders/17", "PUT", orders+"/v1/verify/orders/17"), 401)
	wants(t, ask("PUT", "/v1/verify/billing/17", "PUT", orders+"/17"), 401)
	wants(t, h.ask("GET", "/v1/verify/orders/17?access_token=x", "Authorization", "Bearer "+h.mtlsToken(), "Cert", "1"), 400)
}

// TestF14_SubRequest: it is the client's method and URL that a proof must have, not those of the sub-request.
func TestF14_SubRequest(t *testing.T) {
	h := newHouse(t)
	token := h.dpopToken()
	for proof, status := range map[string]int{
		h.proof("PATCH", orders+"/orders/17", token):                              200,
		h.proof("GET", orders+"/orders/17", token):                                401,
		h.proof("PATCH", orders+"/orders/18", token):                              401,
		h.proof("GET", "http://example.com/v1/verify?audience="+orders, token):    401,
		h.proof("PATCH", "https://example.com/v1/verify?audience="+orders, token): 401,
	} {
		resp := h.ask("GET", "/v1/verify?audience="+orders, "Authorization", "DPoP "+token, "DPoP", proof, "X-Forwarded-Method", "PATCH")
		wants(t, resp, status)
	}
}

// TestReplayIsShared: one proof, used where other scopes are demanded or another name is used, is one proof.
func TestReplayIsShared(t *testing.T) {
	h := newHouse(t)
	token := h.dpopToken()
	auth := []string{"Authorization", "DPoP " + token, "DPoP", h.proof("GET", orders+"/orders/17", token)}
	wants(t, h.ask("GET", "/v1/verify/orders?scope=read", auth...), 200)
	for _, target := range []string{"/v1/verify/orders?scope=pay", "/v1/verify/orders", "/v1/verify?audience=" + orders, "/v1/verify/orders/orders/17"} {
		resp := h.ask("GET", target, auth...)
		wants(t, resp, 401)
		if c := strings.Join(resp.Header.Values("WWW-Authenticate"), ""); !strings.Contains(c, "replay") {
			t.Errorf("%s: %s", target, c)
		}
	}
	shared := func(c *Config) { // the same resource server under another audience
		c.Servers[1].BaseURL, c.Servers[1].RequiredScopes = orders, nil
	}
	h = newHouse(t, shared)
	token = h.dpopToken()
	auth = []string{"Authorization", "DPoP " + token, "DPoP", h.proof("GET", orders+"/orders/17", token)}
	wants(t, h.ask("GET", "/v1/verify/orders", auth...), 200)
	wants(t, h.ask("GET", "/v1/verify/billing", auth...), 401)
}

// TestNonce: the challenge for a nonce gets through, and so does the next nonce with a success.
func TestNonce(t *testing.T) {
	now := time.Now()
	h := newHouse(t, func(c *Config) {
		for i := range c.Servers {
			c.Servers[i].RequireNonce, c.Servers[i].Now = true, func() time.Time { return now }
		}
	})
	token := h.dpopToken()
	ask := func(nonce string) *http.Response {
		proof, err := h.prover.Proof("GET", orders+"/orders/17", tokenbind.ProofOptions{AccessToken: token, Nonce: nonce, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		return h.ask("GET", "/v1/verify/orders?scope=read", "Authorization", "DPoP "+token, "DPoP", proof)
	}
	resp := ask("")
	wants(t, resp, 401)
	nonce := resp.Header.Get("DPoP-Nonce")
	if c := strings.Join(resp.Header.Values("WWW-Authenticate"), ""); nonce == "" || !strings.Contains(c, `error="use_dpop_nonce"`) {
		t.Fatalf("nonce %q, %s", nonce, c)
	}
	resp = ask(nonce)
	wants(t, resp, 200)
	if resp.Header.Get("DPoP-Nonce") != "" {
		t.Error("the same nonce again")
	}
	now = now.Add(2 * time.Minute)
	resp = ask(nonce)
	wants(t, resp, 200)
	if next := resp.Header.Get("DPoP-Nonce"); next == "" || next == nonce {
		t.Errorf("no new nonce: %q", next)
	}
}

// TestBadRequest: nginx knows 401 and 403 alone.
func TestBadRequest(t *testing.T) {
	h := newHouse(t)
	for _, headers := range [][]string{
		{"Authorization", "Bearer x, DPoP y"},
		{"X-Forwarded-Uri", "/?access_token=x"},
		{"Stranger", "1"},
	} {
		wants(t, h.ask("GET", "/v1/verify/orders", headers...), 400)
		resp := h.ask("GET", "/v1/verify/orders?bad_request=401", headers...)
		wants(t, resp, 401)
		if c := resp.Header.Values("WWW-Authenticate"); len(c) != 1 || !strings.Contains(c[0], "Bearer ") || !strings.Contains(c[0], ", DPoP ") {
			t.Errorf("%v: %v", headers, resp.Header)
		}
		if last := h.seen[len(h.seen)-1]; last.Status != 401 {
			t.Errorf("observed %d", last.Status)
		}
	}
	wants(t, h.ask("GET", "/v1/verify/orders?bad_request=401&page=2"), 400) // the configuration's fault, not the client's
}

// TestStranger: who is no trusted proxy learns nothing, whatever token it has.
func TestStranger(t *testing.T) {
	h := newHouse(t)
	resp := h.ask("GET", "/v1/verify/orders", "Authorization", "Bearer "+h.mtlsToken(), "Cert", "1", "Stranger", "1")
	wants(t, resp, 400)
	if resp.Header.Get(HeaderClientID) != "" {
		t.Error("a stranger was told who the client is")
	}
	if last := h.seen[len(h.seen)-1]; last.Original != nil || last.Claims != nil || last.Err == nil {
		t.Errorf("observed %+v", last)
	}
}

func TestNew_Refuses(t *testing.T) {
	good := Server{Name: "orders", Config: tokenbind.Config{Issuer: issuer, Audience: orders, Keys: tokenbind.StaticKeys{}}}
	with := func(edit func(*Server)) []Server {
		s := good
		edit(&s)
		return []Server{good, s}
	}
	for name, c := range map[string]Config{
		"no proxies":        {},
		"no audience":       {Proxies: headers{}, Servers: []Server{{}}},
		"same audience":     {Proxies: headers{}, Servers: with(func(s *Server) { s.Name = "b" })},
		"same name":         {Proxies: headers{}, Servers: with(func(s *Server) { s.Audience = billing })},
		"bad name":          {Proxies: headers{}, Servers: with(func(s *Server) { s.Name, s.Audience = "a/b", billing })},
		"proxies of theirs": {Proxies: headers{}, Servers: []Server{{Config: tokenbind.Config{Issuer: issuer, Audience: orders, Proxies: new(tokenbind.Proxies)}}}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	none, err := New(Config{Proxies: headers{}})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{Handler: none, t: t}
	wants(t, h.ask("GET", "/v1/verify"), 404)
}

// TestCannotTell: while it is not known whether a trusted proxy asks, nobody passes, and nobody is told to ask otherwise.
func TestCannotTell(t *testing.T) {
	h, err := New(Config{Proxies: undecided{}, Servers: []Server{{Config: tokenbind.Config{Issuer: issuer, Audience: orders}}}})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/verify", http.NoBody))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "10.0.0.7") {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

type undecided struct{}

func (undecided) ReceiveCheck(*http.Request) (*http.Request, error) {
	return nil, fmt.Errorf("%w: no answer from 10.0.0.7", tokenbind.ErrUnavailable)
}
