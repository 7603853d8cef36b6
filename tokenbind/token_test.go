package tokenbind

import (
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"strings"
	"testing"
	"time"
)

// tokens runs a subtest per edit of an otherwise good token, each refused at the named check.
func tokens(t *testing.T, check string, edits map[string]func(header, claims object)) {
	t.Helper()
	k := newResourceKit(t)
	v := k.verifier(t)
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			token := k.token(t, object{"x5t#S256": k.x5t.String()}, edit)
			refuses(t, v, k.request("Bearer "+token, k.cert.Leaf), invalid, CodeInvalidToken, check)
		})
	}
}

func TestTokenForm(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	good := k.certToken(t)
	for name, token := range map[string]string{
		"not a JWT":        "opaque",
		"two parts":        good[:strings.LastIndex(good, ".")],
		"padded":           good + "=",
		"huge":             k.token(t, nil, func(_, c object) { c["pad"] = strings.Repeat("x", maxToken) }),
		"claim twice":      compact(t, k.issuer, object{"typ": "at+jwt", "alg": "ES256"}, `{"aud":"a","aud":"b"}`),
		"cnf member twice": compact(t, k.issuer, object{"typ": "at+jwt", "alg": "ES256"}, `{"cnf":{"jkt":"a","jkt":"b"}}`),
		"header twice":     compact(t, k.issuer, `{"alg":"ES256","alg":"none"}`, object{}),
		"encrypted":        good + ".a.b",
	} {
		t.Run(name, func(t *testing.T) {
			refuses(t, v, k.request("Bearer "+token, k.cert.Leaf), invalid, CodeInvalidToken, "token form")
		})
	}
}

func TestTokenType(t *testing.T) {
	tokens(t, "token typ", map[string]func(h, c object){
		"none":     func(h, _ object) { delete(h, "typ") },
		"JWT":      func(h, _ object) { h["typ"] = "JWT" },
		"a proof":  func(h, _ object) { h["typ"] = "dpop+jwt" },
		"a number": func(h, _ object) { h["typ"] = 1 },
	})
	k := newResourceKit(t)
	v := k.verifier(t)
	for _, typ := range []string{"at+jwt", "application/at+jwt", "AT+JWT"} {
		token := k.token(t, object{"x5t#S256": k.x5t.String()}, func(h, _ object) { h["typ"] = typ })
		accepts(t, v, k.request("Bearer "+token, k.cert.Leaf))
	}
}

func TestH102_AlgorithmNone(t *testing.T) {
	tokens(t, "token alg", map[string]func(h, c object){
		"none":     func(h, _ object) { h["alg"] = "none" },
		"None":     func(h, _ object) { h["alg"] = "NONE" },
		"missing":  func(h, _ object) { delete(h, "alg") },
		"a number": func(h, _ object) { h["alg"] = 0 },
		"unlisted": func(h, _ object) { h["alg"] = "ES384" },
	})
	for _, alg := range []string{"none", "HS256", ""} {
		c := newResourceKit(t).conf
		c.Algorithms = []string{"ES256", alg}
		if _, err := NewVerifier(c); err == nil {
			t.Errorf("a verifier for %q", alg)
		}
	}
}

func TestH101_AlgorithmsByDefault(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for alg, key := range map[string]crypto.Signer{"ES256": ecKeyFor(t), "EdDSA": ed, "PS256": testRSA()} {
		k := newResourceKit(t)
		claims := object{"iss": testIssuer, "aud": testAudience, "exp": testStart.Unix() + 60, "cnf": object{"x5t#S256": k.x5t.String()}}
		token := compact(t, key, object{"typ": "at+jwt", "alg": alg}, claims)
		accepts(t, k.verifier(t, func(c *Config) { c.Keys = StaticKeys{{Key: key.Public()}} }), k.request("Bearer "+token, k.cert.Leaf))
	}
}

