package client

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/thumbprint"
)

// fakeAS is a token endpoint and a resource server that check what a client must do, and remember it.
type fakeAS struct {
	*fakeCA
	rs *httptest.Server

	mu      sync.Mutex // guards what follows
	grants  []grant    // what came to the token endpoint
	uses    []use      // what came to the resource server
	issued  int
	refused map[string]bool // tokens that the resource server refuses
	kind    string          // token_type
	expires int64
	asNonce string // wanted in proofs, if set
	rsNonce string
}

type grant struct {
	path  string
	form  url.Values
	cert  thumbprint.Cert
	proof claims
}

type use struct {
	authorization string
	cert          thumbprint.Cert
	proof         claims
	body          string
}

type claims struct {
	raw   string
	ID    string `json:"jti"`
	URL   string `json:"htu"`
	Ath   string `json:"ath"`
	Nonce string `json:"nonce"`
}

func newFakeAS(t *testing.T) *fakeAS {
	f := &fakeAS{fakeCA: newFakeCA(t), kind: "Bearer", expires: 300, refused: map[string]bool{}}
	f.rs = f.serve(http.HandlerFunc(f.resource))
	f.metadata(map[string]any{
		"issuer": f.srv.URL, "token_endpoint": f.srv.URL + "/token",
		"mtls_endpoint_aliases": map[string]any{"token_endpoint": f.srv.URL + "/mtls/token", "registration_endpoint": 7},
	})
	f.fakeCA.mux.HandleFunc("POST /token", f.token)
	f.fakeCA.mux.HandleFunc("POST /mtls/token", f.token)
	return f
}

func (f *fakeAS) metadata(doc map[string]any) {
	f.fakeCA.mux.HandleFunc("GET /.well-known/oauth-authorization-server", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, doc) })
}

func (f *fakeAS) source(id *Identity, c TokenConfig) *TokenSource {
	f.t.Helper()
	c.Identity = id
	s, err := NewTokenSource(c)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *fakeAS) token(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	f.mu.Lock()
	defer f.mu.Unlock()
	g := grant{path: r.URL.Path, form: r.PostForm, cert: shown(r), proof: proofOf(r)}
	f.grants = append(f.grants, g)
	if f.asNonce != "" {
		w.Header().Set("DPoP-Nonce", f.asNonce)
		if g.proof.Nonce != f.asNonce {
			reply(w, 400, TokenError{Code: useNonce})
			return
		}
	}
	f.issued++
	reply(w, 200, map[string]any{"access_token": fmt.Sprintf("token-%d", f.issued), "token_type": f.kind, "expires_in": f.expires})
}

func (f *fakeAS) resource(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	u := use{r.Header.Get("Authorization"), shown(r), proofOf(r), string(body)}
	f.uses = append(f.uses, u)
	scheme, token, _ := strings.Cut(u.authorization, " ")
	if f.rsNonce != "" {
		w.Header().Set("DPoP-Nonce", f.rsNonce)
		if u.proof.Nonce != f.rsNonce {
			w.Header().Set("WWW-Authenticate", `DPoP algs="ES256", error="use_dpop_nonce"`)
			w.WriteHeader(401)
			return
		}
	}
	if f.refused[token] {
		w.Header().Set("WWW-Authenticate", scheme+` error_description="no more", error="invalid_token"`)
		w.WriteHeader(401)
	}
}

