package authserver

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

func TestToken_IsAJWTAccessToken(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	a := h.token(clientID("a"), presenting(cert))
	token, claims := mustIssue(t, a)
	head := decodeSegment(t, token, 0)
	if head["typ"] != "at+jwt" || head["alg"] != "ES256" || head["kid"] != h.keys.set[0].KeyID {
		t.Errorf("header %v", head)
	}
	now := h.clock.now().Unix()
	for name, want := range map[string]any{"iss": h.url, "sub": "a", "client_id": "a", "aud": h.url, "scope": "read write",
		"iat": float64(now), "exp": float64(now + 300)} {
		if claims[name] != want {
			t.Errorf("%s is %v; want %v", name, claims[name], want)
		}
	}
	if jti, _ := claims["jti"].(string); len(jti) != 22 {
		t.Errorf("jti %q; want 128 bits", jti)
	}
	if a.body["expires_in"] != 300.0 || a.text("scope") != "read write" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("answer %v, %v", a.body, a.header)
	}
}

func TestToken_SigningAlgorithms(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for alg, key := range map[string]crypto.Signer{"EdDSA": ed, "PS256": rsaKey} {
		h := newHouse(t, func(c *Config) { c.Keys = append([]SigningKey{{key, alg}}, c.Keys...) })
		token, _ := mustIssue(t, h.token(clientID("a"), presenting(h.enrol("a"))))
		if got := decodeSegment(t, token, 0)["alg"]; got != alg {
			t.Errorf("alg %v; want %s", got, alg)
		}
		if _, err := h.keys.verify(token); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		if alg != "PS256" {
			continue
		}
		// RFC 7518 section 3.5: the salt is as long as the hash; others refuse a longer one.
		i := strings.LastIndexByte(token, '.')
		digest := sha256.Sum256([]byte(token[:i]))
		sig, _ := base64.RawURLEncoding.DecodeString(token[i+1:])
		if err := rsa.VerifyPSS(&rsaKey.PublicKey, crypto.SHA256, digest[:], sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}); err != nil {
			t.Errorf("PS256 salt: %v", err)
		}
	}
}

func TestA17_TokenIsBoundToTheCertificate(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	_, claims := mustIssue(t, h.token(clientID("a"), presenting(cert)))
	if got := member(claims, "cnf", "x5t#S256"); got != thumbprint.OfCertificate(cert.Leaf).String() {
		t.Errorf("cnf is %v", claims["cnf"])
	}
	if _, found := claims["cnf"].(map[string]any)["jkt"]; found {
		t.Error("cnf has a jkt without a proof")
	}
}

func TestA18_ThumbprintIsUnpaddedBase64URLOfTheDER(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	_, claims := mustIssue(t, h.token(clientID("a"), presenting(cert)))
	sum := sha256.Sum256(cert.Certificate[0])
	want := strings.TrimRight(base64.URLEncoding.EncodeToString(sum[:]), "=")
	if got := member(claims, "cnf", "x5t#S256"); got != want {
		t.Errorf("got %v; want %s", got, want)
	}
}

func TestA20_CertificateBoundTokenIsBearer(t *testing.T) {
	h := newHouse(t)
	a := h.token(clientID("a"), presenting(h.enrol("a")))
	mustIssue(t, a)
	if a.text("token_type") != "Bearer" {
		t.Errorf("token_type %v", a.body["token_type"])
	}
}

func TestA22_NothingToBindToIsRefused(t *testing.T) {
	h := newHouse(t)
	secret := h.add(Client{ID: "a", Auth: ClientSecretBasic})
	mustRefuse(t, h.token(nil, basic("a", secret)), 400, "invalid_request", h.config.MTLSBase+TokenPath)
}

func TestH23_OnlySenderConstrainedTokensUnlessAllowed(t *testing.T) {
	h := newHouse(t)
	secret := h.add(Client{ID: "a", Auth: ClientSecretBasic})
	mustRefuse(t, h.token(nil, basic("a", secret)), 400, "invalid_request", "DPoP")
	h.set("a", func(c *Client) { c.InsecureBearer = true })
	_, claims := mustIssue(t, h.token(nil, basic("a", secret)))
	if _, found := claims["cnf"]; found {
		t.Errorf("cnf is %v", claims["cnf"])
	}
}

