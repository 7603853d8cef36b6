package tokenbind

import (
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestF01_KeyLearntFromToken(t *testing.T) {
	k := newResourceKit(t)
	if got := accepts(t, k.verifier(t), k.dpopRequest(t, k.dpopToken(t), ProofOptions{})).Confirmation.Key; !got.Equal(k.proofs.Key()) {
		t.Errorf("got %v", got)
	}
}

func TestF02_ProofKeyMatchesBoundKey(t *testing.T) {
	k, thief := newResourceKit(t), newResourceKit(t)
	refused := refuses(t, k.verifier(t), thief.dpopRequest(t, k.dpopToken(t), ProofOptions{}), invalid, CodeInvalidToken, "key")
	if !strings.Contains(refused.Description, k.proofs.Key().String()) || !strings.Contains(refused.Description, thief.proofs.Key().String()) {
		t.Errorf("not explained: %v", refused)
	}
}

func TestF03_ProofNeeded(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	r := k.dpopRequest(t, k.dpopToken(t), ProofOptions{})
	r.Header.Del("DPoP")
	refuses(t, v, r, invalid, CodeInvalidProof, "one proof")
	r = k.dpopRequest(t, k.dpopToken(t), ProofOptions{})
	r.Method = http.MethodPost
	refuses(t, v, r, invalid, CodeInvalidProof, "htm")
	r = k.dpopRequest(t, k.dpopToken(t), ProofOptions{})
	r.RequestURI = "/things/2"
	refuses(t, v, r, invalid, CodeInvalidProof, "htu")
	refuses(t, v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{Now: testStart.Add(-71 * time.Second)}), invalid, CodeInvalidProof, "iat")
}

func TestF04_TokenHash(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	r := k.dpopRequest(t, k.dpopToken(t), ProofOptions{})
	r.Header.Set("Authorization", "DPoP "+k.token(t, object{"jkt": k.proofs.Key().String()}, func(_, c object) { c["jti"] = "t-2" }))
	refuses(t, v, r, invalid, CodeInvalidProof, "ath")
	proof, err := k.proofs.Proof(http.MethodGet, "https://rs.example/things/1", ProofOptions{Now: testStart})
	if err != nil {
		t.Fatal(err)
	}
	r = k.dpopRequest(t, k.dpopToken(t), ProofOptions{})
	r.Header.Set("DPoP", proof)
	refuses(t, v, r, invalid, CodeInvalidProof, "ath")
}

func TestF05_Scheme(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	for _, scheme := range []string{"DPoP", "dpop", "DPOP"} {
		r := k.dpopRequest(t, k.dpopToken(t), ProofOptions{})
		r.Header.Set("Authorization", scheme+" "+k.dpopToken(t))
		proof, err := k.proofs.Proof(http.MethodGet, "https://rs.example/things/1",
			ProofOptions{Now: testStart, AccessToken: strings.TrimPrefix(r.Header.Get("Authorization"), scheme+" ")})
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("DPoP", proof)
		accepts(t, v, r)
	}
	for _, bad := range []string{"DPoP", "DPoP ", "DPoP a b", "DPoP a,b", "Bearer", "Bearer é", `Bearer "a"`} {
		refuses(t, v, k.request(bad), http.StatusBadRequest, CodeInvalidRequest, "authorization")
	}
}

func TestF06_BoundTokenAsBearer(t *testing.T) {
	k := newResourceKit(t)
	for _, allow := range []bool{false, true} {
		v := k.verifier(t, func(c *Config) { c.AllowBearer = allow })
		r := k.dpopRequest(t, k.dpopToken(t), ProofOptions{})
		r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "DPoP", "Bearer", 1))
		refuses(t, v, r, invalid, CodeInvalidToken, "binding") // though it has a good proof
		r.Header.Del("DPoP")
		refuses(t, v, r, invalid, CodeInvalidToken, "binding")
		refuses(t, v, k.dpopRequest(t, k.token(t, nil), ProofOptions{}), invalid, CodeInvalidToken, "binding")
		refuses(t, v, k.dpopRequest(t, k.certToken(t), ProofOptions{}), invalid, CodeInvalidToken, "binding")
	}
}

