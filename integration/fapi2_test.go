package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// module is one of the OpenID Foundation's conformance suite, in its plan for the client credentials grant, built anew from
// its published description. It has two clients, the first of them with a token that is good.
type module struct {
	name  string
	needs string // byKey, byCert or byDPoP, if it is for that alone
	run   func(t *testing.T, one, two *party, token string)
}

// The plan's four variants, over TLS, with nonces demanded at the token endpoint.
func TestFAPI2Conformance(t *testing.T) {
	t.Parallel()
	s := newFAPISite(t)
	var table strings.Builder
	for _, v := range []variant{{byKey, byDPoP}, {byKey, byCert}, {byCert, byDPoP}, {byCert, byCert}} {
		one, two := s.party(v, "one-"+v.auth+"-"+v.bound), s.party(v, "two-"+v.auth+"-"+v.bound)
		for _, m := range slices.Concat(tokenModules, proofModules) {
			if m.needs != "" && m.needs != v.auth && m.needs != v.bound {
				continue
			}
			passed := t.Run(v.String()+"/"+m.name, func(t *testing.T) {
				one, two := one.in(t), two.in(t)
				m.run(t, one, two, one.mustToken(ask{}))
			})
			fmt.Fprintf(&table, "%-24s %-52s %s\n", v, m.name, map[bool]string{true: "passed", false: "FAILED"}[passed])
		}
	}
	t.Logf("variant -> module -> result\n%s", &table)
}

// in is the same party in another test.
func (p *party) in(t *testing.T) *party {
	site, copied := *p.fapiSite, *p
	site.t, copied.fapiSite = t, &site
	return &copied
}

func (p *party) mustToken(a ask) string {
	p.t.Helper()
	return accessToken(p.t, p.token(a))
}

// refuses wants an OAuth error at the token endpoint.
func (p *party) refuses(what string, a ask, codes ...string) {
	p.t.Helper()
	got := p.token(a)
	var oauth struct {
		Error string `json:"error"`
	}
	if err := json.Unmarshal([]byte(got.body), &oauth); err != nil || !slices.Contains(codes, oauth.Error) ||
		got.status != http.StatusBadRequest && got.status != http.StatusUnauthorized {
		p.t.Errorf("%s: %s, want one of %v", what, got, codes)
	}
}

// shut wants a refusal at the resource server.
func (p *party) shut(what, token string, a ask) {
	p.t.Helper()
	if got := p.use(token, a); got.status != http.StatusUnauthorized && got.status != http.StatusBadRequest {
		p.t.Errorf("%s: %s, want 400 or 401", what, got)
	}
}

// open wants what the resource server has.
func (p *party) open(what, token string, a ask) {
	p.t.Helper()
	if got := p.use(token, a); got.status != http.StatusOK || got.body != "hello "+p.id {
		p.t.Errorf("%s: %s %s", what, got, got.header.Get("WWW-Authenticate"))
	}
}

