package integration

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/tokenbind"
)

// fapiSite is a CA under FAPI 2.0 and a resource server beside it that keeps to it too.
type fapiSite struct {
	*pkitest.Server
	t        *testing.T
	resource string // the URL of what the resource server has
	operator *client.API
}

func newFAPISite(t *testing.T) *fapiSite {
	s := &fapiSite{t: t, Server: pkitest.Start(t, pkitest.Options{Edit: func(c *config.Config) { c.Profile = config.ProfileFAPI2 }})}
	s.operator = s.Operator(t)
	id := s.Enrol(t, client.InvitationRequest{ClientID: "resource", Profile: "server", SANs: []string{"127.0.0.1"}})
	asker := s.Enrol(t, client.InvitationRequest{ClientID: "asker"})
	yes := true
	if _, err := s.operator.PatchClient(t.Context(), "asker", client.ClientPatch{Introspect: &yes}); err != nil {
		t.Fatal(err)
	}
	issuers, err := id.API().Issuers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checker, err := crl.NewChecker(crl.CheckerConfig{Issuers: issuers, Learn: id.API().Issuers})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(nil)
	base := "https://" + srv.Listener.Addr().String()
	verifier, err := tokenbind.NewVerifier(tokenbind.Config{
		Issuer: s.URLs.Public, Audience: base, HTTPClient: id.HTTPClient(), Logger: pkitest.Logger(t),
		FAPI2: true, Revocation: checker, Tokens: introspected{asker, s.URLs.MTLS},
	})
	if err != nil {
		t.Fatal(err)
	}
	handler := verifier.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, _ := tokenbind.ClaimsFrom(r.Context())
		io.WriteString(w, "hello "+claims.ClientID)
	}))
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), presentedToken{}, token)))
	})
	srv.TLS = &tls.Config{
		MinVersion: tls.VersionTLS12, CipherSuites: tokenbind.CipherSuites(),
		ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{*id.Certificate()},
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	s.resource = base + "/accounts"
	return s
}

// introspected is a tokenbind.TokenStatus that asks the authorization server (RFC 7662).
type introspected struct {
	as   *client.Identity
	mtls string
}

type presentedToken struct{}

func (i introspected) CheckToken(ctx context.Context, _ *tokenbind.Claims) error {
	token, _ := ctx.Value(presentedToken{}).(string)
	form := url.Values{"token": {token}, "client_id": {i.as.Info().ClientID}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.mtls+"/oauth/introspect", strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := i.as.HTTPClient().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var status struct{ Active bool }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&status); err != nil || !status.Active {
		return errors.Join(errors.New("the token is not active"), err)
	}
	return nil
}

// variant is how a client of the conformance suite's plan authenticates, and what binds its tokens.
type variant struct{ auth, bound string }

func (v variant) String() string { return v.auth + " + " + v.bound }

const (
	byKey  = "private_key_jwt"
	byCert = "mtls"
	byDPoP = "dpop"
)

// party is one of the two clients that the suite has.
type party struct {
	*fapiSite
	variant
	id       string
	key      *ecdsa.PrivateKey // of assertions
	rsa      *rsa.PrivateKey   // registered beside it
	proofKey *ecdsa.PrivateKey // of DPoP proofs
	cert     *client.Identity  // what it shows; nil without mtls
	http     *http.Client
	nonces   map[string]string // by URL
}

// party registers a client, and enrols it where it needs a certificate.
func (s *fapiSite) party(v variant, id string) *party {
	s.t.Helper()
	p := &party{fapiSite: s, variant: v, id: id, key: newP256(s.t), proofKey: newP256(s.t), nonces: map[string]string{}}
	scopes, resources := []string{"accounts"}, []string{strings.TrimSuffix(s.resource, "/accounts")}
	if v.auth == byKey {
		p.rsa = rsaKey()
		set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: "ec"}, {Key: p.rsa.Public(), KeyID: "rsa"}}}
		record := client.ClientRecord{
			ID: id, Auth: byKey, JWKS: mustJSON(s.t, set), DPoP: v.bound == byDPoP, Scopes: scopes, Resources: resources,
		}
		if _, err := s.operator.AddClient(s.t.Context(), record); err != nil {
			s.t.Fatal(err)
		}
	}
	if v.auth == byCert || v.bound == byCert {
		p.cert = s.Enrol(s.t, client.InvitationRequest{ClientID: id, Scopes: scopes, Resources: resources})
	}
	p.http = s.showing(p.cert)
	return p
}

// showing returns a client that shows an identity's certificate, or none.
func (s *fapiSite) showing(id *client.Identity) *http.Client {
	operator, err := client.Load(s.Home)
	if err != nil {
		s.t.Fatal(err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: operator.Roots()}
	if id != nil {
		conf = id.TLSConfig()
	}
	transport := &http.Transport{TLSClientConfig: conf}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 15 * time.Second}
}

