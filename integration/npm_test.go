package integration

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/tokenbind"
)

// The npm clients that most of the field builds on get both kinds of token from the metadata alone, use
// them at a resource server, and find that a token without its key is worth nothing.
func TestNPMClients(t *testing.T) {
	t.Parallel()
	node := needNode(t, "node")
	for _, nonces := range []bool{false, true} {
		s := pkitest.Start(t, pkitest.Options{Edit: func(c *config.Config) { c.Tokens.RequireDPoPNonce = nonces }})
		id := s.Enrol(t, client.InvitationRequest{ClientID: "npm", Scopes: []string{"read"}})
		resource := startResource(t, s)
		for _, script := range []string{"oauth4webapi.mjs", "openid-client.mjs"} {
			for _, dpop := range []bool{false, true} {
				name := strings.TrimSuffix(script, ".mjs") + map[bool]string{false: "/mtls", true: "/dpop"}[dpop] + map[bool]string{true: "-nonce"}[nonces]
				if nonces && (!dpop || script == "openid-client.mjs") {
					continue // nonces concern proofs; openid-client answers them through the same oauth4webapi
				}
				t.Run(name, func(t *testing.T) {
					checkNPM(t, runNode(t, node, script, map[string]any{
						"issuer": s.URLs.Public, "dir": id.Dir(), "client_id": "npm", "resource": resource, "dpop": dpop,
					}), "npm", dpop)
				})
			}
		}
		if nonces {
			continue
		}
		key, jwk := addKeyClient(t, s, "signer")
		for _, script := range []string{"oauth4webapi.mjs", "openid-client.mjs"} { // a key signs both assertion and, another, the proof
			t.Run(strings.TrimSuffix(script, ".mjs")+"/private_key_jwt", func(t *testing.T) {
				r := runNode(t, node, script, map[string]any{
					"issuer": s.URLs.Public, "dir": id.Dir(), "client_id": key, "resource": resource, "dpop": true, "jwk": jwk,
				})
				checkNPM(t, r, key, true)
			})
		}
	}
}

// addKeyClient registers a client that signs assertions (private_key_jwt), and returns its id and its private JWK.
func addKeyClient(t *testing.T, s *pkitest.Server, id string) (string, jose.JSONWebKey) {
	t.Helper()
	key, err := client.NewKey("")
	if err != nil {
		t.Fatal(err)
	}
	jwk := jose.JSONWebKey{Key: key, KeyID: "one", Algorithm: "ES256", Use: "sig"}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{jwk.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Operator(t).AddClient(t.Context(), client.ClientRecord{ID: id, Auth: "private_key_jwt", JWKS: set}); err != nil {
		t.Fatal(err)
	}
	return id, jwk
}

type npmReport struct {
	TokenType string `json:"token_type"`
	Resource  int    `json:"resource"`
	Body      string `json:"body"`
	Stolen    int    `json:"stolen"`
	Challenge string `json:"challenge"`

	Introspection struct {
		Active   bool              `json:"active"`
		ClientID string            `json:"client_id"`
		Cnf      map[string]string `json:"cnf"`
	} `json:"introspection"`
}

func checkNPM(t *testing.T, r npmReport, who string, dpop bool) {
	t.Helper()
	wantType := map[bool]string{false: "bearer", true: "dpop"}[dpop] // oauth4webapi lower-cases it
	if r.TokenType != wantType || r.Resource != http.StatusOK || r.Body != "hello "+who {
		t.Errorf("used as it should be: %+v, want type %s, 200 and a greeting", r, wantType)
	}
	if r.Stolen != http.StatusUnauthorized || !strings.Contains(r.Challenge, "invalid_token") {
		t.Errorf("stolen: %d %s, want 401 invalid_token", r.Stolen, r.Challenge)
	}
	member := map[bool]string{false: "x5t#S256", true: "jkt"}[dpop]
	if i := r.Introspection; !i.Active || i.ClientID != who || i.Cnf[member] == "" {
		t.Errorf("introspection: %+v, want it active, of %s, with cnf.%s", i, who, member)
	}
}

func runNode(t *testing.T, node, script string, settings map[string]any) (r npmReport) {
	t.Helper()
	text, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, script)
	cmd.Dir = "node"
	cmd.Env = append(os.Environ(), "PKID_TEST="+string(text),
		"NODE_EXTRA_CA_CERTS="+filepath.Join(settings["dir"].(string), "root.crt"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, errs.String())
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%s printed %q: %v", script, out.String(), err)
	}
	return r
}

// startResource serves one resource behind a verifier, with a certificate of the same CA.
func startResource(t *testing.T, s *pkitest.Server) string {
	t.Helper()
	web := s.Enrol(t, client.InvitationRequest{ClientID: "resource", Profile: "server", SANs: []string{"127.0.0.1"}})
	srv := httptest.NewUnstartedServer(nil)
	verifier, err := tokenbind.NewVerifier(tokenbind.Config{
		Issuer: s.URLs.Public, Audience: s.URLs.Public, BaseURL: "https://" + srv.Listener.Addr().String(), HTTPClient: web.HTTPClient(),
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = verifier.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, _ := tokenbind.ClaimsFrom(r.Context())
		w.Write([]byte("hello " + claims.ClientID))
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{*web.Certificate()}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL + "/hello"
}
