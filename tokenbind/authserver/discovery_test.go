package authserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/pkid/pkid/tokenbind"
)

func (h *house) get(path string) answer {
	h.Helper()
	req, err := http.NewRequestWithContext(h.Context(), http.MethodGet, h.url+path, nil)
	if err != nil {
		h.Fatal(err)
	}
	return h.send(req)
}

func (h *house) metadata() answer {
	h.Helper()
	return h.get("/.well-known/oauth-authorization-server")
}

func TestH20_Metadata(t *testing.T) {
	h := newHouse(t)
	a := h.metadata()
	for name, want := range map[string]string{
		"issuer": h.url, "token_endpoint": h.url + TokenPath, "introspection_endpoint": h.url + IntrospectPath,
		"revocation_endpoint": h.url + RevokePath, "jwks_uri": h.url + JWKSPath,
	} {
		if a.body[name] != want {
			t.Errorf("%s is %v; want %s", name, a.body[name], want)
		}
	}
	for _, endpoint := range []string{"token", "introspection", "revocation"} {
		methods, _ := a.body[endpoint+"_endpoint_auth_methods_supported"].([]any)
		algs, _ := a.body[endpoint+"_endpoint_auth_signing_alg_values_supported"].([]any)
		if len(methods) != len(authMethods) || !slices.Contains(algs, any("ES256")) || slices.Contains(algs, any("none")) || slices.Contains(algs, any("RS256")) {
			t.Errorf("%s: %v, %v", endpoint, methods, algs)
		}
	}
	if !strings.HasPrefix(a.header.Get("Cache-Control"), "public, max-age=") || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("header %v", a.header)
	}
}

func TestA21_MetadataSaysTokensAreCertificateBound(t *testing.T) {
	if a := newHouse(t).metadata(); a.body["tls_client_certificate_bound_access_tokens"] != true {
		t.Errorf("got %v", a.body["tls_client_certificate_bound_access_tokens"])
	}
}

func TestA26H09_MetadataHasAliases(t *testing.T) {
	h := newHouse(t)
	aliases, _ := h.metadata().body["mtls_endpoint_aliases"].(map[string]any)
	for name, path := range map[string]string{"token_endpoint": TokenPath, "introspection_endpoint": IntrospectPath, "revocation_endpoint": RevokePath} {
		if aliases[name] != h.config.MTLSBase+path {
			t.Errorf("%s is %v", name, aliases[name])
		}
	}
}

func TestA27_AliasesAreAlwaysThere(t *testing.T) {
	h := newHouse(t)
	same := h.config
	same.MTLSBase = same.Issuer
	s, err := New(same)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(s.metadata), `"mtls_endpoint_aliases":{"token_endpoint":"`+h.url+TokenPath) {
		t.Errorf("metadata: %s", s.metadata)
	}
	none := h.config
	none.MTLSBase = ""
	if _, err := New(none); err == nil {
		t.Error("a server without an mTLS origin was made")
	}
}

func TestA28_NoAuthorizationEndpoint(t *testing.T) {
	a := newHouse(t).metadata()
	if _, found := a.body["authorization_endpoint"]; found {
		t.Error("there is an authorization_endpoint")
	}
	if types, ok := a.body["response_types_supported"].([]any); !ok || len(types) != 0 {
		t.Errorf("response_types_supported is %v; want []", a.body["response_types_supported"])
	}
	if grants, _ := a.body["grant_types_supported"].([]any); len(grants) != 1 || grants[0] != "client_credentials" {
		t.Errorf("grant_types_supported is %v", grants)
	}
}

func TestE07_MetadataHasDPoPAlgorithms(t *testing.T) {
	algs, _ := newHouse(t).metadata().body["dpop_signing_alg_values_supported"].([]any)
	var want []any
	for _, alg := range tokenbind.ProofAlgorithms() {
		want = append(want, alg)
	}
	if !slices.Equal(algs, want) || len(want) == 0 {
		t.Errorf("got %v, want %v", algs, want)
	}
}

func TestE26_ScriptsMayReadNonceAndChallenge(t *testing.T) {
	h := newHouse(t)
	for name, a := range map[string]answer{"token": h.token(nil), "introspection": h.post(IntrospectPath, nil), "metadata": h.metadata(), "jwks": h.get(JWKSPath)} {
		exposed := a.header.Get("Access-Control-Expose-Headers")
		if a.header.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(exposed, "DPoP-Nonce") || !strings.Contains(exposed, "WWW-Authenticate") {
			t.Errorf("%s: %v", name, a.header)
		}
		if a.header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s allows credentials", name)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, h.url+TokenPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a := h.send(req); a.status != http.StatusNoContent || !strings.Contains(a.header.Get("Access-Control-Allow-Headers"), "DPoP") {
		t.Errorf("preflight: %d %v", a.status, a.header)
	}
}

func TestJWKS_HasPublicKeysOnly(t *testing.T) {
	h := newHouse(t)
	a := h.get(JWKSPath)
	keys, _ := a.body["keys"].([]any)
	if len(keys) != 1 {
		t.Fatalf("%d keys", len(keys))
	}
	key, _ := keys[0].(map[string]any)
	if key["use"] != "sig" || key["alg"] != "ES256" || key["kid"] != h.keys.Load().set[0].id || key["d"] != nil {
		t.Errorf("key %v", key)
	}
	if !strings.HasPrefix(a.header.Get("Cache-Control"), "public, max-age=") {
		t.Errorf("Cache-Control %q", a.header.Get("Cache-Control"))
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.url+JWKSPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a := h.send(req); a.status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", a.status)
	}
}

func TestH108_NoDuplicateKid(t *testing.T) {
	h := newHouse(t)
	twice := h.config
	twice.Keys = append(slices.Clone(twice.Keys), twice.Keys[0])
	if _, err := New(twice); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("got %v", err)
	}
}

func TestNew_RefusesWhatCannotWork(t *testing.T) {
	h := newHouse(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no registry":        func(c *Config) { c.Registry = nil },
		"no replay":          func(c *Config) { c.Replay = nil },
		"no assertions":      func(c *Config) { c.Assertions = nil },
		"issuer over http":   func(c *Config) { c.Issuer = "http://a.example" },
		"issuer with a path": func(c *Config) { c.Issuer = "https://a.example/" },
		"no keys":            func(c *Config) { c.Keys = nil },
		"nil key":            func(c *Config) { c.Keys = []SigningKey{{nil, "ES256"}} },
		"wrong curve":        func(c *Config) { c.Keys = []SigningKey{{p384, "ES256"}} },
		"wrong algorithm":    func(c *Config) { c.Keys = []SigningKey{{c.Keys[0].Key, "RS256"}} },
		"short nonce key":    func(c *Config) { c.NonceKey = []byte("short") },
		"large tolerance":    func(c *Config) { c.Tolerance = maxTolerance + 1 },
		"negative lifetime":  func(c *Config) { c.TokenLifetime = -1 },
	} {
		c := h.config
		spoil(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := NewRegistry(RegistryConfig{Store: h.clients, DataKey: []byte("short")}); err == nil {
		t.Error("a short data key: no error")
	}
}
