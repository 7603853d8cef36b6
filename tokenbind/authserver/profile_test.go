package authserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/pkid/pkid/tokenbind"
)

// underFAPI2 holds the whole server and its registry to the profile.
func underFAPI2(c *Config) {
	c.Profile = FAPI2
	c.Registry.profile = FAPI2
}

// fapiAsserter is client "a", under FAPI 2.0 by its own record, with a key for assertions and one for proofs.
func fapiAsserter(t *testing.T, options ...func(*Config)) (*asserter, *prover) {
	t.Helper()
	h, key := newHouse(t, options...), newKey(t)
	h.add(Client{ID: "a", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), Profile: FAPI2})
	return &asserter{h, "a", jose.ES256, key}, h.prover()
}

func TestH20_MetadataOfTheProfile(t *testing.T) {
	h := newHouse(t, underFAPI2)
	m := h.metadata().body
	for name, want := range map[string][]string{
		"token_endpoint_auth_methods_supported":                    names(fapiMethods),
		"introspection_endpoint_auth_methods_supported":            names(fapiMethods),
		"revocation_endpoint_auth_methods_supported":               names(fapiMethods),
		"token_endpoint_auth_signing_alg_values_supported":         tokenbind.FAPIAlgorithms(),
		"introspection_endpoint_auth_signing_alg_values_supported": tokenbind.FAPIAlgorithms(),
		"revocation_endpoint_auth_signing_alg_values_supported":    tokenbind.FAPIAlgorithms(),
		"dpop_signing_alg_values_supported":                        tokenbind.FAPIAlgorithms(),
	} {
		var got []string
		for _, v := range m[name].([]any) {
			got = append(got, v.(string))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestH22H25_OnlyClientsWithKeys(t *testing.T) {
	key := newKey(t)
	_, self := selfSigned(t, time.Now())
	for name, c := range map[string]struct {
		Client
		ok bool
	}{
		"tls_client_auth":             {Client{Auth: TLSClientAuth, SubjectKind: SANDNS, Subject: "a.example"}, true},
		"self_signed_tls_client_auth": {Client{Auth: SelfSignedTLSClientAuth, JWKS: self}, true},
		"private_key_jwt":             {Client{Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public())}, true},
		"client_secret_basic":         {Client{Auth: ClientSecretBasic}, false},
		"client_secret_post":          {Client{Auth: ClientSecretPost}, false},
		"client_secret_jwt":           {Client{Auth: ClientSecretJWT}, false},
		"none":                        {Client{Auth: "none"}, false},
		"no method":                   {Client{}, false},
		"another profile":             {Client{Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), Profile: "fapi1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.ID = "a"
			if _, _, err := newHouse(t, underFAPI2).registry.Add(t.Context(), c.Client); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrClientMetadata) {
				t.Errorf("under the server's profile: %v", err)
			}
			if c.Profile == "" {
				c.Profile = FAPI2
			}
			if _, _, err := newHouse(t).registry.Add(t.Context(), c.Client); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrClientMetadata) {
				t.Errorf("under its own: %v", err)
			}
		})
	}
}

// A client that is registered is not brought under the profile, nor out of its rules, by a change that it has no room for.
func TestH23_InsecureBearerIsImpossible(t *testing.T) {
	h, key := newHouse(t), newKey(t)
	h.add(Client{ID: "secret", Auth: ClientSecretBasic})
	h.add(Client{ID: "bearer", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), InsecureBearer: true})
	h.add(Client{ID: "fapi", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), Profile: FAPI2})
	for id, change := range map[string]func(*Client){
		"secret": func(c *Client) { c.Profile = FAPI2 },
		"bearer": func(c *Client) { c.Profile = FAPI2 },
		"fapi":   func(c *Client) { c.InsecureBearer = true },
	} {
		if _, err := h.registry.Change(t.Context(), id, func(c *Client) error { change(c); return nil }); !errors.Is(err, ErrClientMetadata) {
			t.Errorf("%s: %v", id, err)
		}
	}
	h.set("bearer", func(c *Client) { c.Profile, c.InsecureBearer = FAPI2, false })
	mustRefuse(t, h.token((&asserter{h, "fapi", jose.ES256, key}).assert(nil)), 400, "invalid_request", "bound to a key")

	// Those that the server's profile found there can be mended and disabled, and nobody else gets it.
	h.add(Client{ID: "loose", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), InsecureBearer: true})
	h.registry.profile = FAPI2
	h.set("loose", func(c *Client) { c.Disabled = true })
	h.set("secret", func(c *Client) { c.Disabled = true })
	h.set("loose", func(c *Client) { c.InsecureBearer = false })
	if _, err := h.registry.Change(t.Context(), "loose", func(c *Client) error { c.InsecureBearer = true; return nil }); !errors.Is(err, ErrClientMetadata) {
		t.Errorf("insecure_bearer again: %v", err)
	}
}

