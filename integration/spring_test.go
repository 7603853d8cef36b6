package integration

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pkitest"
)

// What Spring Security asks of an issuer and of its tokens, by its sources (6.5): JwtDecoderProviderConfigurationUtils reads
// issuer and jwks_uri, and takes the algorithms from keys for signatures of type EC or RSA; JwtValidators.AtJwtBuilder wants
// the typ and the claims of RFC 9068. Spring itself is not part of the test.
func TestWhatSpringAsksFor(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	shop := s.Enrol(t, client.InvitationRequest{ClientID: "shop"})
	var metadata map[string]any
	fetch(t, shop, s.URLs.Public+"/.well-known/openid-configuration", &metadata)
	if metadata["issuer"] != s.URLs.Public {
		t.Errorf("issuer is %v, want %s, character for character", metadata["issuer"], s.URLs.Public)
	}
	uri, _ := metadata["jwks_uri"].(string)
	var keys jose.JSONWebKeySet
	fetch(t, shop, uri, &keys)
	algorithms := []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512}
	for _, k := range keys.Keys {
		if k.Use != "sig" || k.KeyID == "" || !slices.Contains(algorithms, jose.SignatureAlgorithm(k.Algorithm)) {
			t.Errorf("key %q: use %q, alg %q", k.KeyID, k.Use, k.Algorithm)
		}
	}
	source, err := client.NewTokenSource(client.TokenConfig{Identity: shop})
	if err != nil {
		t.Fatal(err)
	}
	token, err := source.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(token.AccessToken, algorithms)
	if err != nil {
		t.Fatal(err)
	}
	header := parsed.Headers[0]
	if typ := header.ExtraHeaders[jose.HeaderType]; typ != "at+jwt" {
		t.Errorf("typ is %v", typ)
	}
	found := keys.Key(header.KeyID)
	if len(found) != 1 {
		t.Fatalf("%d keys with the kid of the token", len(found))
	}
	var claims map[string]any
	if err := parsed.Claims(found[0], &claims); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"iss", "aud", "exp", "iat", "sub", "jti", "client_id", "cnf"} {
		if claims[name] == nil {
			t.Errorf("the token has no %s", name)
		}
	}
}

// fetch reads a JSON document.
func fetch(t *testing.T, id *client.Identity, url string, into any) {
	t.Helper()
	resp, err := id.HTTPClient().Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", url, resp.Status)
	}
	if err := json.Unmarshal(pkitest.ReadAll(t, resp.Body), into); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
}
