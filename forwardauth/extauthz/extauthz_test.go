package extauthz_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/pkid/pkid/forwardauth"
	"github.com/pkid/pkid/forwardauth/extauthz"
	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

const (
	issuer   = "https://as.example"
	audience = "https://orders.example"
)

// envoy asks a Service over a real connection, as Envoy's filter does.
type envoy struct {
	authv3.AuthorizationClient
	t      testing.TB
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	prover *tokenbind.Prover
}

func newEnvoy(t testing.TB, from string, edit ...func(*tokenbind.Config)) *envoy {
	t.Helper()
	e := &envoy{t: t, key: newKey(t), cert: newCertificate(t)}
	var err error
	if e.prover, err = tokenbind.NewProver(newKey(t)); err != nil {
		t.Fatal(err)
	}
	conf := tokenbind.Config{
		Issuer: issuer, Audience: audience, Keys: tokenbind.StaticKeys{{ID: "k", Key: e.key.Public()}}, Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range edit {
		f(&conf)
	}
	proxies, err := tokenbind.NewProxies(tokenbind.ProxiesConfig{Addresses: []netip.Prefix{netip.MustParsePrefix(from)}})
	if err != nil {
		t.Fatal(err)
	}
	h, err := forwardauth.New(forwardauth.Config{
		Proxies: proxies, Servers: []forwardauth.Server{{Name: "orders", Config: conf}},
		Replay: everFresh{tokenbind.NewMemoryReplay(100, nil)}, Logger: slog.New(slog.DiscardHandler),
		Observe: func(_ *http.Request, o forwardauth.Outcome) {
			if o.Original != nil && o.Original.RemoteAddr != "192.0.2.1:4711" {
				t.Errorf("the client is %s", o.Original.RemoteAddr)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	extauthz.New(h, proxies.Trusts).Register(server)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving := make(chan error, 1)
	go func() { serving <- server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(conn.Close(), stop(server, serving)); err != nil {
			t.Error(err)
		}
	})
	e.AuthorizationClient = authv3.NewAuthorizationClient(conn)
	return e
}

func stop(server *grpc.Server, serving chan error) error {
	server.Stop()
	return <-serving
}

// everFresh is a replay memory of a verifier that never ran before.
type everFresh struct{ *tokenbind.MemoryReplay }

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCertificate(t testing.TB) *x509.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (e *envoy) token(cnf tokenbind.Confirmation) string {
	e.t.Helper()
	claims := map[string]any{
		"iss": issuer, "aud": audience, "sub": "app", "client_id": "app", "jti": "1", "scope": "read", "cnf": cnf,
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	text, err := json.Marshal(claims)
	if err != nil {
		e.t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64([]byte(`{"alg":"ES256","kid":"k","typ":"at+jwt"}`)) + "." + b64(text)
	signature, err := jws.Sign(e.key, "ES256", []byte(input))
	if err != nil {
		e.t.Fatal(err)
	}
	return input + "." + b64(signature)
}

// ask sends what Envoy would of a client's request for /things/1?page=2.
func (e *envoy) ask(cert *x509.Certificate, edit func(*authv3.AttributeContext), headers ...string) (*authv3.CheckResponse, error) {
	e.t.Helper()
	h := map[string]string{":path": "/things/1?page=2"}
	for i := 0; i < len(headers); i += 2 {
		h[headers[i]] = headers[i+1]
	}
	a := &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
			SocketAddress: &corev3.SocketAddress{Address: "192.0.2.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 4711}},
		}}},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: "/things/1?page=2", Host: "orders.example", Scheme: "https", Headers: h,
		}},
		ContextExtensions: map[string]string{"server": "orders"},
	}
	if cert != nil {
		a.Source.Certificate = url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})))
	}
	if edit != nil {
		edit(a)
	}
	return e.Check(e.t.Context(), &authv3.CheckRequest{Attributes: a})
}

func (e *envoy) proof(token, nonce string) string {
	e.t.Helper()
	proof, err := e.prover.Proof("GET", audience+"/things/1", tokenbind.ProofOptions{AccessToken: token, Nonce: nonce})
	if err != nil {
		e.t.Fatal(err)
	}
	return proof
}

