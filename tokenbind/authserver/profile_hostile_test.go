package authserver

import (
	"crypto"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/pkid/pkid/tokenbind"
)

// A record that goes against its own profile cannot be registered. One that came into the store by another way, or has a
// profile that a later version knows, is refused: to pass it over would be to let it off.
func TestH22H23_RecordAgainstItsOwnProfile(t *testing.T) {
	h, key := newHouse(t), newKey(t)
	secret := h.add(Client{ID: "secret", Auth: ClientSecretBasic, Introspect: true})
	for _, id := range []string{"bearer", "later"} {
		h.add(Client{ID: id, Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), InsecureBearer: id == "bearer"})
	}
	for id, profile := range map[string]Profile{"secret": FAPI2, "bearer": FAPI2, "later": "fapi3"} {
		record := h.clients.records[id]
		record.Profile = profile
		h.clients.records[id] = record
	}
	for name, a := range map[string]answer{
		"secret":        h.token(nil, basic("secret", secret), header("DPoP", h.prover().proof(""))),
		"introspection": h.introspect("x.y.z", "secret", secret),
		"bearer":        h.token((&asserter{h, "bearer", jose.ES256, key}).assert(nil)),
		"later":         h.token((&asserter{h, "later", jose.ES256, key}).assert(nil), header("DPoP", h.prover().proof(""))),
	} {
		if a.status != http.StatusUnauthorized || a.text("error") != "invalid_client" {
			t.Errorf("%s: %d %v", name, a.status, a.body)
		}
	}
	// It can be mended, and then is as good as any.
	h.set("later", func(c *Client) { c.Profile = FAPI2 })
	mustIssue(t, h.token((&asserter{h, "later", jose.ES256, key}).assert(nil), header("DPoP", h.prover().proof(""))))
}

// A token from before its client came under the profile is no better than one that would be issued now, for whoever asks:
// over introspection, or in this process.
func TestH23_UnboundTokensOfBeforeEnd(t *testing.T) {
	for name, switchOver := range map[string]func(h *house){
		"the client's profile": func(h *house) { h.set("a", func(c *Client) { c.Profile, c.InsecureBearer = FAPI2, false }) },
		"the server's profile": func(h *house) { h.Server.c.Profile = FAPI2 },
	} {
		t.Run(name, func(t *testing.T) {
			h, key := newHouse(t), newKey(t)
			rs := h.enrol("rs")
			h.set("rs", func(c *Client) { c.Introspect = true })
			h.add(Client{ID: "a", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), InsecureBearer: true})
			a, p := &asserter{h, "a", jose.ES256, key}, h.prover()
			unbound, claims := mustIssue(t, h.token(a.assert(nil)))
			bound, _ := mustIssue(t, h.token(a.assert(nil), header("DPoP", p.proof(""))))
			ask := func(token string) answer {
				return h.post(IntrospectPath, []string{"token", token, "client_id", "rs"}, presenting(rs))
			}
			here := func() error {
				return h.CheckToken(t.Context(), &tokenbind.Claims{ID: claims["jti"].(string), ClientID: "a", IssuedAt: h.clock.now()})
			}
			mustBeActive(t, ask(unbound), true)
			if err := here(); err != nil {
				t.Error(err)
			}
			switchOver(h)
			mustBeActive(t, ask(unbound), false)
			mustBeActive(t, ask(bound), true)
			if here() == nil {
				t.Error("in this process it stands")
			}
		})
	}
}