// RS256 is not FAPI's, but who must can take it; a PSS signature is then none of its kind.
func TestTokenRS256OnlyIfNamed(t *testing.T) {
	k := newResourceKit(t)
	header := object{"typ": "at+jwt", "alg": "RS256"}
	claims := object{"iss": testIssuer, "aud": testAudience, "exp": testStart.Unix() + 60, "cnf": object{"x5t#S256": k.x5t.String()}}
	keys := func(c *Config) { c.Keys = StaticKeys{{Key: testRSA().Public()}} }
	named := k.verifier(t, keys, func(c *Config) { c.Algorithms = []string{"RS256"} })
	good := k.request("Bearer "+compactAs(t, "RS256", testRSA(), header, claims), k.cert.Leaf)
	accepts(t, named, good)
	refuses(t, k.verifier(t, keys), good, invalid, CodeInvalidToken, "token alg")
	pss := k.request("Bearer "+compactAs(t, "PS256", testRSA(), header, claims), k.cert.Leaf)
	refuses(t, named, pss, invalid, CodeInvalidToken, "token signature")
}

// H100: the confusion of RFC 8725 section 2.1, a MAC with the public key as its secret.
func TestH100_KeyConfusion(t *testing.T) {
	k := newResourceKit(t)
	input := b64([]byte(`{"typ":"at+jwt","alg":"HS256","kid":"k1"}`)) + "." + b64(jsonText(t, object{"iss": testIssuer}))
	mac := hmac.New(sha256.New, jsonText(t, jwkOf(t, k.issuer.Public())))
	mac.Write([]byte(input))
	refuses(t, k.verifier(t), k.request("Bearer "+input+"."+b64(mac.Sum(nil))), invalid, CodeInvalidToken, "token alg")
}

func TestTokenCritical(t *testing.T) {
	tokens(t, "token crit", map[string]func(h, c object){
		"unknown": func(h, _ object) { h["crit"] = []string{"x"}; h["x"] = 1 },
		"b64":     func(h, _ object) { h["crit"] = []string{"b64"}; h["b64"] = true },
	})
}

func TestTokenSignature(t *testing.T) {
	k, forger := newResourceKit(t), newResourceKit(t)
	v := k.verifier(t)
	refuses(t, v, k.request("Bearer "+forger.token(t, object{"x5t#S256": k.x5t.String()}), k.cert.Leaf), invalid, CodeInvalidToken, "token signature")
	for name, kid := range map[string]any{"unknown": "k9", "a number": 1, "null": nil} {
		token := k.token(t, object{"x5t#S256": k.x5t.String()}, func(h, _ object) { h["kid"] = kid })
		t.Run(name, func(t *testing.T) {
			refuses(t, v, k.request("Bearer "+token, k.cert.Leaf), invalid, CodeInvalidToken, "token signature")
		})
	}
	noKID := k.token(t, object{"x5t#S256": k.x5t.String()}, func(h, _ object) { delete(h, "kid") })
	accepts(t, v, k.request("Bearer "+noKID, k.cert.Leaf))
	// A key in the token's own header is never used.
	own := forger.token(t, object{"x5t#S256": k.x5t.String()}, func(h, _ object) { h["jwk"] = jwkOf(t, forger.issuer.Public()) })
	refuses(t, v, k.request("Bearer "+own, k.cert.Leaf), invalid, CodeInvalidToken, "token signature")
}

func TestTokenIssuer(t *testing.T) {
	edits := map[string]func(h, c object){"none": func(_, c object) { delete(c, "iss") }}
	for _, iss := range []any{"https://as.example/", "HTTPS://as.example", "", 1, []string{testIssuer}} {
		edits[string(jsonText(t, iss))] = func(_, c object) { c["iss"] = iss }
	}
	tokens(t, "token iss", edits)
}

func TestTokenAudience(t *testing.T) {
	edits := map[string]func(h, c object){"none": func(_, c object) { delete(c, "aud") }}
	for _, aud := range []any{"https://other.example", testAudience + "/", []string{}, []any{testAudience, 1}, 7, object{testAudience: 1}} {
		edits[string(jsonText(t, aud))] = func(_, c object) { c["aud"] = aud }
	}
	tokens(t, "token aud", edits)
	k := newResourceKit(t)
	several := k.token(t, object{"x5t#S256": k.x5t.String()}, func(_, c object) { c["aud"] = []string{"https://other.example", testAudience} })
	accepts(t, k.verifier(t), k.request("Bearer "+several, k.cert.Leaf))
}

