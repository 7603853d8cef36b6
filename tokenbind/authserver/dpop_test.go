package authserver

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

// dpopHouse has a client "a" that authenticates with a secret and sends proofs.
func dpopHouse(t *testing.T, options ...func(*Config)) (*prover, option) {
	t.Helper()
	h := newHouse(t, options...)
	secret := h.add(Client{ID: "a", Auth: ClientSecretBasic, DPoP: true})
	return h.prover(), basic("a", secret)
}

func TestE01_BadProofIsInvalidDPoPProof(t *testing.T) {
	p, client := dpopHouse(t)
	for name, values := range map[string][]string{"empty": {""}, "garbage": {"x"}, "two": {p.proof(""), p.proof("")}, "folded": {p.proof("") + "," + p.proof("")}} {
		a := p.token(nil, client, header("DPoP", values...))
		if a.status != 400 || a.text("error") != "invalid_dpop_proof" || a.text("error_description") == "" {
			t.Errorf("%s: %d %v", name, a.status, a.body)
		}
	}
	other, err := p.Proof(http.MethodPost, "https://other.example"+TokenPath, tokenbind.ProofOptions{Now: p.clock.now()})
	if err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, p.token(nil, client, header("DPoP", other)), 400, "invalid_dpop_proof", "other.example")
}

func TestE02_TokenTypeIsDPoP(t *testing.T) {
	p, client := dpopHouse(t)
	a := p.token(nil, client, header("DPoP", p.proof("")))
	mustIssue(t, a)
	if a.text("token_type") != "DPoP" {
		t.Errorf("token_type %v", a.body["token_type"])
	}
}

func TestE05_UnboundTokenOnlyIfAllowed(t *testing.T) {
	h := newHouse(t)
	secret := h.add(Client{ID: "a", Auth: ClientSecretBasic, InsecureBearer: true})
	a := h.token(nil, basic("a", secret))
	mustIssue(t, a)
	if a.text("token_type") != "Bearer" {
		t.Errorf("token_type %v", a.body["token_type"])
	}
	a = h.token(nil, basic("a", secret), header("DPoP", h.prover().proof("")))
	if _, claims := mustIssue(t, a); member(claims, "cnf", "jkt") == nil {
		t.Error("a proof was sent, and the token is not bound to it")
	}
}

func TestE06_DPoPWorksWithEachAuthenticationMethod(t *testing.T) {
	h := newHouse(t)
	key, cert := newKey(t), h.enrol("mtls")
	h.add(Client{ID: "jwt", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public())})
	post := h.add(Client{ID: "post", Auth: ClientSecretPost})
	p := h.prover()
	for name, a := range map[string]answer{
		"tls_client_auth":    h.token(clientID("mtls"), presenting(cert), header("DPoP", p.proof(""))),
		"private_key_jwt":    h.token((&asserter{h, "jwt", jose.ES256, key}).assert(nil), header("DPoP", p.proof(""))),
		"client_secret_post": h.token([]string{"client_id", "post", "client_secret", post}, header("DPoP", p.proof(""))),
	} {
		if _, claims := mustIssue(t, a); member(claims, "cnf", "jkt") != p.Key().String() {
			t.Errorf("%s: cnf %v", name, claims["cnf"])
		}
	}
}

func TestToken_CertificateAndProofBindToBoth(t *testing.T) {
	h := newHouse(t)
	cert, p := h.enrol("a"), h.prover()
	a := h.token(clientID("a"), presenting(cert), header("DPoP", p.proof("")))
	_, claims := mustIssue(t, a)
	if member(claims, "cnf", "jkt") != p.Key().String() || member(claims, "cnf", "x5t#S256") != thumbprint.OfCertificate(cert.Leaf).String() {
		t.Errorf("cnf %v", claims["cnf"])
	}
	if a.text("token_type") != "DPoP" {
		t.Errorf("token_type %v", a.body["token_type"])
	}
}

func TestToken_ProofForTheAliasIsAccepted(t *testing.T) {
	p, client := dpopHouse(t)
	proof, err := p.Proof(http.MethodPost, p.config.MTLSBase+TokenPath, tokenbind.ProofOptions{Now: p.clock.now()})
	if err != nil {
		t.Fatal(err)
	}
	mustIssue(t, p.token(nil, client, header("DPoP", proof)))
}

func TestE08_ProofIsRequiredOfADPoPClient(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	h.set("a", func(c *Client) { c.DPoP = true })
	mustRefuse(t, h.token(clientID("a"), presenting(cert)), 400, "invalid_dpop_proof", "send a proof")
}

