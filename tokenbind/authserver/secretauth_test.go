package authserver

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/pkid/pkid/tokenbind"
)

func TestClientSecretBasic_IsFormEncoded(t *testing.T) {
	h := newHouse(t)
	const id = "a:b c/ü"
	if _, _, err := h.registry.Add(t.Context(), Client{ID: id, Auth: ClientSecretBasic}); !errors.Is(err, ErrClientMetadata) {
		t.Fatalf("an id beyond ASCII: %v", err)
	}
	secret := h.add(Client{ID: "a:b c/%", Auth: ClientSecretBasic, InsecureBearer: true})
	mustIssue(t, h.token(nil, basic("a:b c/%", secret)))
	mustIssue(t, h.token(clientID("a:b c/%"), basic("a:b c/%", secret)))
}

func TestClientSecret_WrongSecretUnknownClientAndOtherMethodAreAnsweredAlike(t *testing.T) {
	h := newHouse(t)
	secret := h.add(Client{ID: "basic", Auth: ClientSecretBasic, InsecureBearer: true})
	post := h.add(Client{ID: "post", Auth: ClientSecretPost, InsecureBearer: true})
	h.enrol("mtls")
	mustIssue(t, h.token([]string{"client_id", "post", "client_secret", post}))
	var texts []string
	for _, a := range []answer{
		h.token(nil, basic("basic", "wrong")), h.token(nil, basic("nobody", secret)), h.token(nil, basic("post", post)), h.token(nil, basic("mtls", "x")),
		h.token(nil, basic("basic", "")),
	} {
		if a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("no WWW-Authenticate: %v", a.header)
		}
		mustRefuse(t, a, 401, "invalid_client", "")
		texts = append(texts, a.text("error_description"))
	}
	for _, form := range [][]string{
		{"client_id", "post", "client_secret", "wrong"},
		{"client_id", "basic", "client_secret", secret},
		{"client_id", "nobody", "client_secret", secret},
	} {
		a := h.token(form)
		mustRefuse(t, a, 401, "invalid_client", "")
		if a.header.Get("WWW-Authenticate") != "" {
			t.Errorf("a challenge where HTTP authentication was not used: %v", a.header)
		}
		texts = append(texts, a.text("error_description"))
	}
	for _, text := range texts {
		if text != texts[0] {
			t.Errorf("%q differs from %q", text, texts[0])
		}
	}
	if log := h.logged(); strings.Contains(log, secret) || strings.Contains(log, post) {
		t.Error("a secret is in the log")
	}
}

func TestClientAuthentication_OneMethodOnly(t *testing.T) {
	h := newHouse(t)
	secret := h.add(Client{ID: "a", Auth: ClientSecretBasic, InsecureBearer: true})
	assertion := []string{"client_assertion_type", assertionType, "client_assertion", "a.b.c"}
	for name, a := range map[string]answer{
		"header and body":      h.token([]string{"client_id", "a", "client_secret", secret}, basic("a", secret)),
		"header and assertion": h.token(assertion, basic("a", secret)),
		"body and assertion":   h.token(append(assertion, "client_secret", secret)),
		"two headers":          h.token(nil, header("Authorization", "Basic YTpi", "Basic YTpi")),
	} {
		if a.status != 400 || a.text("error") != "invalid_request" {
			t.Errorf("%s: %d %v", name, a.status, a.body)
		}
	}
	mustRefuse(t, h.token(clientID("b"), basic("a", secret)), 400, "invalid_request", "differs")
	mustRefuse(t, h.token(nil, header("Authorization", "Bearer x")), 401, "invalid_client", "Basic")
	mustRefuse(t, h.token(nil, header("Authorization", "Basic YSU6Yg==")), 401, "invalid_client", "form-encoded")
	mustRefuse(t, h.token([]string{"client_secret", secret}), 400, "invalid_request", "client_id")
}