func TestH21_OtherGrantsRefused(t *testing.T) {
	h := newHouse(t)
	secret := h.add(Client{ID: "a", Auth: ClientSecretBasic})
	for _, grant := range []string{"password", "refresh_token", "authorization_code", "urn:ietf:params:oauth:grant-type:jwt-bearer"} {
		mustRefuse(t, h.post(TokenPath, []string{"grant_type", grant, "username", "u", "password", "p"}, basic("a", secret)), 400, "unsupported_grant_type", grant)
	}
}

func TestScope_IsLimitedByTheRecord(t *testing.T) {
	h := newHouse(t)
	secret := h.add(Client{ID: "a", Auth: ClientSecretBasic, InsecureBearer: true})
	ask := func(scope string) answer { return h.token([]string{"scope", scope}, basic("a", secret)) }
	if _, claims := mustIssue(t, ask("write write")); claims["scope"] != "write" {
		t.Errorf("scope %v", claims["scope"])
	}
	mustRefuse(t, ask("read admin"), 400, "invalid_scope", "admin")
	mustRefuse(t, ask("read  write"), 400, "invalid_scope", "one space")
	mustRefuse(t, ask("re\\ad"), 400, "invalid_scope", "malformed")
	h.set("a", func(c *Client) { c.Scopes = nil })
	if _, claims := mustIssue(t, h.token(nil, basic("a", secret))); claims["scope"] != nil {
		t.Errorf("scope %v; want none", claims["scope"])
	}
}

func TestResource_IsLimitedByTheRecord(t *testing.T) {
	h := newHouse(t)
	one, two := "https://one.example/", "https://two.example/"
	secret := h.add(Client{ID: "a", Auth: ClientSecretBasic, InsecureBearer: true, Resources: []string{one, two}})
	if _, claims := mustIssue(t, h.token([]string{"resource", two, "resource", two}, basic("a", secret))); claims["aud"] != two {
		t.Errorf("aud %v; want a string", claims["aud"])
	}
	_, claims := mustIssue(t, h.token(nil, basic("a", secret)))
	if aud, _ := claims["aud"].([]any); !slices.Equal(aud, []any{one, two}) {
		t.Errorf("aud %v; want both", claims["aud"])
	}
	mustRefuse(t, h.token([]string{"resource", "https://three.example/"}, basic("a", secret)), 400, "invalid_target", "three")
	mustRefuse(t, h.token([]string{"resource", one + "#x"}, basic("a", secret)), 400, "invalid_target", "fragment")
	mustRefuse(t, h.token([]string{"resource", "/one"}, basic("a", secret)), 400, "invalid_target", "absolute")
}

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
	p.set("a", func(c *Client) { c.RequireNonce = true })
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
	p.clock.advance(proofMaxAge + p.config.Tolerance + 11*time.Second)
	mustRefuse(t, p.token(nil, client, header("DPoP", proof)), 400, "invalid_dpop_proof", "iat")
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

func TestLog_OneLinePerRefusalWithoutSecrets(t *testing.T) {
	p, client := dpopHouse(t)
	proof := p.proof("")
	token, _ := mustIssue(t, p.token(nil, client, header("DPoP", proof)))
	if p.log.Len() != 0 {
		t.Errorf("a success was logged as a refusal: %s", p.log)
	}
	p.token(nil, client, header("DPoP", proof))
	log := p.log.String()
	if strings.Count(log, "\n") != 1 || !strings.Contains(log, `"client_id":"a"`) || !strings.Contains(log, "invalid_dpop_proof") {
		t.Errorf("log: %s", log)
	}
	if strings.Contains(log, proof) || strings.Contains(log, token) {
		t.Errorf("the log has a proof or a token: %s", log)
	}
}

func TestErrorDescription_KeepsToItsCharacters(t *testing.T) {
	h := newHouse(t)
	secret := h.add(Client{ID: "a", Auth: ClientSecretBasic, InsecureBearer: true})
	a := h.post(TokenPath, []string{"grant_type", "\"\\\r\nSet-Cookie: x\x00ü"}, basic("a", secret))
	mustRefuse(t, a, 400, "unsupported_grant_type", "")
	if strings.ContainsFunc(a.text("error_description"), func(r rune) bool { return r < 0x20 || r > 0x7e || r == '"' || r == '\\' }) {
		t.Errorf("%q", a.text("error_description"))
	}
}