// A crash forgets the proofs of both checkers. One that a client under the profile used, whose clock may be ten seconds
// ahead, is new to neither.
func TestE27_CrashUnderBothProfiles(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Tolerance = time.Second })
	key, secret := newKey(t), h.add(Client{ID: "b", Auth: ClientSecretBasic, DPoP: true})
	h.add(Client{ID: "a", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), Profile: FAPI2})
	p, a := h.prover(), &asserter{h, "a", jose.ES256, key}
	ahead, err := p.Proof(http.MethodPost, h.url+TokenPath, tokenbind.ProofOptions{Now: h.clock.now().Add(9 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	mustIssue(t, h.token(a.assert(nil), header("DPoP", ahead)))
	p.crash()
	h.clock.advance(9 * time.Second)
	for _, client := range []option{basic("b", secret), nil} {
		ask := func(proof string) answer {
			if client == nil {
				return h.token(a.assert(nil), header("DPoP", proof))
			}
			return h.token(nil, client, header("DPoP", proof))
		}
		refused := ask(ahead)
		mustRefuse(t, refused, 400, "use_dpop_nonce", "before this server started")
		mustIssue(t, ask(p.proof(refused.header.Get("DPoP-Nonce"))))
	}
}

// Whoever's proof it is, it is remembered for as long as a client under the profile might use it on a node whose clock
// differs: 60 s, and twice 10.
func TestE27_RememberedForEitherProfile(t *testing.T) {
	replay, assertions := new(lateReplay), new(lateReplay)
	h := newHouse(t, func(c *Config) {
		c.Tolerance, replay.Replay, assertions.Replay = time.Second, c.Replay, c.Assertions
		c.Replay, c.Assertions = replay, assertions
	})
	key, secret := newKey(t), h.add(Client{ID: "b", Auth: ClientSecretBasic, DPoP: true})
	h.add(Client{ID: "a", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), Profile: FAPI2})
	p, a := h.prover(), &asserter{h, "a", jose.ES256, key}
	want := h.clock.now().Truncate(time.Second).Add(80 * time.Second)
	for name, ask := range map[string]func(option) answer{
		"outside": func(o option) answer { return h.token(nil, basic("b", secret), o) },
		"under":   func(o option) answer { return h.token(a.assert(nil), o) },
	} {
		if mustIssue(t, ask(header("DPoP", p.proof("")))); !replay.until.Equal(want) {
			t.Errorf("%s the profile: until %v, want %v", name, replay.until, want)
		}
	}
	if assertions.until.Before(want) { // exp is a minute ahead too
		t.Errorf("an assertion: until %v, want %v", assertions.until, want)
	}
}

// Of several keys with one kid, which a client should not have, the one that the signature holds under counts, if it is
// for signatures and of the algorithm (FAPI 2.0 section 5.4).
func TestH109_KidThatSeveralKeysOfAClientHave(t *testing.T) {
	all := signers(t)
	one, same := newKey(t), func(use, alg string, pub crypto.PublicKey) jose.JSONWebKey {
		return jose.JSONWebKey{Key: pub, KeyID: "k", Use: use, Algorithm: alg}
	}
	set := func(keys ...jose.JSONWebKey) []byte {
		raw, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	p := newHouse(t).prover()
	for name, c := range map[string]struct {
		jwks []byte
		ok   bool
	}{
		"other types":   {set(same("sig", "", all["PS256"].Public()), same("sig", "", all["EdDSA"].Public()), same("sig", "", one.Public())), true},
		"the same type": {set(same("", "", all["ES256"].Public()), same("", "", one.Public())), true},
		"another's use": {set(same("enc", "", newKey(t).Public()), same("sig", "ES256", one.Public())), true},
		"for secrecy":   {set(same("sig", "", all["ES256"].Public()), same("enc", "", one.Public())), false},
		"of ES384":      {set(same("sig", "", all["ES256"].Public()), same("sig", "ES384", one.Public())), false},
	} {
		h := p.house
		h.add(Client{ID: name, Auth: PrivateKeyJWT, JWKS: c.jwks, Profile: FAPI2})
		a := &asserter{h, name, jose.ES256, jose.JSONWebKey{Key: one, KeyID: "k"}}
		if got := h.token(a.assert(nil), header("DPoP", p.proof(""))); (got.status == http.StatusOK) != c.ok {
			t.Errorf("%s: %d %v", name, got.status, got.body)
		}
	}
}

// Numbers that are no times, and times that are odd, in an assertion under the profile.
func TestH32_OddTimes(t *testing.T) {
	a, p := fapiAsserter(t)
	now := float64(a.clock.now().Unix())
	for _, c := range []struct {
		claim string
		value any
		ok    bool
	}{
		{"iat", nil, true}, // neither is needed (RFC 7523 section 3)
		{"nbf", 0, true},
		{"nbf", now - 0.5, true},
		{"iat", now + 9.5, true},
		{"iat", now + 11.5, false}, // as above
		{"iat", -1, false},
		{"nbf", -1, false},
		{"exp", -1, false},
		{"exp", 0, false},
		{"exp", nil, false},
		{"exp", now - 8.5, true}, // the clock is up to a second further
		{"exp", now - 12, false},
		{"exp", math.MaxInt64, false},
		{"exp", 1e300, false},
		{"iat", 1e300, false},
		{"nbf", 1e300, false},
		{"iat", "now", false},
		{"nbf", true, false},
		{"exp", []float64{now + 60}, false},
	} {
		got := a.token(a.assert(func(claims map[string]any) {
			if claims[c.claim] = c.value; c.value == nil {
				delete(claims, c.claim)
			}
		}), header("DPoP", p.proof("")))
		if (got.status == http.StatusOK) != c.ok || !c.ok && got.text("error") != "invalid_client" {
			t.Errorf("%s %v: %d %v", c.claim, c.value, got.status, got.body)
		}
	}
}

// One proof over all changes of a client's policy is good once: what it was refused for under one is no use of it, and
// what it was used for under another is.
func TestE23E27_OneProofUnderChangingPolicies(t *testing.T) {
	p, client := dpopHouse(t)
	policy := func(n Nonce) { p.set("a", func(c *Client) { c.Nonce = n }) }
	ask := func(proof string) answer { return p.token(nil, client, header("DPoP", proof)) }
	policy(NonceRequired)
	bare := p.proof("")
	refused := ask(bare)
	mustRefuse(t, refused, 400, "use_dpop_nonce", "")
	nonce := refused.header.Get("DPoP-Nonce")
	with := p.proof(nonce)
	mustIssue(t, ask(with))
	for _, n := range []Nonce{NonceOptional, NonceDefault, NonceRequired} {
		policy(n)
		mustRefuse(t, ask(with), 400, "invalid_dpop_proof", "used before")
		mustRefuse(t, ask(p.proof(nonce+"x")), 400, "use_dpop_nonce", "") // one that is sent is always looked at
	}
	policy(NonceOptional)
	mustIssue(t, ask(bare))
	policy(NonceDefault)
	mustRefuse(t, ask(bare), 400, "invalid_dpop_proof", "used before")
	policy(NonceRequired)
	mustRefuse(t, ask(bare), 400, "use_dpop_nonce", "")
	p.clock.advance(2 * nonceLifetime) // an old nonce is none
	mustRefuse(t, ask(p.proof(nonce)), 400, "use_dpop_nonce", "")
}

// A client under the profile, or of a server under it, is not let off by any one change, nor by two.
func TestH23_ChangesOneAfterTheOther(t *testing.T) {
	key := newKey(t)
	for name, server := range map[string]Profile{"its own": "", "the server's": FAPI2} {
		h := newHouse(t)
		h.registry.profile, h.Server.c.Profile = server, server
		own := FAPI2
		if server != "" {
			own = ""
		}
		h.add(Client{ID: "a", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), Profile: own})
		h.set("a", func(c *Client) { c.Disabled = true })
		if _, err := h.registry.Change(t.Context(), "a", func(c *Client) error { c.InsecureBearer = true; return nil }); !errors.Is(err, ErrClientMetadata) {
			t.Errorf("%s: insecure_bearer while it is disabled: %v", name, err)
		}
		h.set("a", func(c *Client) { c.Disabled = false })
		if err := h.registry.Enrol(t.Context(), "a", []string{"read"}, []string{"https://rs.example"}); err != nil {
			t.Fatal(err)
		}
		if c, err := h.registry.Get(t.Context(), "a"); err != nil || c.Auth != PrivateKeyJWT || c.Profile != own || c.InsecureBearer {
			t.Errorf("%s: an invitation made it %+v, %v", name, c, err)
		}
		mustRefuse(t, h.token((&asserter{h, "a", jose.ES256, key}).assert(nil)), 400, "invalid_request", "bound to a key")
	}
}