// Whoever has no credentials of a client learns from no answer which clients there are, or how they authenticate.
func TestClientAuthentication_UnknownAndKnownClientsFailAlike(t *testing.T) {
	h := newHouse(t)
	key := newKey(t)
	_, set := selfSigned(t, h.clock.now())
	h.enrol("mtls")
	h.add(Client{ID: "self", Auth: SelfSignedTLSClientAuth, JWKS: set})
	h.add(Client{ID: "basic", Auth: ClientSecretBasic})
	h.add(Client{ID: "jwt", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public())})
	h.add(Client{ID: "hmac", Auth: ClientSecretJWT})
	stranger := sign(t, nil, newKey(t), leafTemplate("stranger", h.clock.now()))
	other := h.enrol("other")
	for name, try := range map[string]func(id string) answer{
		"a secret":              func(id string) answer { return h.token(nil, basic(id, "guess")) },
		"a certificate":         func(id string) answer { return h.token(clientID(id), presenting(stranger)) },
		"another's certificate": func(id string) answer { return h.token(clientID(id), presenting(other)) },
		"an assertion":          func(id string) answer { return h.token((&asserter{h, id, jose.ES256, newKey(t)}).assert(nil)) },
		"a MAC":                 func(id string) answer { return h.token((&asserter{h, id, jose.HS256, make([]byte, 43)}).assert(nil)) },
	} {
		want := try("nobody").text("error_description")
		for _, id := range []string{"mtls", "self", "basic", "jwt", "hmac"} {
			a := try(id)
			mustRefuse(t, a, 401, "invalid_client", "")
			if got := strings.ReplaceAll(a.text("error_description"), "'"+id+"'", "'nobody'"); got != want {
				t.Errorf("with %s, %s is told from nobody: %q, %q", name, id, got, want)
			}
		}
	}
}

func TestDisabledClientIsInvalidClient(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	h.set("a", func(c *Client) { c.Disabled = true })
	for path, form := range endpoints {
		mustRefuse(t, h.post(path, append(clientID("a"), form...), presenting(cert)), 401, "invalid_client", "disabled")
	}
}

func TestClientStoreThatFailsIsUnavailable(t *testing.T) {
	h := newHouse(t)
	h.clients.err = errors.New("disk on fire")
	a := h.token(nil, basic("a", "b"))
	mustRefuse(t, a, 503, "temporarily_unavailable", "try again")
	if strings.Contains(a.text("error_description"), "fire") || !strings.Contains(h.log.String(), "fire") {
		t.Error("the cause belongs into the log and nowhere else")
	}
}

// asserter signs client assertions.
type asserter struct {
	*house
	id  string
	alg jose.SignatureAlgorithm
	key any
}

// assert signs what change made of good claims.
func (a *asserter) assert(change func(map[string]any)) []string {
	a.Helper()
	now := a.clock.now()
	claims := map[string]any{"iss": a.id, "sub": a.id, "aud": a.config.Issuer, "jti": rand.Text(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	if change != nil {
		change(claims)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: a.alg, Key: a.key}, nil)
	if err != nil {
		a.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		a.Fatal(err)
	}
	return []string{"client_assertion_type", assertionType, "client_assertion", text}
}

func publicSet(t *testing.T, keys ...crypto.PublicKey) []byte {
	t.Helper()
	var set jose.JSONWebKeySet
	for i, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k, KeyID: strconv.Itoa(i)})
	}
	raw, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func newAsserter(t *testing.T) *asserter {
	t.Helper()
	h, key := newHouse(t), newKey(t)
	h.add(Client{ID: "a", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), InsecureBearer: true})
	return &asserter{h, "a", jose.ES256, key}
}