// do sends a request through s and returns its status.
func (f *fakeAS) do(s *TokenSource, req *http.Request) int {
	f.t.Helper()
	resp, err := s.Client().Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func (f *fakeAS) get(s *TokenSource) int {
	f.t.Helper()
	return f.do(s, must(http.NewRequestWithContext(f.t.Context(), "GET", f.rs.URL+"/thing?q=1", nil)))
}

func shown(r *http.Request) thumbprint.Cert {
	if len(r.TLS.PeerCertificates) == 0 {
		return thumbprint.Cert{}
	}
	return thumbprint.OfCertificate(r.TLS.PeerCertificates[0])
}

func proofOf(r *http.Request) (c claims) {
	c.raw = r.Header.Get("DPoP")
	if parts := strings.Split(c.raw, "."); len(parts) == 3 {
		_ = json.Unmarshal(must(base64.RawURLEncoding.DecodeString(parts[1])), &c)
	}
	return c
}

func withDPoP(t *testing.T) (*fakeAS, *TokenSource) {
	f := newFakeAS(t)
	f.kind = "DPoP"
	return f, f.source(f.identity(), TokenConfig{DPoPKey: must(NewKey(""))})
}

func TestC01_ClientIDInTokenRequest(t *testing.T) {
	f := newFakeAS(t)
	s := f.source(f.identity(), TokenConfig{Scopes: []string{"a", "b"}, Resource: "https://rs.example"})
	if _, err := s.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := f.grants[0].form.Encode(), "client_id=robot-1&grant_type=client_credentials&resource=https%3A%2F%2Frs.example&scope=a+b"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestC02H10H66_MTLSAliasIsUsed(t *testing.T) {
	f := newFakeAS(t)
	if _, err := f.source(f.identity(), TokenConfig{}).Token(t.Context()); err != nil || f.grants[0].path != "/mtls/token" {
		t.Errorf("asked at %v, %v", f.grants, err)
	}
}

func TestC02_ConventionalEndpointWithoutAlias(t *testing.T) {
	f := newFakeAS(t)
	plain := f.serve(nil)
	plain.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			f.token(w, r)
			return
		}
		reply(w, 200, map[string]any{"issuer": plain.URL, "token_endpoint": plain.URL + "/token"})
	})
	if _, err := f.source(f.identity(), TokenConfig{Issuer: plain.URL}).Token(t.Context()); err != nil || f.grants[0].path != "/token" {
		t.Errorf("asked at %v, %v", f.grants, err)
	}
}