func TestF07_Challenge(t *testing.T) {
	k := newResourceKit(t)
	resp := serve(k.verifier(t), k.dpopRequest(t, k.token(t, object{"jkt": newResourceKit(t).proofs.Key().String()}), ProofOptions{}))
	challenge := challenges(resp)["DPoP"]
	if resp.StatusCode != invalid || !strings.Contains(challenge, `error="invalid_token"`) ||
		!strings.Contains(challenge, `algs="ES256 EdDSA PS256 ES384 ES512 PS384 PS512"`) {
		t.Errorf("%d, %s", resp.StatusCode, challenge)
	}
}

func TestF08_ErrorValues(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.RequiredScopes = []string{"read", "admin"} })
	refused := refuses(t, v, k.request("Bearer "+k.certToken(t), k.cert.Leaf), http.StatusForbidden, CodeInsufficientScope, "scope")
	w := httptest.NewRecorder()
	v.Refuse(w, k.request(""), refused)
	if c := challenges(w.Result()); !strings.Contains(c["Bearer"], `scope="read admin"`) || strings.Contains(c["DPoP"], "error") {
		t.Errorf("got %v", c)
	}
	var body struct{ Error, Error_Description string }
	if err := json.NewDecoder(w.Body).Decode(&body); err != nil || body.Error != CodeInsufficientScope || body.Error_Description == "" {
		t.Errorf("%+v, %v", body, err)
	}
}

func TestF10_NotForProxies(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	r := k.dpopRequest(t, k.dpopToken(t), ProofOptions{})
	r.Header["Proxy-Authorization"] = r.Header["Authorization"]
	delete(r.Header, "Authorization")
	resp := serve(v, r)
	if resp.StatusCode != invalid || resp.Header.Get("Proxy-Authenticate") != "" {
		t.Errorf("%d, %v", resp.StatusCode, resp.Header)
	}
}

func TestF11_SeveralChallenges(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)

	resp := serve(v, k.request(""))
	for scheme, params := range challenges(resp) {
		if strings.Contains(params, "error") {
			t.Errorf("no credentials, yet %s %s", scheme, params)
		}
	}
	if c := challenges(resp); resp.StatusCode != invalid || c["Bearer"] == "" || !strings.HasPrefix(c["DPoP"], "algs=") {
		t.Errorf("%d, %v", resp.StatusCode, c)
	}
	if resp := serve(v, k.request("Basic YTpi")); resp.StatusCode != invalid || strings.Contains(challenges(resp)["Bearer"], "error") {
		t.Errorf("another scheme: %d", resp.StatusCode)
	}

	bearer, dpop := challenges(serve(v, k.request("Bearer x"))), challenges(serve(v, k.request("DPoP x")))
	if !strings.Contains(bearer["Bearer"], "error=") || strings.Contains(bearer["DPoP"], "error=") {
		t.Errorf("with Bearer: %v", bearer)
	}
	if strings.Contains(dpop["Bearer"], "error=") || !strings.Contains(dpop["DPoP"], "error=") {
		t.Errorf("with DPoP: %v", dpop)
	}

	both := k.dpopRequest(t, k.dpopToken(t), ProofOptions{})
	both.Header.Add("Authorization", "Bearer "+k.certToken(t))
	refuses(t, v, both, http.StatusBadRequest, CodeInvalidRequest, "authorization")
	both.Header.Set("Authorization", "Bearer "+k.certToken(t)+", DPoP "+k.dpopToken(t))
	refuses(t, v, both, http.StatusBadRequest, CodeInvalidRequest, "authorization")
}

func TestF12_ResourceServerNonce(t *testing.T) {
	k := newResourceKit(t)
	key := make([]byte, 32)
	v := k.verifier(t, func(c *Config) { c.RequireNonce, c.NonceKey = true, key })
	resp := serve(v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{}))
	nonces := resp.Header.Values("DPoP-Nonce")
	if resp.StatusCode != invalid || len(nonces) != 1 || !strings.Contains(challenges(resp)["DPoP"], `error="use_dpop_nonce"`) {
		t.Fatalf("%d, %v", resp.StatusCode, resp.Header)
	}
	if resp := serve(v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{Nonce: nonces[0]})); resp.StatusCode != http.StatusOK {
		t.Errorf("with the nonce: %d, %v", resp.StatusCode, resp.Header)
	}
	otherNode := k.verifier(t, func(c *Config) { c.RequireNonce, c.NonceKey = true, key })
	accepts(t, otherNode, k.dpopRequest(t, k.dpopToken(t), ProofOptions{Nonce: nonces[0]}))
	stranger := k.verifier(t, func(c *Config) { c.RequireNonce = true }) // with a key of its own
	refuses(t, stranger, k.dpopRequest(t, k.dpopToken(t), ProofOptions{Nonce: nonces[0]}), invalid, CodeUseNonce, "nonce")
	accepts(t, v, k.request("Bearer "+k.certToken(t), k.cert.Leaf)) // no proof, no nonce
}