func TestE09_JKTIsTheKeysThumbprint(t *testing.T) {
	p, client := dpopHouse(t)
	proof := p.proof("")
	_, claims := mustIssue(t, p.token(nil, client, header("DPoP", proof)))
	jwk := decodeSegment(t, proof, 0)["jwk"].(map[string]any)
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + jwk["x"].(string) + `","y":"` + jwk["y"].(string) + `"}`))
	if got, want := member(claims, "cnf", "jkt"), base64.RawURLEncoding.EncodeToString(sum[:]); got != want {
		t.Errorf("jkt %v; want %s", got, want)
	}
}

func requireNonce(c *Config) { c.RequireNonce = true }

// demandNonce sends a proof without a nonce, and returns the nonce of the refusal.
func demandNonce(t *testing.T, p *prover, client option) string {
	t.Helper()
	a := p.token(nil, client, header("DPoP", p.proof("")))
	mustRefuse(t, a, 400, "use_dpop_nonce", "")
	if got := a.header.Values("DPoP-Nonce"); len(got) != 1 {
		t.Fatalf("%d DPoP-Nonce headers", len(got))
	}
	return a.header.Get("DPoP-Nonce")
}

func TestE11_MissingOrStaleNonceIsToldWithANewOne(t *testing.T) {
	p, client := dpopHouse(t, requireNonce)
	nonce := demandNonce(t, p, client)
	mustIssue(t, p.token(nil, client, header("DPoP", p.proof(nonce))))
	p.clock.advance(2 * nonceLifetime)
	a := p.token(nil, client, header("DPoP", p.proof(nonce)))
	mustRefuse(t, a, 400, "use_dpop_nonce", "")
	mustIssue(t, p.token(nil, client, header("DPoP", p.proof(a.header.Get("DPoP-Nonce")))))
}

func TestE11_NonceForOneClientOnly(t *testing.T) {
	p, client := dpopHouse(t)
	mustIssue(t, p.token(nil, client, header("DPoP", p.proof(""))))
	p.set("a", func(c *Client) { c.Nonce = NonceRequired })
	nonce := demandNonce(t, p, client)
	mustIssue(t, p.token(nil, client, header("DPoP", p.proof(nonce))))
}

func TestE12_OneUnpredictableNonce(t *testing.T) {
	p, client := dpopHouse(t, requireNonce)
	other, clientOfOther := dpopHouse(t, func(c *Config) { c.RequireNonce, c.NonceKey = true, []byte(strings.Repeat("k", 32)) })
	other.clock.at = p.clock.now()
	one, two := demandNonce(t, p, client), demandNonce(t, other, clientOfOther)
	if one == two || len(one) < 16 {
		t.Errorf("nonces %q and %q do not depend on the key", one, two)
	}
	a := p.token(nil, client, header("DPoP", p.proof(one)))
	mustIssue(t, a)
	if n := len(a.header.Values("DPoP-Nonce")); n != 1 {
		t.Errorf("%d DPoP-Nonce headers in a 200", n)
	}
}

