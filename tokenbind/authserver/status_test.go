package authserver

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

type brokenReplay struct{}

func (brokenReplay) Use(context.Context, [32]byte, time.Time) error {
	return errors.New("disk on fire")
}

// resourceServer adds a client that may introspect any token, and returns a function that asks about one.
func (h *house) resourceServer() func(token string) answer {
	h.Helper()
	secret := h.add(Client{ID: "rs", Auth: ClientSecretBasic, Introspect: true})
	return func(token string) answer { return h.introspect(token, "rs", secret) }
}

func mustBeActive(t *testing.T, a answer, want bool) {
	t.Helper()
	if a.status != http.StatusOK || a.body["active"] != want || !want && len(a.body) != 1 {
		t.Fatalf("status %d, %v; want active %t, and nothing else of a dead token", a.status, a.body, want)
	}
	if a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("the answer may be cached: %v", a.header)
	}
}

func TestIntrospection_Members(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	cert := h.enrol("a")
	token, claims := mustIssue(t, h.token(clientID("a"), presenting(cert)))
	a := ask(token)
	mustBeActive(t, a, true)
	for _, name := range []string{"scope", "client_id", "exp", "iat", "sub", "aud", "iss", "jti"} {
		if a.body[name] != claims[name] || a.body[name] == nil {
			t.Errorf("%s is %v; the token says %v", name, a.body[name], claims[name])
		}
	}
}

func TestA19_IntrospectionHasTheCertificatesThumbprint(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	cert := h.enrol("a")
	token, _ := mustIssue(t, h.token(clientID("a"), presenting(cert)))
	a := ask(token)
	mustBeActive(t, a, true)
	if got := member(a.body, "cnf", "x5t#S256"); got != thumbprint.OfCertificate(cert.Leaf).String() || a.text("token_type") != "Bearer" {
		t.Errorf("cnf %v, token_type %v", a.body["cnf"], a.body["token_type"])
	}
}

func TestE10_IntrospectionHasTheKeysThumbprint(t *testing.T) {
	p, client := dpopHouse(t)
	ask := p.resourceServer()
	token, _ := mustIssue(t, p.token(nil, client, header("DPoP", p.proof(""))))
	a := ask(token) // without a proof
	mustBeActive(t, a, true)
	if member(a.body, "cnf", "jkt") != p.Key().String() || a.text("token_type") != "DPoP" {
		t.Errorf("cnf %v, token_type %v", a.body["cnf"], a.body["token_type"])
	}
}

func TestA34_TokenDiesWithItsCertificate(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	cert := h.enrol("a")
	token, _ := mustIssue(t, h.token(clientID("a"), presenting(cert)))
	mustBeActive(t, ask(token), true)
	h.certs.revoke(cert)
	mustBeActive(t, ask(token), false)
}

func TestIntrospection_TokenDiesWithItsCertificatesTime(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	h.enrol("a")
	template := leafTemplate("a", h.clock.now())
	template.NotAfter = h.clock.now().Add(30 * time.Second).Truncate(time.Second)
	cert := h.issue("a", template)
	a := h.token(clientID("a"), presenting(cert))
	token, claims := mustIssue(t, a)
	if claims["exp"] != float64(template.NotAfter.Unix()) {
		t.Errorf("exp %v, and the certificate ends at %v", claims["exp"], template.NotAfter.Unix())
	}
	if in, _ := a.body["expires_in"].(float64); in < 28 || in > 30 {
		t.Errorf("expires_in %v", a.body["expires_in"])
	}
	mustBeActive(t, ask(token), true)
	h.clock.advance(31 * time.Second)
	mustBeActive(t, ask(token), false)
}

func TestIntrospection_TokenOfASelfMadeCertificateIsActive(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	cert, set := selfSigned(t, h.clock.now())
	h.add(Client{ID: "a", Auth: SelfSignedTLSClientAuth, JWKS: set})
	token, _ := mustIssue(t, h.token(clientID("a"), presenting(cert)))
	mustBeActive(t, ask(token), true)
}