// The fake's metadata has an alias with a value of the wrong type: what is not called is not looked at.
func TestC03_OtherAliasesAreIgnored(t *testing.T) {
	f := newFakeAS(t)
	if _, err := f.source(f.identity(), TokenConfig{}).Token(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestC04_SameCertificateAtBothServers(t *testing.T) {
	f := newFakeAS(t)
	id := f.identity()
	s := f.source(id, TokenConfig{})
	if f.get(s) != 200 {
		t.Fatal("refused")
	}
	if want := thumbprint.OfCertificate(id.Certificate().Leaf); !f.grants[0].cert.Equal(want) || !f.uses[0].cert.Equal(want) {
		t.Error("another certificate was shown")
	}
}

func TestC05_RenewedCertificateGetsNewToken(t *testing.T) {
	f := newFakeAS(t)
	id := f.identity()
	s := f.source(id, TokenConfig{})
	f.get(s)
	if err := id.Renew(t.Context(), RenewOptions{}); err != nil {
		t.Fatal(err)
	}
	f.get(s)
	f.get(s)
	if len(f.grants) != 2 {
		t.Fatalf("%d tokens were fetched, want 2", len(f.grants))
	}
	if f.uses[1].authorization != "Bearer token-2" || !f.uses[1].cert.Equal(f.grants[1].cert) || f.uses[0].cert.Equal(f.uses[1].cert) {
		t.Error("the new token did not go with the new certificate")
	}
}

func TestC05_RefusedTokenIsReplacedOnce(t *testing.T) {
	f := newFakeAS(t)
	s := f.source(f.identity(), TokenConfig{})
	f.refused = map[string]bool{"token-1": true}
	req := must(http.NewRequestWithContext(t.Context(), "POST", f.rs.URL, strings.NewReader("body")))
	if got := f.do(s, req); got != 200 || len(f.uses) != 2 || f.uses[1].body != "body" {
		t.Errorf("status %d after %d requests", got, len(f.uses))
	}
	f.refused = map[string]bool{"token-2": true, "token-3": true}
	if got := f.get(s); got != 401 || len(f.uses) != 4 {
		t.Errorf("status %d after %d requests, want 401 after two more", got, len(f.uses))
	}
}

// A request that cannot be sent again fails, but the token that it failed with is not used for the next one.
func TestRefusedTokenWithBodyThatCannotBeReadAgain(t *testing.T) {
	f := newFakeAS(t)
	s := f.source(f.identity(), TokenConfig{})
	f.refused = map[string]bool{"token-1": true}
	for n, want := range []int{401, 200, 200} {
		req := must(http.NewRequestWithContext(t.Context(), "POST", f.rs.URL, io.MultiReader(strings.NewReader("body"))))
		if got := f.do(s, req); got != want || len(f.uses) != n+1 {
			t.Errorf("status %d after %d requests, want %d", got, len(f.uses), want)
		}
	}
	if len(f.grants) != 2 {
		t.Errorf("%d tokens were fetched, want 2", len(f.grants))
	}
}

func TestTokenIsKeptUntilShortlyBeforeItExpires(t *testing.T) {
	f := newFakeAS(t)
	now := time.Now()
	s := f.source(f.identity(), TokenConfig{Now: func() time.Time { return now }})
	for _, step := range []struct {
		after  time.Duration
		grants int
	}{{0, 1}, {284 * time.Second, 1}, {2 * time.Second, 2}} {
		now = now.Add(step.after)
		if _, err := s.Token(t.Context()); err != nil || len(f.grants) != step.grants {
			t.Errorf("%v: %d grants, want %d", err, len(f.grants), step.grants)
		}
	}
}

func TestH70_MetadataMustNameTheIssuer(t *testing.T) {
	f := newFakeAS(t)
	imposter := f.serve(f.fakeCA.mux) // the same document at another address
	_, err := f.source(f.identity(), TokenConfig{Issuer: imposter.URL}).Token(t.Context())
	if err == nil || !strings.Contains(err.Error(), "issuer") || len(f.grants) != 0 {
		t.Errorf("got %v", err)
	}
}

func TestG01_FreshProofForEachRequestAndRetry(t *testing.T) {
	f, s := withDPoP(t)
	f.asNonce, f.rsNonce = "as-1", "rs-1"
	f.get(s)
	f.refused["token-1"] = true
	f.get(s)
	seen := map[string]bool{}
	for _, g := range f.grants {
		seen[g.proof.ID] = true
	}
	for _, u := range f.uses {
		seen[u.proof.ID] = true
	}
	if want := len(f.grants) + len(f.uses); len(seen) != want || want != 3+4 {
		t.Errorf("%d proofs for %d requests", len(seen), want)
	}
	for id := range seen {
		if len(id) < 20 { // 96 bits take 16 characters of base64, 20 of base32
			t.Errorf("jti %q is short", id)
		}
	}
}

func TestG02_ProofAtTheTokenEndpoint(t *testing.T) {
	f, s := withDPoP(t)
	if _, err := s.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := f.grants[0].proof; p.URL != f.srv.URL+"/mtls/token" || p.Ath != "" {
		t.Errorf("proof %+v", p)
	}
}

func TestG03_TokenOfAnotherTypeIsDiscarded(t *testing.T) {
	f, s := withDPoP(t)
	f.kind = "Bearer"
	if _, err := s.Token(t.Context()); !errors.Is(err, ErrTokenType) {
		t.Errorf("got %v, want ErrTokenType", err)
	}
	if _, err := s.Client().Get(f.rs.URL); !errors.Is(err, ErrTokenType) || len(f.uses) != 0 {
		t.Errorf("the token was used: %v", err)
	}
}

func TestG05_AthInProofs(t *testing.T) {
	f, s := withDPoP(t)
	f.get(s)
	u := f.uses[0]
	if u.authorization != "DPoP token-1" || u.proof.Ath != thumbprint.OfToken("token-1").String() || u.proof.URL != f.rs.URL+"/thing" {
		t.Errorf("got %+v", u)
	}
}

func TestG06_NewestNonceIsUsed(t *testing.T) {
	f, s := withDPoP(t)
	f.rsNonce = "one"
	f.get(s)
	f.get(s) // with the nonce, at once
	f.rsNonce = "two"
	f.get(s)
	var got []string
	for _, u := range f.uses {
		got = append(got, u.proof.Nonce)
	}
	if want := ",one,one,one,two"; strings.Join(got, ",") != want {
		t.Errorf("nonces %q, want %q", strings.Join(got, ","), want)
	}
}

func TestG07_NoncesOfServersAreApart(t *testing.T) {
	f, s := withDPoP(t)
	f.asNonce, f.rsNonce = "as", "rs"
	if f.get(s) != 200 || len(f.grants) != 2 || len(f.uses) != 2 {
		t.Fatalf("%d grants, %d uses", len(f.grants), len(f.uses))
	}
	if f.grants[0].proof.Nonce != "" || f.uses[0].proof.Nonce != "" || f.grants[1].proof.Nonce != "as" || f.uses[1].proof.Nonce != "rs" {
		t.Error("a nonce went to the other server")
	}
}

func TestG07_NonceIsRetriedOnce(t *testing.T) {
	f, s := withDPoP(t)
	fickle := f.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.resource(httptest.NewRecorder(), r)
		w.Header().Set("DPoP-Nonce", fmt.Sprint(len(f.uses)))
		w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		w.WriteHeader(401)
	}))
	if got := f.do(s, must(http.NewRequestWithContext(t.Context(), "GET", fickle.URL, nil))); got != 401 || len(f.uses) != 2 {
		t.Errorf("status %d after %d requests, want 401 after 2", got, len(f.uses))
	}
}