func TestH24_TokensAreBoundByCertificateOrProof(t *testing.T) {
	h := newHouse(t, underFAPI2)
	cert, key, p := h.enrol("mtls"), newKey(t), h.prover()
	h.add(Client{ID: "jwt", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public())})
	jwtClient := &asserter{h, "jwt", jose.ES256, key}
	if _, claims := mustIssue(t, h.token(clientID("mtls"), presenting(cert))); member(claims, "cnf", "x5t#S256") == nil {
		t.Errorf("cnf %v", claims["cnf"])
	}
	if _, claims := mustIssue(t, h.token(jwtClient.assert(nil), header("DPoP", p.proof("")))); member(claims, "cnf", "jkt") != p.Key().String() {
		t.Errorf("cnf %v", claims["cnf"])
	}
	mustRefuse(t, h.token(jwtClient.assert(nil)), 400, "invalid_request", "bound to a key")
}

// A client from before the server's profile is refused wherever it authenticates, told so once it has, and no sooner.
func TestH25_ClientsOfBeforeAreRefused(t *testing.T) {
	h := newHouse(t)
	secret, key := h.add(Client{ID: "a", Auth: ClientSecretBasic, Introspect: true}), newKey(t)
	h.add(Client{ID: "b", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), InsecureBearer: true})
	h.config.Profile = FAPI2
	next, err := New(h.config)
	if err != nil {
		t.Fatal(err)
	}
	*h.Server = *next
	for name, a := range map[string]answer{
		"secret":         h.token(nil, basic("a", secret), header("DPoP", h.prover().proof(""))),
		"introspection":  h.introspect("x.y.z", "a", secret),
		"revocation":     h.post(RevokePath, []string{"token", "x"}, basic("a", secret)),
		"bearer allowed": h.token((&asserter{h, "b", jose.ES256, key}).assert(nil)),
	} {
		if a.status != 401 || a.text("error") != "invalid_client" || !strings.Contains(a.text("error_description"), "FAPI 2.0") {
			t.Errorf("%s: %d %v", name, a.status, a.body)
		}
	}
	if !strings.Contains(h.logged(), "profile fapi2 has no client_secret_basic") {
		t.Errorf("the log does not say why: %s", h.logged())
	}
	h.mustFail(h.token(nil, basic("a", "wrong")), "secret matches: false")
}

// Outside of the profile, who follows RFC 7523 section 3 to the letter may name the token endpoint: oauth2c does.
func TestH27_AudienceIsTheIssuerAsAString(t *testing.T) {
	a, p := fapiAsserter(t)
	try := func(aud any) answer {
		return a.token(a.assert(func(c map[string]any) { c["aud"] = aud }), header("DPoP", p.proof("")))
	}
	issuer := a.config.Issuer
	mustIssue(t, try(issuer))
	others := []any{issuer + TokenPath, a.config.MTLSBase + TokenPath, []string{issuer}, []string{issuer, issuer + TokenPath}, issuer + "/", strings.ToUpper(issuer)}
	for _, aud := range others {
		mustRefuse(t, try(aud), 401, "invalid_client", "as a string")
	}
	a.set("a", func(c *Client) { c.Profile = "" })
	for _, aud := range []any{issuer, issuer + TokenPath, a.config.MTLSBase + TokenPath, []string{issuer}} {
		mustIssue(t, try(aud))
	}
}