// outcome is the status that the client gets, and the headers that go along.
func outcome(t testing.TB, r *authv3.CheckResponse, err error) (int, map[string]string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	all, code := r.GetOkResponse().GetHeaders(), 200
	if denied := r.GetDeniedResponse(); denied != nil {
		all, code = denied.GetHeaders(), int(denied.GetStatus().GetCode())
	}
	if ok := r.GetStatus().GetCode() == int32(codes.OK); ok != (code == 200) {
		t.Errorf("status %v for the client's %d", r.GetStatus(), code)
	}
	headers := map[string]string{}
	for _, h := range all {
		if h.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			t.Errorf("%s is appended to what the client sent", h.GetHeader().GetKey())
		}
		headers[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	return code, headers
}

func TestF14_Cases(t *testing.T) {
	e := newEnvoy(t, "127.0.0.1/32")
	bound := e.token(tokenbind.Confirmation{Cert: thumbprint.OfCertificate(e.cert)})
	proved := e.token(tokenbind.Confirmation{Key: e.prover.Key()})
	proof := e.proof(proved, "")
	for _, c := range []struct {
		name    string
		cert    *x509.Certificate
		headers []string
		want    int
	}{
		{"right certificate", e.cert, []string{"authorization", "Bearer " + bound}, 200},
		{"another certificate", newCertificate(t), []string{"authorization", "Bearer " + bound}, 401},
		{"no certificate", nil, []string{"authorization", "Bearer " + bound}, 401},
		{"no token", e.cert, nil, 401},
		{"DPoP", nil, []string{"authorization", "DPoP " + proved, "dpop", proof}, 200},
		{"replay", nil, []string{"authorization", "DPoP " + proved, "dpop", proof}, 401},
		{"DPoP as Bearer", nil, []string{"authorization", "Bearer " + proved}, 401},
		{"a certificate in a header", nil, []string{"authorization", "Bearer " + bound, "client-cert", ":" + "AAAA" + ":"}, 400},
		{"Envoy's own header", nil, []string{"authorization", "Bearer " + bound, "x-forwarded-client-cert", "Cert=\"x\""}, 401},
	} {
		r, err := e.ask(c.cert, nil, c.headers...)
		code, headers := outcome(t, r, err)
		if code != c.want {
			t.Errorf("%s: %d, want %d (%v)", c.name, code, c.want, r)
		}
		switch {
		case code == 200 && (headers["pkid-client-id"] != "app" || headers["pkid-scope"] != "read" || len(headers) != len(forwardauth.Headers())):
			t.Errorf("%s: identity %v", c.name, headers)
		case code != 200 && (!strings.Contains(headers["www-authenticate"], "DPoP algs=") || r.GetDeniedResponse().GetBody() == ""):
			t.Errorf("%s: headers %v", c.name, headers)
		}
	}
}

func TestF12_NonceReachesTheClient(t *testing.T) {
	now := time.Now()
	e := newEnvoy(t, "127.0.0.1/32", func(c *tokenbind.Config) {
		c.RequireNonce, c.Now = true, func() time.Time { return now }
	})
	token := e.token(tokenbind.Confirmation{Key: e.prover.Key()})
	r, err := e.ask(nil, nil, "authorization", "DPoP "+token, "dpop", e.proof(token, ""))
	code, headers := outcome(t, r, err)
	if code != 401 || headers["dpop-nonce"] == "" || !strings.Contains(headers["www-authenticate"], tokenbind.CodeUseNonce) {
		t.Fatalf("%d %v", code, headers)
	}
	r, err = e.ask(nil, nil, "authorization", "DPoP "+token, "dpop", e.proof(token, headers["dpop-nonce"]))
	if code, _ = outcome(t, r, err); code != 200 || len(r.GetOkResponse().GetResponseHeadersToAdd()) != 0 {
		t.Errorf("%v", r)
	}
	now = now.Add(2 * time.Minute) // the nonce is the one before the newest
	proof, err := e.prover.Proof("GET", audience+"/things/1", tokenbind.ProofOptions{AccessToken: token, Nonce: headers["dpop-nonce"], Now: now})
	if err != nil {
		t.Fatal(err)
	}
	r, err = e.ask(nil, nil, "authorization", "DPoP "+token, "dpop", proof)
	if code, _ = outcome(t, r, err); code != 200 {
		t.Fatalf("%v", r)
	}
	added := map[string]string{}
	for _, h := range r.GetOkResponse().GetResponseHeadersToAdd() {
		added[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	if next := added["dpop-nonce"]; next == "" || next == headers["dpop-nonce"] || added["cache-control"] != "no-store" || len(added) != 2 {
		t.Errorf("the client's answer gets %v", added)
	}
}

// With encode_raw_headers the headers come as a list, in which one may stand twice.
func TestF11_RawHeaders(t *testing.T) {
	e := newEnvoy(t, "127.0.0.1/32")
	token := []byte("Bearer " + e.token(tokenbind.Confirmation{Cert: thumbprint.OfCertificate(e.cert)}))
	for n, want := range []int{401, 200, 400} {
		r, err := e.ask(e.cert, func(a *authv3.AttributeContext) {
			a.Request.Http.Headers, a.Request.Http.HeaderMap = nil, &corev3.HeaderMap{}
			for range n {
				a.Request.Http.HeaderMap.Headers = append(a.Request.Http.HeaderMap.Headers, &corev3.HeaderValue{Key: "authorization", RawValue: token})
			}
		})
		if code, _ := outcome(t, r, err); code != want {
			t.Errorf("%d tokens: %d, want %d", n, code, want)
		}
	}
}

// Whoever is not named as a proxy is told nothing, and what cannot be read lets nobody through.
func TestA30_OnlyFromAProxy(t *testing.T) {
	stranger := newEnvoy(t, "192.0.2.0/24")
	token := "Bearer " + stranger.token(tokenbind.Confirmation{Cert: thumbprint.OfCertificate(stranger.cert)})
	if _, err := stranger.ask(stranger.cert, nil, "authorization", token); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a stranger is answered: %v", err)
	}
	e := newEnvoy(t, "127.0.0.1/32")
	token = "Bearer " + e.token(tokenbind.Confirmation{Cert: thumbprint.OfCertificate(e.cert)})
	whole := url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.cert.Raw})))
	for name, edit := range map[string]func(*authv3.AttributeContext){
		"another's behind":  func(a *authv3.AttributeContext) { a.Source.Certificate = whole + "x" },
		"no request":        func(a *authv3.AttributeContext) { a.Request = nil },
		"no path":           func(a *authv3.AttributeContext) { a.Request.Http.Path = "" },
		"no PEM":            func(a *authv3.AttributeContext) { a.Source.Certificate = "x" },
		"bad encoding":      func(a *authv3.AttributeContext) { a.Source.Certificate = "%zz" },
		"two certificates":  func(a *authv3.AttributeContext) { a.Source.Certificate = whole + whole },
		"no certificate":    func(a *authv3.AttributeContext) { a.Source.Certificate = strings.Replace(whole, "MI", "MA", 1) },
		"a huge one":        func(a *authv3.AttributeContext) { a.Source.Certificate = whole + strings.Repeat("%0A", 20<<10) },
		"another server":    func(a *authv3.AttributeContext) { a.ContextExtensions["server"] = "billing" },
		"unknown extension": func(a *authv3.AttributeContext) { a.ContextExtensions["scpoe"] = "read" },
		"more scope":        func(a *authv3.AttributeContext) { a.ContextExtensions["scope"] = "write" },
	} {
		r, err := e.ask(e.cert, edit, "authorization", token)
		if code, _ := outcome(t, r, err); code < 400 {
			t.Errorf("%s: %d", name, code)
		}
	}
	r, err := e.ask(e.cert, func(a *authv3.AttributeContext) { a.ContextExtensions["scope"] = "read" }, "authorization", token)
	if code, _ := outcome(t, r, err); code != 200 {
		t.Errorf("right after all: %d", code)
	}
}