func TestE13_AnyOtherNonceRefused(t *testing.T) {
	p, client := dpopHouse(t, requireNonce)
	nonce := demandNonce(t, p, client)
	foreign, err := tokenbind.NewNonces(p.config.NonceKey, "resource server", nonceLifetime, p.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{nonce + "A", nonce[:len(nonce)-1], strings.ToLower(nonce), "x", foreign.Current()} {
		mustRefuse(t, p.token(nil, client, header("DPoP", p.proof(bad))), 400, "use_dpop_nonce", "")
	}
}

// A resource server may share the nonce key, as nodes do; its nonces are still not the token endpoint's.
func TestF12_NoncesOfTokenEndpointAndResourceServerStayApart(t *testing.T) {
	const rs = "https://rs.example"
	p, client := dpopHouse(t, requireNonce)
	p.set("a", func(c *Client) { c.Resources = []string{rs} })
	v, err := tokenbind.NewVerifier(tokenbind.Config{
		Issuer: p.config.Issuer, Audience: rs, RequireNonce: true, NonceKey: p.config.NonceKey, Now: p.clock.now,
		Keys:   tokenbind.StaticKeys{{Key: p.config.Keys[0].Key.Public()}},
		Replay: tokenbind.NewMemoryReplay(10, p.clock.now), Logger: p.config.Logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	ofAS := demandNonce(t, p, client)
	token, _ := mustIssue(t, p.token(nil, client, header("DPoP", p.proof(ofAS))))
	call := func(nonce string) *tokenbind.Error {
		t.Helper()
		proof, err := p.Proof(http.MethodGet, rs+"/", tokenbind.ProofOptions{AccessToken: token, Nonce: nonce, Now: p.clock.now()})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, rs+"/", nil)
		r.Header.Set("Authorization", "DPoP "+token)
		r.Header.Set("DPoP", proof)
		_, err = v.Verify(r)
		refused, _ := errors.AsType[*tokenbind.Error](err)
		return refused
	}
	refused := call(ofAS)
	if refused == nil || refused.Code != "use_dpop_nonce" || refused.Nonce == "" || refused.Nonce == ofAS {
		t.Fatalf("with the token endpoint's nonce: %+v", refused)
	}
	if again := call(refused.Nonce); again != nil {
		t.Errorf("with its own: %v", again)
	}
	mustRefuse(t, p.token(nil, client, header("DPoP", p.proof(refused.Nonce))), 400, "use_dpop_nonce", "")
}

func TestE14_NonceSyntax(t *testing.T) {
	p, client := dpopHouse(t, requireNonce)
	if nonce := demandNonce(t, p, client); nonce == "" || strings.ContainsFunc(nonce, func(r rune) bool { return r < 0x21 || r > 0x7e || r == '"' || r == '\\' }) {
		t.Errorf("%q is not 1*NQCHAR", nonce)
	}
}

func TestE15_NewNonceInA200ThatIsNotCached(t *testing.T) {
	p, client := dpopHouse(t, requireNonce)
	a := p.token(nil, client, header("DPoP", p.proof(demandNonce(t, p, client))))
	mustIssue(t, a)
	next := a.header.Get("DPoP-Nonce")
	if next == "" || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("header %v", a.header)
	}
	mustIssue(t, p.token(nil, client, header("DPoP", p.proof(next))))
}

func TestE19_ProofsAreGoodForALimitedTime(t *testing.T) {
	p, client := dpopHouse(t)
	proof := p.proof("")
	second := p.proof("")
	p.clock.advance(69 * time.Second) // 60, and 10 for clocks; iat has whole seconds
	mustIssue(t, p.token(nil, client, header("DPoP", proof)))
	p.clock.advance(2 * time.Second)
	mustRefuse(t, p.token(nil, client, header("DPoP", second)), 400, "invalid_dpop_proof", "iat")
}

// signProof makes a proof of other claims and headers than a Prover would.
func signProof(t *testing.T, h *house, alg jose.SignatureAlgorithm, key any, typ jose.ContentType, change func(map[string]any)) string {
	t.Helper()
	claims := map[string]any{"jti": rand.Text(), "htm": "POST", "htu": h.url + TokenPath, "iat": h.clock.now().Unix()}
	if change != nil {
		change(claims)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{EmbedJWK: alg != jose.HS256}).WithType(typ))
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestE20_NeedlesslyLargeJTIRefused(t *testing.T) {
	p, client := dpopHouse(t)
	large := signProof(t, p.house, jose.ES256, newKey(t), "dpop+jwt", func(c map[string]any) { c["jti"] = strings.Repeat("x", 1000) })
	mustRefuse(t, p.token(nil, client, header("DPoP", large)), 400, "invalid_dpop_proof", "jti")
}

func TestE21_ProofALittleAheadAccepted(t *testing.T) {
	p, client := dpopHouse(t)
	at := func(d time.Duration) answer {
		return p.token(nil, client, header("DPoP", signProof(t, p.house, jose.ES256, newKey(t), "dpop+jwt",
			func(c map[string]any) { c["iat"] = p.clock.now().Add(d).Unix() })))
	}
	mustIssue(t, at(9*time.Second))
	mustRefuse(t, at(30*time.Second), 400, "invalid_dpop_proof", "iat")
}

func TestE22_TokensDoNotLiveLong(t *testing.T) {
	h := newHouse(t)
	long := h.config
	long.TokenLifetime = time.Hour + time.Second
	if _, err := New(long); err == nil || !strings.Contains(err.Error(), "TokenLifetime") {
		t.Errorf("a lifetime above an hour: %v", err)
	}
	if a := h.token(clientID("a"), presenting(h.enrol("a"))); a.body["expires_in"] != defaultLifetime.Seconds() {
		t.Errorf("expires_in %v", a.body["expires_in"])
	}
}

func TestE23_NoProofWithoutNonceOnceNoncesAreRequired(t *testing.T) {
	p, client := dpopHouse(t, requireNonce)
	mustIssue(t, p.token(nil, client, header("DPoP", p.proof(demandNonce(t, p, client)))))
	demandNonce(t, p, client) // as before: refused
}

func TestE24_OtherJWTsAreNoProofs(t *testing.T) {
	p, client := dpopHouse(t)
	for _, typ := range []jose.ContentType{"JWT", "at+jwt", "DPOP"} {
		mustRefuse(t, p.token(nil, client, header("DPoP", signProof(t, p.house, jose.ES256, newKey(t), typ, nil))), 400, "invalid_dpop_proof", "typ")
	}
}

func TestE25_NoneAndMACsRefused(t *testing.T) {
	p, client := dpopHouse(t)
	mac := signProof(t, p.house, jose.HS256, make([]byte, 32), "dpop+jwt", nil)
	mustRefuse(t, p.token(nil, client, header("DPoP", mac)), 400, "invalid_dpop_proof", "alg")
	parts := strings.Split(p.proof(""), ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"dpop+jwt","alg":"none"}`)) + "." + parts[1] + "."
	if a := p.token(nil, client, header("DPoP", none)); a.status != 400 || a.text("error") != "invalid_dpop_proof" {
		t.Errorf("none: %d %v", a.status, a.body)
	}
}

func TestE27_FiftyIdenticalProofsGiveOneToken(t *testing.T) {
	p, client := dpopHouse(t)
	proof := p.proof("")
	if n := issuedOf(50, func() answer { return p.token(nil, client, header("DPoP", proof)) }); n != 1 {
		t.Fatalf("%d tokens for one proof", n)
	}
}

func TestE27_ReplayRefusedOnAnotherNode(t *testing.T) {
	p, client := dpopHouse(t)
	proof := p.proof("")
	mustIssue(t, p.token(nil, client, header("DPoP", proof)))
	node, err := New(p.config) // shares the stores and nothing else
	if err != nil {
		t.Fatal(err)
	}
	p.Server.proofs = node.proofs
	mustRefuse(t, p.token(nil, client, header("DPoP", proof)), 400, "invalid_dpop_proof", "")
}

func TestE27_ReplayRefusedForTheWholeWindow(t *testing.T) {
	p, client := dpopHouse(t)
	ahead := signProof(t, p.house, jose.ES256, newKey(t), "dpop+jwt", func(c map[string]any) { c["iat"] = p.clock.now().Add(9 * time.Second).Unix() })
	mustIssue(t, p.token(nil, client, header("DPoP", ahead)))
	for range 9 {
		p.clock.advance(9 * time.Second)
		mustRefuse(t, p.token(nil, client, header("DPoP", ahead)), 400, "invalid_dpop_proof", "")
	}
}

func TestE28_ReplayIsInvalidDPoPProof(t *testing.T) {
	p, client := dpopHouse(t)
	proof := p.proof("")
	mustIssue(t, p.token(nil, client, header("DPoP", proof)))
	mustRefuse(t, p.token(nil, client, header("DPoP", proof)), 400, "invalid_dpop_proof", "jti")
}

func TestE29_OneKeyCannotSpendAnothersJTI(t *testing.T) {
	p, client := dpopHouse(t)
	same := func(c map[string]any) { c["jti"] = "same" }
	mustIssue(t, p.token(nil, client, header("DPoP", signProof(t, p.house, jose.ES256, newKey(t), "dpop+jwt", same))))
	mustIssue(t, p.token(nil, client, header("DPoP", signProof(t, p.house, jose.ES256, newKey(t), "dpop+jwt", same))))
}

func TestToken_WhoIsNotGrantedATokenSpendsNoProof(t *testing.T) {
	p, client := dpopHouse(t)
	proof := header("DPoP", p.proof(""))
	mustRefuse(t, p.token(nil, basic("a", "wrong"), proof), 401, "invalid_client", "")
	mustRefuse(t, p.token([]string{"scope", "admin"}, client, proof), 400, "invalid_scope", "")
	mustIssue(t, p.token(nil, client, proof))
}

func TestToken_ReplayStoreThatFailsIsUnavailable(t *testing.T) {
	p, client := dpopHouse(t, func(c *Config) { c.Replay = brokenReplay{} })
	mustRefuse(t, p.token(nil, client, header("DPoP", p.proof(""))), 503, "temporarily_unavailable", "try again")
}