func TestE15_NextNonceBeforeTheOldEnds(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.RequireNonce = true })
	nonce := serve(v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{})).Header.Get("DPoP-Nonce")
	resp := serve(v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{Nonce: nonce}))
	if resp.StatusCode != http.StatusOK || resp.Header.Get("DPoP-Nonce") != "" {
		t.Fatalf("%d, %v", resp.StatusCode, resp.Header)
	}
	k.clock.Add(nonceLifetime)
	resp = serve(v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{Nonce: nonce}))
	next := resp.Header.Get("DPoP-Nonce")
	if resp.StatusCode != http.StatusOK || next == "" || next == nonce || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d, %v", resp.StatusCode, resp.Header)
	}
}

func TestE23_ProofWithoutNonce(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.RequireNonce = true })
	nonce := serve(v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{})).Header.Get("DPoP-Nonce")
	accepts(t, v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{Nonce: nonce}))
	refuses(t, v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{}), invalid, CodeUseNonce, "nonce")
}

func TestF13_ExposeHeaders(t *testing.T) {
	k := newResourceKit(t)
	resp := serve(k.verifier(t, func(c *Config) { c.RequireNonce = true }), k.dpopRequest(t, k.dpopToken(t), ProofOptions{}))
	exposed := strings.Join(resp.Header.Values("Access-Control-Expose-Headers"), ", ")
	if !strings.Contains(exposed, "WWW-Authenticate") || !strings.Contains(exposed, "DPoP-Nonce") || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %v", resp.Header)
	}
}

// behindProxy is a request as it looks after something changed its host and took its TLS away.
func (k *resourceKit) behindProxy(t *testing.T) *http.Request {
	t.Helper()
	r := k.dpopRequest(t, k.dpopToken(t), ProofOptions{})
	r.Host, r.TLS = "10.0.0.7:8080", nil
	return r
}

func TestF14_OriginalRequest(t *testing.T) {
	k := newResourceKit(t)
	accepts(t, k.verifier(t), k.behindProxy(t)) // Audience says where the server is
	accepts(t, k.verifier(t, func(c *Config) { c.BaseURL = "https://rs.example" }), k.behindProxy(t))
	prefixed := k.behindProxy(t)
	prefixed.RequestURI = "/1"
	accepts(t, k.verifier(t, func(c *Config) { c.BaseURL = "https://rs.example/things/" }), prefixed)

	elsewhere := k.verifier(t, func(c *Config) { c.BaseURL = "https://rs.example:8443" }) // BaseURL comes before Audience
	refused := refuses(t, elsewhere, k.behindProxy(t), invalid, CodeInvalidProof, "htu")
	for _, text := range []string{"https://rs.example/things/1", "https://rs.example:8443/things/1"} {
		if !strings.Contains(refused.Description, text) {
			t.Errorf("%s lacks %s", refused.Description, text)
		}
	}
}

// The cuckoo: a resource server that clients trust with proofs plays them on to another, whose tokens it has
// because they are for both. The victim's Host is whatever the thief says.
func TestF14_HostOfTheRequestDoesNotCount(t *testing.T) {
	k := newResourceKit(t)
	const evil = "https://evil.example"
	token := k.token(t, object{"jkt": k.proofs.Key().String()}, func(_, c object) { c["aud"] = []string{testAudience, evil} })
	stolen := func() *http.Request {
		proof, err := k.proofs.Proof(http.MethodGet, evil+"/things/1", ProofOptions{AccessToken: token, Now: k.clock.Now()})
		if err != nil {
			t.Fatal(err)
		}
		r := k.request("DPoP " + token)
		r.Header.Set("DPoP", proof)
		r.Host = "evil.example"
		for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Server", "X-Original-Host"} {
			r.Header.Set(name, "evil.example")
		}
		r.Header.Set("Forwarded", "host=evil.example;proto=https")
		return r
	}
	refuses(t, k.verifier(t), stolen(), invalid, CodeInvalidProof, "htu")
	withURL := func(c *Config) { c.Audience, c.BaseURL = testAudience, "https://rs.example" }
	refuses(t, k.verifier(t, withURL), stolen(), invalid, CodeInvalidProof, "htu")
	absolute := stolen() // the request line may name a host, too
	absolute.RequestURI = evil + "/things/1"
	refuses(t, k.verifier(t), absolute, invalid, CodeInvalidProof, "htu")
	accepts(t, k.verifier(t, func(c *Config) { c.InsecureHostFromRequest = true }), stolen()) // as its name says
}