// endpoint is where the party asks for tokens: at the alias if it has a certificate to show (RFC 8705 section 5).
func (p *party) endpoint() string {
	if p.cert != nil {
		return p.URLs.MTLS + "/oauth/token"
	}
	return p.URLs.Public + "/oauth/token"
}

// ask is a request of a party, as it should be but for what a test changes.
type ask struct {
	http      *http.Client // the party's own if nil
	form      url.Values
	assertion func(header, claims map[string]any)
	signed    crypto.Signer // the assertion, instead of by the party's key
	proof     func(header, claims map[string]any)
	prover    *ecdsa.PrivateKey // of the proof, instead of the party's key
	proofs    func(proof string) []string
	noProof   bool
	scheme    string // of the Authorization header
}

// token asks for a token.
func (p *party) token(a ask) answer {
	return p.send(http.MethodPost, p.endpoint(), "", a)
}

// form is what the token endpoint gets, with a fresh assertion.
func (p *party) form(a ask) string {
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {"accounts"}}
	if p.auth == byCert {
		form.Set("client_id", p.id)
	} else {
		now := time.Now().Unix()
		claims := map[string]any{"iss": p.id, "sub": p.id, "aud": p.URLs.Public, "jti": rand.Text(), "iat": now, "exp": now + 60}
		header, key := map[string]any{"alg": "ES256", "kid": "ec"}, crypto.Signer(p.key)
		if a.signed != nil {
			key = a.signed
		}
		if a.assertion != nil {
			a.assertion(header, claims)
		}
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", signJWT(p.t, key, header, claims))
	}
	for name, values := range a.form {
		if form[name] = values; values == nil {
			delete(form, name)
		}
	}
	return form.Encode()
}

// use presents a token at the resource server.
func (p *party) use(token string, a ask) answer {
	return p.send(http.MethodGet, p.resource+"?a=b", token, a)
}

// send sends a request with its proof, and a second time if the server wants its nonce in it.
func (p *party) send(method, target, token string, a ask) answer {
	p.t.Helper()
	got := p.sendOnce(method, target, token, a)
	if nonce := got.header.Get("DPoP-Nonce"); nonce != "" {
		p.nonces[target] = nonce
		if strings.Contains(got.body+got.header.Get("WWW-Authenticate"), "use_dpop_nonce") {
			return p.sendOnce(method, target, token, a)
		}
	}
	return got
}

func (p *party) sendOnce(method, target, token string, a ask) answer {
	p.t.Helper()
	body := ""
	if method == http.MethodPost {
		body = p.form(a)
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if scheme := a.scheme; token != "" {
		if scheme == "" {
			scheme = map[string]string{byDPoP: "DPoP", byCert: "Bearer"}[p.bound]
		}
		req.Header.Set("Authorization", scheme+" "+token)
	}
	if p.bound == byDPoP && !a.noProof {
		proofs := []string{p.makeProof(method, target, token, a)}
		if a.proofs != nil {
			proofs = a.proofs(proofs[0])
		}
		req.Header["Dpop"] = proofs
	}
	hc := p.http
	if a.http != nil {
		hc = a.http
	}
	return p.do(hc, req)
}

func (p *party) do(hc *http.Client, req *http.Request) answer {
	p.t.Helper()
	resp, err := hc.Do(req)
	if err != nil {
		p.t.Error(err) // several goroutines may be asking
		return answer{}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		p.t.Error(err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

func (p *party) makeProof(method, target, token string, a ask) string {
	key := p.proofKey
	if a.prover != nil {
		key = a.prover
	}
	htu, _, _ := strings.Cut(target, "?")
	header := map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": jose.JSONWebKey{Key: key.Public()}}
	claims := map[string]any{"jti": rand.Text(), "htm": method, "htu": htu, "iat": time.Now().Unix()}
	if nonce := p.nonces[target]; nonce != "" {
		claims["nonce"] = nonce
	}
	if token != "" {
		hash := sha256.Sum256([]byte(token))
		claims["ath"] = base64.RawURLEncoding.EncodeToString(hash[:])
	}
	if a.proof != nil {
		a.proof(header, claims)
	}
	return signJWT(p.t, key, header, claims)
}

// signJWT signs with whatever algorithm the header names, or leaves the signature empty.
func signJWT(t *testing.T, key crypto.Signer, header, claims map[string]any) string {
	t.Helper()
	input := base64.RawURLEncoding.EncodeToString(mustJSON(t, header)) + "." + base64.RawURLEncoding.EncodeToString(mustJSON(t, claims))
	digest := sha256.Sum256([]byte(input))
	var signature []byte
	var err error
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, k, digest[:])
		signature, err = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), e
	case *rsa.PrivateKey:
		if header["alg"] == "PS256" {
			signature, err = rsa.SignPSS(rand.Reader, k, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			signature, err = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, digest[:])
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	switch header["alg"] {
	case "none":
		signature = nil
	case "HS256":
		mac := hmac.New(sha256.New, []byte("secret"))
		mac.Write([]byte(input))
		signature = mac.Sum(nil)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func newP256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// rsaKey is one for all tests, since making it takes long.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})