// However small the server's tolerance is, a client under the profile may be ten seconds ahead, and never more than sixty.
func TestH32_ClientsAheadUnderTheProfile(t *testing.T) {
	for _, tolerance := range []time.Duration{time.Second, time.Minute} {
		a, p := fapiAsserter(t, func(c *Config) { c.Tolerance = tolerance })
		try := func(claim string, ahead time.Duration) answer {
			at := a.clock.now().Add(ahead).Unix()
			return a.token(a.assert(func(c map[string]any) { c[claim] = at }), header("DPoP", p.proof("")))
		}
		for _, claim := range []string{"iat", "nbf"} {
			mustIssue(t, try(claim, 0))
			mustIssue(t, try(claim, 10*time.Second))
			mustRefuse(t, try(claim, 61*time.Second), 401, "invalid_client", "in the future")
		}
		proofAt := func(ahead time.Duration) answer {
			proof, err := p.Proof(http.MethodPost, p.url+TokenPath, tokenbind.ProofOptions{Now: p.clock.now().Add(ahead)})
			if err != nil {
				t.Fatal(err)
			}
			return a.token(a.assert(nil), header("DPoP", proof))
		}
		mustIssue(t, proofAt(10*time.Second))
		mustRefuse(t, proofAt(61*time.Second), 400, "invalid_dpop_proof", "ahead")
	}
	config := newHouse(t).config
	config.Profile, config.Tolerance = FAPI2, 9*time.Second
	if _, err := New(config); err == nil || !strings.Contains(err.Error(), "10s") {
		t.Errorf("a server under the profile with a tolerance of 9 s: %v", err)
	}
}

func TestH33_TokensForLessThanTheClientMay(t *testing.T) {
	h := newHouse(t, underFAPI2)
	cert := h.enrol("a")
	h.set("a", func(c *Client) { c.Resources = []string{"https://one.example", "https://two.example"} })
	_, claims := mustIssue(t, h.token([]string{"client_id", "a", "scope", "read", "resource", "https://two.example"}, presenting(cert)))
	if aud, _ := claims["aud"].(string); claims["scope"] != "read" || aud != "https://two.example" {
		t.Errorf("got %v", claims)
	}
	mustRefuse(t, h.token([]string{"client_id", "a", "scope", "admin"}, presenting(cert)), 400, "invalid_scope", "admin")
}

func TestH101_AlgorithmsOfTheProfile(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t)
	if _, _, err := h.registry.Add(t.Context(), Client{ID: "b", Auth: PrivateKeyJWT, JWKS: publicSet(t, p384.Public()), Profile: FAPI2}); !errors.Is(err, ErrClientMetadata) {
		t.Errorf("a client whose only key is on P-384: %v", err)
	}
	under := newHouse(t, underFAPI2)
	if _, _, err := under.registry.Add(t.Context(), Client{ID: "b", Auth: PrivateKeyJWT, JWKS: publicSet(t, p384.Public())}); !errors.Is(err, ErrClientMetadata) {
		t.Errorf("the same where all are under the profile: %v", err)
	}
	p256 := newKey(t)
	for member, key := range map[string]crypto.PublicKey{`"use":"enc",`: p256.Public(), `"alg":"PS384",`: signers(t)["PS256"].Public()} {
		set := strings.Replace(string(publicSet(t, key)), `"kid"`, member+`"kid"`, 1)
		if _, _, err := h.registry.Add(t.Context(), Client{ID: "b", Auth: PrivateKeyJWT, JWKS: []byte(set), Profile: FAPI2}); !errors.Is(err, ErrClientMetadata) {
			t.Errorf("a client whose only key has %s %v", member, err)
		}
	}
	h.add(Client{ID: "a", Auth: PrivateKeyJWT, JWKS: publicSet(t, p256.Public(), p384.Public()), Profile: FAPI2})
	prove := func(key *ecdsa.PrivateKey) string {
		made, err := tokenbind.NewProver(key)
		if err != nil {
			t.Fatal(err)
		}
		return (&prover{h, made}).proof("")
	}
	good, other := &asserter{h, "a", jose.ES256, p256}, &asserter{h, "a", jose.ES384, p384}
	mustIssue(t, h.token(good.assert(nil), header("DPoP", prove(p256))))
	mustRefuse(t, h.token(other.assert(nil), header("DPoP", prove(p256))), 401, "invalid_client", "ES384")
	mustRefuse(t, h.token(good.assert(nil), header("DPoP", prove(p384))), 400, "invalid_dpop_proof", "ES256 EdDSA PS256")
	h.set("a", func(c *Client) { c.Profile = "" })
	mustIssue(t, h.token(other.assert(nil), header("DPoP", prove(p384))))
}