func TestTokenLifetime(t *testing.T) {
	at := func(claim string, d time.Duration) func(h, c object) {
		return func(_, c object) { c[claim] = testStart.Add(d).Unix() }
	}
	tokens(t, "token lifetime", map[string]func(h, c object){
		"no exp":        func(_, c object) { delete(c, "exp") },
		"exp is text":   func(_, c object) { c["exp"] = "2099" },
		"nbf is text":   func(_, c object) { c["nbf"] = "1" },
		"iat is null":   func(_, c object) { c["iat"] = nil },
		"expired":       at("exp", -10*time.Second),
		"not yet valid": at("nbf", 11*time.Second),
	})
	k := newResourceKit(t)
	for claim, d := range map[string]time.Duration{"exp": -9 * time.Second, "nbf": 10 * time.Second, "iat": 10 * time.Second} {
		token := k.token(t, object{"x5t#S256": k.x5t.String()}, at(claim, d))
		accepts(t, k.verifier(t), k.request("Bearer "+token, k.cert.Leaf)) // within Tolerance
	}
}

func TestH32_IssuedInTheFuture(t *testing.T) {
	tokens(t, "token lifetime", map[string]func(h, c object){
		"61 s ahead": func(_, c object) { c["iat"] = testStart.Add(61 * time.Second).Unix() },
		"nbf ahead":  func(_, c object) { c["nbf"] = testStart.Add(61 * time.Second).Unix() },
	})
	c := newResourceKit(t).conf
	c.Tolerance = 61 * time.Second
	if _, err := NewVerifier(c); err == nil {
		t.Error("a tolerance of 61 s is taken")
	}
}

func TestTokenClaims(t *testing.T) {
	edits := map[string]func(h, c object){}
	for _, name := range []string{"sub", "client_id", "jti", "scope"} {
		edits[name] = func(_, c object) { c[name] = 7 }
	}
	tokens(t, "token claims", edits)
}

func TestH91_TokenInTheQuery(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	for _, query := range []string{"access_token=x", "a=b&access_token=", "access%5Ftoken=x", "access_token"} {
		for _, authorization := range []string{"", "Bearer " + k.certToken(t)} {
			r := k.request(authorization, k.cert.Leaf)
			r.URL.RawQuery = query
			refuses(t, v, r, http.StatusBadRequest, CodeInvalidRequest, "no token in the query")
		}
	}
}

func TestH93_SufficientScope(t *testing.T) {
	k := newResourceKit(t)
	read := k.verifier(t, func(c *Config) { c.RequiredScopes = []string{"read"} })
	accepts(t, read, k.request("Bearer "+k.certToken(t), k.cert.Leaf))
	for _, scope := range []string{"", "reader", "Read"} {
		token := k.token(t, object{"x5t#S256": k.x5t.String()}, func(_, c object) { c["scope"] = scope })
		refuses(t, read, k.request("Bearer "+token, k.cert.Leaf), http.StatusForbidden, CodeInsufficientScope, "scope")
	}
}

func TestNewVerifierRefuses(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"no issuer":          func(c *Config) { c.Issuer = "" },
		"no audience":        func(c *Config) { c.Audience = "" },
		"negative tolerance": func(c *Config) { c.Tolerance = -1 },
		"negative age":       func(c *Config) { c.ProofMaxAge = -1 },
		"negative proofs":    func(c *Config) { c.MaxProofs = -1 },
		"no algorithms":      func(c *Config) { c.Algorithms = []string{} },
		"short nonce key":    func(c *Config) { c.NonceKey = []byte("short") },
		"base is a path":     func(c *Config) { c.BaseURL = "/api" },
		"base has a query":   func(c *Config) { c.BaseURL = "https://a/?b" },
		"base has a user":    func(c *Config) { c.BaseURL = "https://u@a" },
		"issuer over http":   func(c *Config) { c.Keys, c.Issuer = nil, "http://as.example" },
		"issuer is a name":   func(c *Config) { c.Keys, c.Issuer = nil, "as.example" },
		"issuer has a query": func(c *Config) { c.Keys, c.Issuer = nil, "https://as.example?x" },
	} {
		c := newResourceKit(t).conf
		edit(&c)
		if _, err := NewVerifier(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