func TestTokenStaysAtItsOrigin(t *testing.T) {
	f := newFakeAS(t)
	s := f.source(f.identity(), TokenConfig{})
	hop := f.serve(nil)
	hop.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, f.rs.URL, http.StatusFound)
		case "/here":
			http.Redirect(w, r, "/end", http.StatusFound)
		default:
			f.resource(w, r)
		}
	})
	f.do(s, must(http.NewRequestWithContext(t.Context(), "GET", hop.URL+"/away", nil)))
	if u := f.uses[0]; u.authorization != "" || !u.cert.IsZero() {
		t.Errorf("another origin saw %q and certificate %s", u.authorization, u.cert)
	}
	f.do(s, must(http.NewRequestWithContext(t.Context(), "GET", hop.URL+"/here", nil)))
	if u := f.uses[1]; u.authorization != "Bearer token-1" {
		t.Errorf("the same origin saw %q", u.authorization)
	}
	if _, err := s.Client().Get(strings.Replace(f.rs.URL, "https:", "http:", 1)); err == nil || len(f.uses) != 2 {
		t.Error("the token went over plain http")
	}
}

func TestTokenErrors(t *testing.T) {
	f := newFakeAS(t)
	s := f.source(f.identity(), TokenConfig{})
	s.metadata = &metadata{TokenEndpoint: f.srv.URL + "/refuse", expiry: time.Now().Add(time.Hour)}
	f.fakeCA.mux.HandleFunc("POST /refuse", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 401, map[string]string{"error": "invalid_client", "error_description": "certificate revoked"})
	})
	_, err := s.Token(t.Context())
	if e, ok := errors.AsType[*TokenError](err); !ok || e.Code != "invalid_client" || e.Status != 401 {
		t.Errorf("got %v", err)
	}
}

func TestNonceMemoryIsBounded(t *testing.T) {
	var n nonces
	resp := &http.Response{Header: http.Header{}}
	resp.Header.Set(nonceHeader, "x")
	for i := range 5 * maxNonces {
		n.learn(resourceServer, mustURL(fmt.Sprintf("https://h%d.example", i)), resp.Header)
	}
	if len(n.newest) > maxNonces {
		t.Errorf("%d servers remembered", len(n.newest))
	}
}