func TestIntrospection_OwnTokensOnlyUnlessAllowed(t *testing.T) {
	h := newHouse(t)
	one := h.add(Client{ID: "one", Auth: ClientSecretBasic, InsecureBearer: true})
	two := h.add(Client{ID: "two", Auth: ClientSecretBasic, InsecureBearer: true})
	token, _ := mustIssue(t, h.token(nil, basic("one", one)))
	mustBeActive(t, h.introspect(token, "one", one), true)
	mustBeActive(t, h.introspect(token, "two", two), false)
	mustBeActive(t, h.resourceServer()(token), true)
}

func TestIntrospection_TokenDiesWhenItExpires(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	token, _ := mustIssue(t, h.token(clientID("a"), presenting(h.enrol("a"))))
	h.clock.advance(defaultLifetime - time.Second)
	mustBeActive(t, ask(token), true)
	h.clock.advance(time.Second)
	mustBeActive(t, ask(token), false)
}

func TestIntrospection_TokenDiesWithItsClientForGood(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	cert := h.enrol("a")
	h.clock.at = h.clock.at.Truncate(time.Second).Add(900 * time.Millisecond)
	token, _ := mustIssue(t, h.token(clientID("a"), presenting(cert)))
	h.clock.advance(50 * time.Millisecond) // within the second of the token's iat
	h.set("a", func(c *Client) { c.Disabled = true })
	mustBeActive(t, ask(token), false)
	h.clock.advance(10 * time.Millisecond)
	h.set("a", func(c *Client) { c.Disabled = false })
	mustBeActive(t, ask(token), false)
	again, claims := mustIssue(t, h.token(clientID("a"), presenting(cert)))
	mustBeActive(t, ask(again), true)
	if iat, _ := claims["iat"].(float64); time.Unix(int64(iat), 0).Sub(h.clock.now()) > time.Second {
		t.Errorf("iat %v is more than a second ahead", claims["iat"])
	}
}

// A token of the second in which its client was enabled is dated at the next one. A client that is disabled and enabled
// once more within that second must not revive it.
func TestIntrospection_TokenDiesWithItsClientSwitchedManyTimesInOneSecond(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	cert := h.enrol("a")
	var dead []string
	for range 3 {
		for _, disabled := range []bool{true, false} {
			h.clock.advance(10 * time.Millisecond)
			h.set("a", func(c *Client) { c.Disabled = disabled })
		}
		for _, token := range dead {
			mustBeActive(t, ask(token), false)
		}
		token, _ := mustIssue(t, h.token(clientID("a"), presenting(cert)))
		mustBeActive(t, ask(token), true)
		dead = append(dead, token)
	}
}

func TestIntrospection_TokenOfADisabledClientIsDeadWhateverItsDate(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	token, _ := mustIssue(t, h.token(clientID("a"), presenting(h.enrol("a"))))
	c := h.clients.records["a"]
	c.Disabled = true // as when the token was being signed while an operator disabled the client
	h.clients.records["a"] = c
	mustBeActive(t, ask(token), false)
}

func TestIntrospection_TokenOfAClientThatIsGoneIsDead(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	token, _ := mustIssue(t, h.token(clientID("a"), presenting(h.enrol("a"))))
	delete(h.clients.records, "a")
	mustBeActive(t, ask(token), false)
}

func TestIntrospection_OnlyOurAccessTokensAreActive(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	token, claims := mustIssue(t, h.token(clientID("a"), presenting(h.enrol("a"))))
	key := h.config.Keys[0].Key
	kid := h.keys.Load().set[0].id
	resign := func(key any, kid string, typ jose.ContentType, change func(map[string]any)) string {
		t.Helper()
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType(typ))
		if err != nil {
			t.Fatal(err)
		}
		other := maps.Clone(claims)
		if change != nil {
			change(other)
		}
		text, err := jwt.Signed(signer).Claims(other).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	mustBeActive(t, ask(resign(key, kid, "at+jwt", nil)), true) // the helper makes good tokens
	for name, bad := range map[string]string{
		"garbage":           "x",
		"three parts":       "a.b.c",
		"huge":              strings.Repeat("a", maxToken+1),
		"changed signature": token[:len(token)-4] + "AAAA",
		"another key":       resign(newKey(t), kid, "at+jwt", nil),
		"unknown kid":       resign(key, "x", "at+jwt", nil),
		"another typ":       resign(key, kid, "JWT", nil),
		"another issuer":    resign(key, kid, "at+jwt", func(c map[string]any) { c["iss"] = "https://other.example" }),
		"no exp":            resign(key, kid, "at+jwt", func(c map[string]any) { delete(c, "exp") }),
	} {
		a := ask(bad)
		if a.status != http.StatusOK || a.body["active"] != false {
			t.Errorf("%s: %d %v", name, a.status, a.body)
		}
	}
}