// Each has the generator of its curve, a good point: it is the curve that is refused.
func TestH104_SmallCurvesRefused(t *testing.T) {
	h := newHouse(t)
	for crv, point := range map[string][2]string{
		"P-192":     {"188da80eb03090f67cbf20eb43a18800f4ff0afd82ff1012", "07192b95ffc8da78631011ed6b24cdd573f977a11e794811"},
		"secp160r1": {"4a96b5688ef573284664698968c38bb913cbfc82", "23a628553168947d59dcc912042351377ac5fb32"},
		"secp112r1": {"09487239995a5ee76b55f9c2f098", "a89ce5af8724c0a23e0e0ff77500"},
	} {
		coordinate := func(i int) string {
			raw, err := hex.DecodeString(point[i])
			if err != nil {
				t.Fatal(err)
			}
			return base64.RawURLEncoding.EncodeToString(raw)
		}
		set := `{"keys":[{"kty":"EC","crv":"` + crv + `","x":"` + coordinate(0) + `","y":"` + coordinate(1) + `"}]}`
		_, _, err := h.registry.Add(t.Context(), Client{ID: "a", Auth: PrivateKeyJWT, JWKS: []byte(set)})
		if !errors.Is(err, ErrClientMetadata) || !strings.Contains(err.Error(), "crv must be P-256, P-384 or P-521") {
			t.Errorf("%s: %v", crv, err)
		}
	}
}

func TestH105_CredentialsCannotBeGuessed(t *testing.T) {
	p, client := dpopHouse(t, requireNonce)
	seen := map[string]bool{}
	for range 50 {
		text := newSecret()
		if raw, err := base64.RawURLEncoding.DecodeString(text); err != nil || len(raw) < 16 || seen[text] {
			t.Fatalf("a secret of %d octets, %v, seen: %t", len(raw), err, seen[text])
		}
		seen[text] = true
	}
	nonce := demandNonce(t, p, client)
	_, claims := mustIssue(t, p.token(nil, client, header("DPoP", p.proof(nonce))))
	for what, text := range map[string]string{"nonce": nonce, "jti of a token": claims["jti"].(string)} {
		if raw, err := base64.RawURLEncoding.DecodeString(text); err != nil || len(raw) < 16 {
			t.Errorf("%s: %d octets, %v", what, len(raw), err)
		}
	}
}

// Keys come from the registration alone, whatever an assertion's header points to.
func TestH107_HeadersThatPointToKeysAreIgnored(t *testing.T) {
	var fetched atomic.Int32
	keys := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fetched.Add(1) }))
	defer keys.Close()
	a, p := fapiAsserter(t, func(c *Config) { c.HTTPClient = keys.Client() })
	stranger := newKey(t)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: stranger}, (&jose.SignerOptions{EmbedJWK: true}).
		WithHeader("jku", keys.URL).WithHeader("x5u", keys.URL))
	if err != nil {
		t.Fatal(err)
	}
	now := a.clock.now()
	text, err := jwt.Signed(signer).Claims(map[string]any{
		"iss": "a", "sub": "a", "aud": a.config.Issuer, "jti": "1", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	form := []string{"client_assertion_type", assertionType, "client_assertion", text}
	a.mustFail(a.token(form, header("DPoP", p.proof(""))), "no key or secret of the client matches")
	if n := fetched.Load(); n != 0 {
		t.Errorf("%d requests to where the header points", n)
	}
}

// A proof that the checker for clients outside of the profile took is known to that for clients under it, which takes
// proofs for longer here.
func TestE27_ReplayRefusedUnderBothProfiles(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Tolerance = time.Second })
	key, secret := newKey(t), h.add(Client{ID: "b", Auth: ClientSecretBasic, DPoP: true})
	h.add(Client{ID: "a", Auth: PrivateKeyJWT, JWKS: publicSet(t, key.Public()), Profile: FAPI2})
	p, a := h.prover(), &asserter{h, "a", jose.ES256, key}
	proof := p.proof("")
	mustIssue(t, h.token(nil, basic("b", secret), header("DPoP", proof)))
	for range 69 { // iat is in whole seconds
		h.clock.advance(time.Second)
		mustIssue(t, h.token(a.assert(nil), header("DPoP", p.proof("")))) // what ended is forgotten by the way
		mustRefuse(t, h.token(a.assert(nil), header("DPoP", proof)), 400, "invalid_dpop_proof", "used before")
	}
	h.clock.advance(2 * time.Second)
	mustRefuse(t, h.token(a.assert(nil), header("DPoP", proof)), 400, "invalid_dpop_proof", "too old")
}
