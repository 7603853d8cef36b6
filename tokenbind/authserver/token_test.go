package authserver

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/pkid/pkid/thumbprint"
)

func TestToken_IsAJWTAccessToken(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	a := h.token(clientID("a"), presenting(cert))
	token, claims := mustIssue(t, a)
	head := decodeSegment(t, token, 0)
	if head["typ"] != "at+jwt" || head["alg"] != "ES256" || head["kid"] != h.keys.Load().set[0].id {
		t.Errorf("header %v", head)
	}
	now := h.clock.now().Unix()
	for name, want := range map[string]any{
		"iss": h.url, "sub": "a", "client_id": "a", "aud": h.url, "scope": "read write",
		"iat": float64(now), "exp": float64(now + 300),
	} {
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

// signers are keys by the algorithms that they are for.
func signers(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"ES256": newKey(t), "EdDSA": ed, "PS256": rsaKey}
}

func TestToken_SigningAlgorithms(t *testing.T) {
	for alg, key := range signers(t) {
		h := newHouse(t, func(c *Config) { c.Keys = append([]SigningKey{{key, alg}}, c.Keys...) })
		token, _ := mustIssue(t, h.token(clientID("a"), presenting(h.enrol("a"))))
		if got := decodeSegment(t, token, 0)["alg"]; got != alg {
			t.Errorf("alg %v; want %s", got, alg)
		}
		if h.keys.Load().verify(token) == nil {
			t.Errorf("%s: the server does not take its own token", alg)
		}
		if alg != "PS256" {
			continue
		}
		// RFC 7518 section 3.5: the salt is as long as the hash; others refuse a longer one.
		i := strings.LastIndexByte(token, '.')
		digest := sha256.Sum256([]byte(token[:i]))
		sig, _ := base64.RawURLEncoding.DecodeString(token[i+1:])
		if err := rsa.VerifyPSS(key.Public().(*rsa.PublicKey), crypto.SHA256, digest[:], sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}); err != nil {
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