func TestH101_PrivateKeyJWTAlgorithms(t *testing.T) {
	h := newHouse(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256 := newKey(t)
	h.add(Client{
		ID: "a", Auth: PrivateKeyJWT, InsecureBearer: true,
		JWKS: publicSet(t, p256.Public(), p384.Public(), p521.Public(), rsaKey.Public(), ed.Public()),
	})
	for alg, key := range map[jose.SignatureAlgorithm]any{
		jose.ES256: p256, jose.ES384: p384, jose.ES512: p521,
		jose.PS256: rsaKey, jose.PS384: rsaKey, jose.PS512: rsaKey, jose.EdDSA: ed,
	} {
		a := &asserter{h, "a", alg, key}
		if got := h.token(a.assert(nil)); got.status != http.StatusOK {
			t.Errorf("%s: %d %v", alg, got.status, got.body)
		}
	}
	rs256 := &asserter{h, "a", jose.RS256, rsaKey}
	mustRefuse(t, h.token(rs256.assert(nil)), 401, "invalid_client", "RS256")
}

func TestH102_AlgNoneRefused(t *testing.T) {
	a := newAsserter(t)
	form := a.assert(nil)
	parts := strings.Split(form[3], ".")
	for _, alg := range []string{"none", "None", "NONE", ""} {
		for _, signature := range []string{"", parts[2]} {
			form[3] = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"`+alg+`"}`)) + "." + parts[1] + "." + signature
			mustRefuse(t, a.token(form), 401, "invalid_client", "none are not taken")
			lines := strings.Split(strings.TrimSpace(a.logged()), "\n")
			if last := lines[len(lines)-1]; signature != "" && !strings.Contains(last, "alg: ") {
				t.Errorf("%q with a signature is refused for something else: %s", alg, last)
			}
		}
	}
}

func TestClientSecretJWT_SecretIsTheHS256Key(t *testing.T) {
	h := newHouse(t)
	secret := h.add(Client{ID: "a", Auth: ClientSecretJWT, InsecureBearer: true})
	a := &asserter{h, "a", jose.HS256, []byte(secret)}
	mustIssue(t, h.token(a.assert(nil)))
	wrong := &asserter{h, "a", jose.HS256, bytes.Repeat([]byte("x"), 43)}
	h.mustFail(h.token(wrong.assert(nil)), "no key or secret of the client matches")
	asymmetric := &asserter{h, "a", jose.ES256, newKey(t)}
	h.mustFail(h.token(asymmetric.assert(nil)), "no key or secret of the client matches")
}

func TestPrivateKeyJWT_PublicKeyIsNoHS256Secret(t *testing.T) {
	a := newAsserter(t)
	point, err := a.key.(*ecdsa.PrivateKey).PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	confused := &asserter{a.house, "a", jose.HS256, point}
	a.mustFail(a.token(confused.assert(nil)), "no key or secret of the client matches")
}

func TestAssertion_Claims(t *testing.T) {
	a := newAsserter(t)
	now := a.clock.now()
	for name, change := range map[string]func(map[string]any){
		"issuer is another":       func(c map[string]any) { c["iss"] = "b" },
		"client is unknown":       func(c map[string]any) { c["iss"], c["sub"] = "b", "b" },
		"no subject":              func(c map[string]any) { delete(c, "sub") },
		"no audience":             func(c map[string]any) { delete(c, "aud") },
		"another server":          func(c map[string]any) { c["aud"] = "https://other.example" },
		"this and another server": func(c map[string]any) { c["aud"] = []string{a.config.Issuer, "https://other.example"} },
		"no exp":                  func(c map[string]any) { delete(c, "exp") },
		"expired":                 func(c map[string]any) { c["exp"] = now.Add(-time.Minute).Unix() },
		"exp beyond an hour":      func(c map[string]any) { c["exp"] = now.Add(2 * time.Hour).Unix() },
		"iat in the future":       func(c map[string]any) { c["iat"] = now.Add(61 * time.Second).Unix() },
		"nbf in the future":       func(c map[string]any) { c["nbf"] = now.Add(61 * time.Second).Unix() },
		"no jti":                  func(c map[string]any) { delete(c, "jti") },
		"jti too long":            func(c map[string]any) { c["jti"] = strings.Repeat("x", maxJTI+1) },
		"jti that is a number":    func(c map[string]any) { c["jti"] = 7 },
	} {
		got := a.token(a.assert(change))
		if got.text("access_token") != "" || got.status/100 != 4 {
			t.Errorf("%s: %d %v", name, got.status, got.body)
		}
	}
}

// FAPI 2.0 (H27) would have the issuer alone; who follows RFC 7523 section 3 to the letter is let in too.
func TestAssertion_AudienceIsTheIssuerOrTheTokenEndpoint(t *testing.T) {
	a := newAsserter(t)
	mustIssue(t, a.token(a.assert(nil)))
	mustIssue(t, a.token(a.assert(func(c map[string]any) { c["aud"] = []string{a.config.Issuer} })))
	mustIssue(t, a.token(a.assert(func(c map[string]any) { c["aud"] = a.config.Issuer + TokenPath })))
	mustIssue(t, a.token(a.assert(func(c map[string]any) { c["aud"] = a.config.MTLSBase + TokenPath })))
}

func TestH32_AssertionALittleAheadAccepted(t *testing.T) {
	a := newAsserter(t)
	ahead := a.clock.now().Add(9 * time.Second).Unix()
	mustIssue(t, a.token(a.assert(func(c map[string]any) { c["iat"], c["nbf"] = ahead, ahead })))
}

func TestAssertion_IsUsedOnce(t *testing.T) {
	a := newAsserter(t)
	form := a.assert(nil)
	mustIssue(t, a.token(form))
	mustRefuse(t, a.token(form), 401, "invalid_client", "used before")
	a.clock.advance(time.Minute + 9*time.Second) // still within exp and the tolerance
	mustRefuse(t, a.token(form), 401, "invalid_client", "used before")
	a.clock.advance(2 * time.Second)
	mustRefuse(t, a.token(form), 401, "invalid_client", "expired")
}

// lateReplay forgets like a store on a node whose clock is ahead.
type lateReplay struct {
	tokenbind.Replay
	until time.Time
}

func (r *lateReplay) Use(ctx context.Context, key [32]byte, until time.Time) error {
	r.until = until
	return r.Replay.Use(ctx, key, until)
}

// Two nodes' clocks may each be off by the tolerance: what one has forgotten the other must not take.
func TestAssertion_IsRememberedForTwiceTheTolerance(t *testing.T) {
	var replay *lateReplay
	h := newHouse(t, func(c *Config) {
		replay = &lateReplay{Replay: c.Assertions}
		c.Assertions = replay
	})
	key := newKey(t)
	h.add(Client{ID: "a", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), InsecureBearer: true})
	mustIssue(t, h.token((&asserter{h, "a", jose.ES256, key}).assert(nil)))
	if want := h.clock.now().Truncate(time.Second).Add(time.Minute + 20*time.Second); replay.until.Before(want) {
		t.Errorf("remembered until %v, want %v", replay.until, want)
	}
}

func TestAssertion_FiftyAtOnceGiveOneToken(t *testing.T) {
	a := newAsserter(t)
	form := a.assert(nil)
	if n := issuedOf(50, func() answer { return a.token(form) }); n != 1 {
		t.Fatalf("%d tokens for one assertion", n)
	}
}

// issuedOf sends n requests at once and counts the tokens.
func issuedOf(n int, send func() answer) (issued int) {
	var wg sync.WaitGroup
	answers := make([]answer, n)
	for i := range n {
		wg.Go(func() { answers[i] = send() })
	}
	wg.Wait()
	for _, a := range answers {
		if a.status == http.StatusOK {
			issued++
		}
	}
	return issued
}

func TestAssertion_NoClientSpendsAnothersJTI(t *testing.T) {
	a := newAsserter(t)
	key := newKey(t)
	a.add(Client{ID: "b", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), InsecureBearer: true})
	b := &asserter{a.house, "b", jose.ES256, key}
	same := func(c map[string]any) { c["jti"] = "same" }
	mustIssue(t, a.token(a.assert(same)))
	mustIssue(t, b.token(b.assert(same)))
	forged := &asserter{a.house, "a", jose.ES256, key} // signed with the wrong key
	next := func(c map[string]any) { c["jti"] = "next" }
	a.mustFail(a.token(forged.assert(next)), "no key or secret of the client matches")
	mustIssue(t, a.token(a.assert(next)))
}

func TestAssertion_KidSelectsAndUseCounts(t *testing.T) {
	h := newHouse(t)
	one, two := newKey(t), newKey(t)
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: one.Public(), KeyID: "k"}, {Key: two.Public(), KeyID: "k"}, {Key: newKey(t).Public(), KeyID: "e", Use: "enc"}}}
	raw, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	h.add(Client{ID: "a", Auth: PrivateKeyJWT, JWKS: raw, InsecureBearer: true})
	// H109: with a kid that is there twice, each key is tried.
	for _, key := range []*ecdsa.PrivateKey{one, two} {
		a := &asserter{h, "a", jose.ES256, jose.JSONWebKey{Key: key, KeyID: "k"}}
		mustIssue(t, h.token(a.assert(nil)))
	}
	other := &asserter{h, "a", jose.ES256, jose.JSONWebKey{Key: one, KeyID: "other"}}
	h.mustFail(h.token(other.assert(nil)), "no key or secret of the client matches")
}

func TestAssertion_Malformed(t *testing.T) {
	a := newAsserter(t)
	good := a.assert(nil)
	for name, form := range map[string][]string{
		"no type":    good[2:],
		"other type": {"client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer", "client_assertion", good[3]},
		"no value":   good[:2],
		"too long":   {good[0], good[1], good[2], strings.Repeat("a", maxAssertion+1)},
		"no JWT":     {good[0], good[1], good[2], "a.b"},
		"cut short":  {good[0], good[1], good[2], good[3][:len(good[3])-8]},
	} {
		if got := a.token(form); got.status/100 != 4 || got.text("error_description") == "" {
			t.Errorf("%s: %d %v", name, got.status, got.body)
		}
	}
	if strings.Contains(a.log.String(), good[3]) {
		t.Error("an assertion is in the log")
	}
}

func TestForm(t *testing.T) {
	h := newHouse(t)
	secret := h.add(Client{ID: "a", Auth: ClientSecretBasic, InsecureBearer: true, Resources: []string{"https://a.example", "https://b.example"}})
	grant := "grant_type=client_credentials"
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded; charset=UTF-8"}}
	for name, test := range map[string]struct {
		method, query, body string
		header              http.Header
		want                int
	}{
		"good":               {"POST", "", grant, form, 200},
		"empty parameters":   {"POST", "", grant + "&scope=&resource=", form, 200},
		"two resources":      {"POST", "", grant + "&resource=https://a.example&resource=https://b.example", form, 200},
		"repeated parameter": {"POST", "", grant + "&" + grant, form, 400},
		"in the URL":         {"POST", "?" + grant, "", form, 400},
		"JSON":               {"POST", "", "{}", http.Header{"Content-Type": {"application/json"}}, 400},
		"no media type":      {"POST", "", grant, http.Header{}, 400},
		"bad escape":         {"POST", "", grant + "&scope=%zz", form, 400},
		"too large":          {"POST", "", grant + "&x=" + strings.Repeat("a", maxBody), form, 413},
		"GET":                {"GET", "", "", form, 405},
		"no grant type":      {"POST", "", "scope=read", form, 400},
	} {
		req, err := http.NewRequestWithContext(t.Context(), test.method, h.url+TokenPath+test.query, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(req.Header, test.header)
		got := h.send(req, basic("a", secret))
		if got.status != test.want || test.want != 200 && got.text("error_description") == "" {
			t.Errorf("%s: %d %v; want %d", name, got.status, got.body, test.want)
		}
	}
}