func claim(name string, value any) func(header, claims map[string]any) {
	return func(_, claims map[string]any) {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
}

func headed(name string, value any) func(header, claims map[string]any) {
	return func(header, _ map[string]any) {
		if header[name] = value; value == nil {
			delete(header, name)
		}
	}
}

var tokenModules = []module{
	{"discovery-endpoint-verification", "", discoveryModule},
	{"happy-flow", "", happyModule},
	{"access-token-type-header-case-sensitivity", "", func(t *testing.T, one, _ *party, token string) {
		for _, scheme := range map[string][]string{byDPoP: {"dPoP", "dpop", "DPOP"}, byCert: {"bEaReR", "bearer", "BEARER"}}[one.bound] {
			one.open(scheme, token, ask{scheme: scheme})
		}
	}},
	{"ensure-client-id-in-token-endpoint", "", func(t *testing.T, one, two *party, _ string) {
		one.refuses("the other client's client_id", ask{form: url.Values{"client_id": {two.id}}}, "invalid_client", "invalid_request")
	}},
	{"ensure-holder-of-key-required", "", holderModule},
	{"ensure-signed-client-assertion-with-RS256-fails", byKey, func(t *testing.T, one, _ *party, _ string) {
		one.refuses("RS256", ask{signed: one.rsa, assertion: algorithm("RS256")}, "invalid_client")
		one.mustToken(ask{signed: one.rsa, assertion: algorithm("PS256")}) // it is not for the key
	}},
	{"ensure-client-assertion-in-token-endpoint", byKey, func(t *testing.T, one, _ *party, _ string) {
		one.refuses("no assertion", ask{form: url.Values{"client_assertion": nil, "client_assertion_type": nil, "client_id": {one.id}}}, "invalid_client")
		one.refuses("no type", ask{form: url.Values{"client_assertion_type": nil}}, "invalid_request", "invalid_client")
	}},
	{"ensure-client-assertion-with-exp-is-5-minutes-in-past-fails", byKey, func(t *testing.T, one, _ *party, _ string) {
		one.refuses("expired", ask{assertion: claim("exp", time.Now().Add(-5*time.Minute).Unix())}, "invalid_client")
		one.refuses("no exp", ask{assertion: claim("exp", nil)}, "invalid_client")
	}},
	{"ensure-client-assertion-with-wrong-aud-fails", byKey, func(t *testing.T, one, _ *party, _ string) {
		for what, aud := range map[string]any{
			"another server": "https://other.example", "none": nil, "another with the issuer's beginning": one.URLs.Public + ".example",
			"the token endpoint": one.URLs.Public + "/oauth/token", "the token endpoint over mTLS": one.URLs.MTLS + "/oauth/token",
			"an array": []string{one.URLs.Public}, "several": []string{one.URLs.Public, "https://other.example"},
		} {
			one.refuses(what, ask{assertion: claim("aud", aud)}, "invalid_client")
		}
	}},
	{"ensure-client-assertion-with-no-sub-fails", byKey, func(t *testing.T, one, two *party, _ string) {
		one.refuses("no sub", ask{assertion: claim("sub", nil)}, "invalid_client", "invalid_request")
		one.refuses("another's sub", ask{assertion: claim("sub", two.id)}, "invalid_client")
		one.refuses("no iss", ask{assertion: claim("iss", nil)}, "invalid_client")
	}},
	{"ensure-client-assertion-signature", byKey, func(t *testing.T, one, two *party, _ string) {
		one.refuses("another client's key", ask{signed: two.key}, "invalid_client")
		one.refuses("none", ask{assertion: algorithm("none")}, "invalid_client")
		one.refuses("a MAC", ask{assertion: algorithm("HS256")}, "invalid_client")
	}},
	{"jwt-client-assertion-with-iat-nbf-in-the-future", byKey, func(t *testing.T, one, _ *party, _ string) {
		for _, name := range []string{"iat", "nbf"} {
			for _, ahead := range []time.Duration{-10 * time.Second, 8 * time.Second} {
				one.mustToken(ask{assertion: claim(name, time.Now().Add(ahead).Unix())})
			}
			one.refuses(name+" over 60 s ahead", ask{assertion: claim(name, time.Now().Add(65*time.Second).Unix())}, "invalid_client")
		}
	}},
	{"other-grants-are-refused", "", func(t *testing.T, one, _ *party, _ string) {
		for _, grant := range []string{"password", "authorization_code", "refresh_token", "implicit"} {
			one.refuses(grant, ask{form: url.Values{"grant_type": {grant}, "username": {"a"}, "password": {"b"}}}, "unsupported_grant_type")
		}
	}},
}

// algorithm names an algorithm in an assertion's header, which signJWT follows.
func algorithm(alg string) func(header, claims map[string]any) {
	return func(header, _ map[string]any) {
		delete(header, "kid")
		header["alg"] = alg
	}
}

func discoveryModule(t *testing.T, one, _ *party, _ string) {
	var first string
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"} {
		got := one.get(one.URLs.Public + path)
		if got.status != http.StatusOK || first != "" && got.body != first {
			t.Fatalf("%s: %s", path, got)
		}
		first = got.body
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(first), &m); err != nil {
		t.Fatal(err)
	}
	for name, most := range map[string][]string{
		"grant_types_supported":                            {"client_credentials"},
		"token_endpoint_auth_methods_supported":            {"private_key_jwt", "tls_client_auth", "self_signed_tls_client_auth"},
		"token_endpoint_auth_signing_alg_values_supported": {"PS256", "ES256", "EdDSA"},
		"introspection_endpoint_auth_methods_supported":    {"private_key_jwt", "tls_client_auth", "self_signed_tls_client_auth"},
		"revocation_endpoint_auth_methods_supported":       {"private_key_jwt", "tls_client_auth", "self_signed_tls_client_auth"},
		"dpop_signing_alg_values_supported":                {"PS256", "ES256", "EdDSA"},
	} {
		has, _ := m[name].([]any)
		if len(has) == 0 || slices.ContainsFunc(has, func(v any) bool { s, _ := v.(string); return !slices.Contains(most, s) }) {
			t.Errorf("%s: %v, want of %v", name, m[name], most)
		}
	}
	if m["issuer"] != one.URLs.Public || m["tls_client_certificate_bound_access_tokens"] != true {
		t.Errorf("%v", m)
	}
	aliases, _ := m["mtls_endpoint_aliases"].(map[string]any)
	for _, endpoint := range []any{m["token_endpoint"], m["jwks_uri"], m["introspection_endpoint"], m["revocation_endpoint"], aliases["token_endpoint"]} {
		if s, _ := endpoint.(string); !strings.HasPrefix(s, "https://") {
			t.Errorf("%v is not over TLS", endpoint)
		}
	}
	var set struct {
		Keys []struct{ Kid, Use, Alg, D string }
	}
	if err := json.Unmarshal([]byte(one.get(m["jwks_uri"].(string)).body), &set); err != nil || len(set.Keys) == 0 {
		t.Fatalf("%d keys, %v", len(set.Keys), err)
	}
	seen := map[string]bool{}
	for _, k := range set.Keys {
		if seen[k.Kid] || k.Use != "sig" || k.D != "" || !slices.Contains([]string{"PS256", "ES256", "EdDSA"}, k.Alg) {
			t.Errorf("key %+v", k)
		}
		seen[k.Kid] = true
	}
}