func TestIntrospection_StoreThatFailsNeverSaysActive(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	token, _ := mustIssue(t, h.token(clientID("a"), presenting(h.enrol("a"))))
	fire := errors.New("disk on fire")
	for name, fail := range map[string]*error{"revoked tokens": &h.revoked.err, "certificates": &h.certs.err} {
		*fail = fire
		a := ask(token)
		*fail = nil
		if a.status != http.StatusServiceUnavailable || a.body["active"] != nil {
			t.Errorf("%s: %d %v", name, a.status, a.body)
		}
	}
}

func TestIntrospectionAndRevocation_NeedAToken(t *testing.T) {
	h := newHouse(t)
	secret := h.add(Client{ID: "a", Auth: ClientSecretBasic})
	for _, path := range []string{IntrospectPath, RevokePath} {
		mustRefuse(t, h.post(path, nil, basic("a", secret)), 400, "invalid_request", "token is missing")
	}
}

func TestRevocation_KillsATokenOnceAndIsAudited(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	cert := h.enrol("a")
	token, claims := mustIssue(t, h.token(clientID("a"), presenting(cert)))
	for range 2 {
		a := h.post(RevokePath, []string{"client_id", "a", "token", token, "token_type_hint", "refresh_token"}, presenting(cert))
		if a.status != http.StatusOK || len(a.body) != 0 {
			t.Fatalf("status %d, %v", a.status, a.body)
		}
	}
	mustBeActive(t, ask(token), false)
	if len(h.revoked.events) != 1 {
		t.Fatalf("%d audit events; want 1", len(h.revoked.events))
	}
	if ev := h.revoked.events[0]; ev.Action != audit.TokenRevoke || ev.Actor.Name != "a" || ev.Subject != claims["jti"] || ev.Actor.Address == "" {
		t.Errorf("audit event %+v", ev)
	}
	if until := h.revoked.ids[claims["jti"].(string)]; float64(until.Unix()) != claims["exp"].(float64)+maxTolerance.Seconds() {
		t.Errorf("kept until %s; the token expires at %v, and up to a minute later for a resource server that is tolerant", until, claims["exp"])
	}
}

func TestRevocation_GarbageIsFineAndForeignTokensAreNot(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	cert, other := h.enrol("a"), h.enrol("b")
	token, _ := mustIssue(t, h.token(clientID("a"), presenting(cert)))
	if a := h.post(RevokePath, []string{"client_id", "b", "token", "garbage"}, presenting(other)); a.status != http.StatusOK {
		t.Errorf("garbage: %d %v", a.status, a.body)
	}
	mustRefuse(t, h.post(RevokePath, []string{"client_id", "b", "token", token}, presenting(other)), 400, "invalid_grant", "another client")
	mustBeActive(t, ask(token), true)
	h.clock.advance(defaultLifetime)
	if a := h.post(RevokePath, []string{"client_id", "a", "token", token}, presenting(cert)); a.status != http.StatusOK || len(h.revoked.events) != 0 {
		t.Errorf("expired token: %d %v, %d events", a.status, a.body, len(h.revoked.events))
	}
}

func TestRevocation_IsNotAcknowledgedUnlessDurable(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	token, _ := mustIssue(t, h.token(clientID("a"), presenting(cert)))
	h.revoked.err = errors.New("disk on fire")
	mustRefuse(t, h.post(RevokePath, []string{"client_id", "a", "token", token}, presenting(cert)), 503, "temporarily_unavailable", "try again")
}

func TestVerify_TokensOfARetiredKeyWork(t *testing.T) {
	h := newHouse(t)
	token, _ := mustIssue(t, h.token(clientID("a"), presenting(h.enrol("a"))))
	next := h.config
	next.Keys = []SigningKey{{newKey(t), "ES256"}, h.config.Keys[0]}
	next.Replay = tokenbind.NewMemoryReplay(10, nil)
	s, err := New(next)
	if err != nil {
		t.Fatal(err)
	}
	if s.keys.Load().verify(token) == nil {
		t.Error("a token of the key before is not taken")
	}
}