func TestF14_InsecureHostFromRequest(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.InsecureHostFromRequest = true })
	accepts(t, v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{}))
	refused := refuses(t, v, k.behindProxy(t), invalid, CodeInvalidProof, "htu")
	if !strings.Contains(refused.Description, "http://10.0.0.7:8080/things/1") {
		t.Error(refused.Description)
	}
	forwarded := k.behindProxy(t) // headers that anybody can send do not count even here
	forwarded.Header.Set("X-Forwarded-Proto", "https")
	forwarded.Header.Set("X-Forwarded-Host", "rs.example")
	refuses(t, v, forwarded, invalid, CodeInvalidProof, "htu")
}

func TestF14_VerifierMustKnowItsURL(t *testing.T) {
	k := newResourceKit(t)
	for name, c := range map[string]struct {
		edit func(*Config)
		ok   bool
	}{
		"an https audience":             {func(c *Config) { c.Audience = "https://rs.example:8443/v1" }, true},
		"a name":                        {func(c *Config) { c.Audience = "orders" }, false},
		"an URN":                        {func(c *Config) { c.Audience = "urn:example:orders" }, false},
		"an http audience":              {func(c *Config) { c.Audience = "http://rs.example" }, false},
		"no host":                       {func(c *Config) { c.Audience = "https:///orders" }, false},
		"a name and a URL":              {func(c *Config) { c.Audience, c.BaseURL = "orders", "https://rs.example" }, true},
		"a name, certificates only":     {func(c *Config) { c.Audience, c.NoDPoP = "orders", true }, true},
		"a name, the request's host":    {func(c *Config) { c.Audience, c.InsecureHostFromRequest = "orders", true }, true},
		"the request's host and a URL":  {func(c *Config) { c.BaseURL, c.InsecureHostFromRequest = "https://rs.example", true }, false},
		"the request's host without it": {func(c *Config) { c.NoDPoP, c.InsecureHostFromRequest = true, true }, false},
	} {
		conf := k.conf
		c.edit(&conf)
		if _, err := NewVerifier(conf); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		} else if err != nil && !strings.Contains(err.Error(), "BaseURL") {
			t.Errorf("%s: does not say what to set: %v", name, err)
		}
	}
}

func TestNoDPoP(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.Audience, c.NoDPoP = "orders", true })
	forOrders := func(_, c object) { c["aud"] = "orders" }
	accepts(t, v, k.request("Bearer "+k.token(t, object{"x5t#S256": k.x5t.String()}, forOrders), k.cert.Leaf))
	for _, cnf := range []object{{"jkt": k.proofs.Key().String()}, {"jkt": k.proofs.Key().String(), "x5t#S256": k.x5t.String()}} {
		r := k.dpopRequest(t, k.token(t, cnf, forOrders), ProofOptions{})
		r.TLS.PeerCertificates = []*x509.Certificate{k.cert.Leaf}
		refuses(t, v, r, invalid, CodeInvalidToken, "binding")
		c := challenges(serve(v, r))
		if _, found := c["DPoP"]; found || !strings.Contains(c["Bearer"], `error="invalid_token"`) {
			t.Errorf("challenges %v", c)
		}
	}
}

func TestF14_StripPrefix(t *testing.T) {
	k := newResourceKit(t)
	inner := k.verifier(t).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	w := httptest.NewRecorder()
	http.StripPrefix("/things", inner).ServeHTTP(w, k.dpopRequest(t, k.dpopToken(t), ProofOptions{}))
	if w.Code != http.StatusOK {
		t.Errorf("%d, %s", w.Code, w.Body)
	}
}