func (p *party) get(target string) answer {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, target, http.NoBody)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.do(p.http, req)
}

func happyModule(t *testing.T, one, two *party, _ string) {
	for _, p := range []*party{one, two, one} {
		got := p.token(ask{})
		var token struct {
			Type    string `json:"token_type"`
			Expires int    `json:"expires_in"`
			Scope   string `json:"scope"`
		}
		if err := json.Unmarshal([]byte(got.body), &token); err != nil || token.Expires <= 0 || token.Scope != "accounts" ||
			token.Type != map[string]string{byDPoP: "DPoP", byCert: "Bearer"}[p.bound] || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %v", got, got.header)
		}
		p.open("the token", accessToken(t, got), ask{})
	}
}

// holderModule: no token without a binding, and none that works without what it is bound to.
func holderModule(t *testing.T, one, two *party, token string) {
	anyone := one.showing(nil)
	if one.bound == byDPoP {
		if one.auth == byKey {
			one.refuses("no proof", ask{noProof: true}, "invalid_dpop_proof", "invalid_request")
		}
		one.shut("no proof", token, ask{noProof: true})
		one.shut("as Bearer", token, ask{scheme: "Bearer"})
		one.shut("as Bearer, no proof", token, ask{scheme: "Bearer", noProof: true})
		one.shut("the other client's key", token, ask{prover: two.proofKey})
		return
	}
	one.refuses("no certificate", ask{http: anyone}, "invalid_client", "invalid_request")
	one.refuses("the other client's certificate", ask{http: two.http}, "invalid_client", "invalid_request")
	one.shut("no certificate", token, ask{http: anyone})
	one.shut("the other client's certificate", token, ask{http: two.http})
	one.shut("as DPoP", token, ask{scheme: "DPoP"})
	one.open("the client's own", token, ask{})
}
