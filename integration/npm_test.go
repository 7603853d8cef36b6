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

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/tokenbind"
)

// The npm clients that most of the field builds on get both kinds of token from the metadata alone, use
// them at a resource server, and find that a token without its key is worth nothing.
func TestNPMClients(t *testing.T) {
	t.Parallel()
	node := pkitest.Need(t, "node")
	if _, err := os.Stat("node/node_modules"); err != nil {
		pkitest.Missing(t, "the npm clients are not installed: `make deps` installs them where npm is")
	}
	if exec.CommandContext(t.Context(), node, "-e", "process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)").Run() != nil {
		pkitest.Missing(t, "node is older than the 18.17 that the npm clients need")
	}
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
					}), dpop)
				})
			}
		}
	}
}

type npmReport struct {
	TokenType string `json:"token_type"`
	Resource  int    `json:"resource"`
	Body      string `json:"body"`
	Stolen    int    `json:"stolen"`
	Challenge string `json:"challenge"`
}

func checkNPM(t *testing.T, r npmReport, dpop bool) {
	t.Helper()
	wantType := map[bool]string{false: "bearer", true: "dpop"}[dpop] // oauth4webapi lower-cases it
	if r.TokenType != wantType || r.Resource != http.StatusOK || r.Body != "hello npm" {
		t.Errorf("used as it should be: %+v, want type %s, 200 and a greeting", r, wantType)
	}
	if r.Stolen != http.StatusUnauthorized || !strings.Contains(r.Challenge, "invalid_token") {
		t.Errorf("stolen: %d %s, want 401 invalid_token", r.Stolen, r.Challenge)
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
