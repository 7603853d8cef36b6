package integration

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pkitest"
)

// oauth2c asks as the command-line client of that name does, by its source (github.com/cloudentity/oauth2c,
// internal/oauth2): it finds the endpoints in the document at openid-configuration alone; with a certificate it posts to
// the alias, however it authenticates; its assertion names the token endpoint as audience, lives ten minutes and comes
// without a client_id; its proof has the endpoint's URL and never a nonce; what it signs, go-jose signs.
type oauth2c struct {
	issuer   string
	method   string // --auth-method
	clientID string
	secret   string
	key      *jose.JSONWebKey // --signing-key
	cert     *tls.Certificate // --tls-cert, --tls-key
	roots    *x509.CertPool   // --tls-root-ca
	dpop     bool
}

func (c oauth2c) token(t *testing.T) (status int, answer map[string]any) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS12}}
	if c.cert != nil {
		transport.TLSClientConfig.Certificates = []tls.Certificate{*c.cert}
	}
	defer transport.CloseIdleConnections()
	hc := &http.Client{Transport: transport, Timeout: time.Minute}
	endpoints := c.discover(t, hc)
	form := url.Values{"grant_type": {"client_credentials"}}
	switch c.method {
	case "client_secret_post":
		form.Set("client_id", c.clientID)
		form.Set("client_secret", c.secret)
	case "client_secret_jwt", "private_key_jwt":
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", c.assertion(t, endpoints.Token))
	case "tls_client_auth":
		form.Set("client_id", c.clientID)
	}
	endpoint := endpoints.Token
	if c.cert != nil {
		endpoint = endpoints.Aliases.Token
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if c.method == "client_secret_basic" {
		req.SetBasicAuth(c.clientID, c.secret)
	}
	req.Header.Add("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", endpoint)
	if c.dpop {
		claims := map[string]any{"htm": req.Method, "htu": req.URL.String(), "jti": rand.Text(), "iat": time.Now().Unix()}
		opts := &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{jose.HeaderType: "dpop+jwt"}, EmbedJWK: true}
		req.Header.Set("DPoP", signWith(t, jose.SigningKey{Algorithm: jose.ES256, Key: c.key.Key}, opts, claims))
	}
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.Unmarshal(pkitest.ReadAll(t, resp.Body), &answer); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer
}

type oauth2cEndpoints struct {
	Token   string `json:"token_endpoint"`
	Aliases struct {
		Token string `json:"token_endpoint"`
	} `json:"mtls_endpoint_aliases"`
}

func (c oauth2c) discover(t *testing.T, hc *http.Client) (e oauth2cEndpoints) {
	t.Helper()
	resp, err := hc.Get(c.issuer + "/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.Unmarshal(pkitest.ReadAll(t, resp.Body), &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func (c oauth2c) assertion(t *testing.T, audience string) string {
	t.Helper()
	now := time.Now()
	claims := map[string]any{
		"iss": c.clientID, "sub": c.clientID, "aud": audience, "iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(), "jti": rand.Text(),
	}
	if c.method == "client_secret_jwt" {
		return signWith(t, jose.SigningKey{Algorithm: jose.HS256, Key: []byte(c.secret)}, nil, claims)
	}
	opts := &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{"kid": c.key.KeyID}}
	return signWith(t, jose.SigningKey{Algorithm: jose.ES256, Key: c.key.Key}, opts, claims)
}

func signWith(t *testing.T, key jose.SigningKey, opts *jose.SignerOptions, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(key, opts)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

// Requests as oauth2c makes them get what they ask for. The program itself is not part of the test.
func TestRequestsOfOAuth2c(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	shop := s.Enrol(t, client.InvitationRequest{ClientID: "shop"})
	strict := s.Enrol(t, client.InvitationRequest{ClientID: "strict"})
	signer, jwk := addKeyClient(t, s, "signer")
	optional := "optional" // it cannot answer a nonce
	for _, id := range []string{"shop", signer} {
		if _, err := s.Operator(t).PatchClient(t.Context(), id, client.ClientPatch{Nonce: &optional}); err != nil {
			t.Fatal(err)
		}
	}
	secrets := map[string]string{}
	for _, method := range []string{"client_secret_basic", "client_secret_post", "client_secret_jwt"} {
		added, err := s.Operator(t).AddClient(t.Context(), client.ClientRecord{ID: method, Auth: method, Bearer: true, Nonce: optional})
		if err != nil {
			t.Fatal(err)
		}
		secrets[method] = added.Secret
	}
	for _, c := range []struct {
		name, clientID, method string
		cert, dpop             bool
		want                   string // token_type, or the error
	}{
		{"client_secret_basic", "client_secret_basic", "client_secret_basic", false, false, "Bearer"},
		{"client_secret_post", "client_secret_post", "client_secret_post", false, false, "Bearer"},
		{"client_secret_jwt", "client_secret_jwt", "client_secret_jwt", false, false, "Bearer"},
		{"a secret with another client's certificate", "client_secret_basic", "client_secret_basic", true, false, "invalid_request"},
		{"client_secret_basic with DPoP", "client_secret_basic", "client_secret_basic", false, true, "DPoP"},
		{"private_key_jwt with DPoP", signer, "private_key_jwt", false, true, "DPoP"},
		{"private_key_jwt alone", signer, "private_key_jwt", false, false, "invalid_request"}, // it must not get a bearer token
		{"tls_client_auth", "shop", "tls_client_auth", true, false, "Bearer"},
		{"tls_client_auth with DPoP", "shop", "tls_client_auth", true, true, "DPoP"},
		{"DPoP where a nonce is demanded", "strict", "tls_client_auth", true, true, "use_dpop_nonce"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tool := oauth2c{
				issuer: s.URLs.Public, method: c.method, clientID: c.clientID, secret: secrets[c.method], key: &jwk,
				roots: shop.Roots(), dpop: c.dpop,
			}
			if c.cert {
				tool.cert = shop.Certificate()
			}
			if c.clientID == "strict" {
				tool.cert = strict.Certificate()
			}
			status, answer := tool.token(t)
			got := answer["token_type"]
			if status != http.StatusOK {
				got = answer["error"]
			}
			if got != c.want {
				t.Errorf("%d %v, want %s", status, answer, c.want)
			}
		})
	}
}
