package integration

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/pkitest"
)

// shell runs commands as a user would paste them, with pkictl on the PATH, and returns what they print on
// standard output; what they print beside it goes into the error.
type shell struct {
	t   *testing.T
	dir string
	env []string
}

func newShell(t *testing.T, s *pkitest.Server) *shell {
	for _, program := range []string{"openssl", "curl", "basenc"} {
		pkitest.Need(t, program)
	}
	bin := filepath.Dir(pkitest.Build(t, "pkictl"))
	return &shell{t: t, dir: t.TempDir(), env: append(os.Environ(),
		"PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"),
		"PKICTL_HOME="+s.Home, "PUBLIC="+s.URLs.Public, "MTLS="+s.URLs.MTLS, "STATUS="+s.URLs.Status)}
}

func (sh *shell) try(script string) (string, error) {
	cmd := exec.CommandContext(sh.t.Context(), "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = sh.dir, sh.env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, errs.String())
	}
	return strings.TrimSpace(out.String()), err
}

func (sh *shell) run(script string) string {
	sh.t.Helper()
	out, err := sh.try(script)
	if err != nil {
		sh.t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return out
}

func (sh *shell) json(script string, into any) {
	sh.t.Helper()
	out := sh.run(script)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		sh.t.Fatalf("%s\nprinted %q: %v", script, out, err)
	}
}

// The whole life of a certificate and its token with curl and openssl, as the README tells it.
func TestInviteEnrolTokenRevoke(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{})
	sh := newShell(t, s)

	sh.run(`pkictl enroll "$(pkictl invite payments --scope pay)" --out payments`)
	if got := sh.run(`cd payments && csplit -s -z -f part- client.crt '/BEGIN/' '{*}' && openssl verify -CAfile root.crt -untrusted part-01 part-00`); !strings.Contains(got, "part-00: OK") {
		t.Fatalf("openssl verify: %s", got)
	}

	const tokenRequest = `curl -sS --cacert payments/root.crt --cert payments/client.crt --key payments/client.key \
		-d grant_type=client_credentials -d client_id=payments "$MTLS/oauth/token"`
	var token struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		Error       string `json:"error"`
	}
	sh.json(tokenRequest, &token)
	if token.TokenType != "Bearer" { // RFC 8705 section 3: a certificate-bound token is used as RFC 6750 says
		t.Fatalf("token response: %+v", token)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token.AccessToken, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Scope string `json:"scope"`
		Cnf   struct {
			X5T string `json:"x5t#S256"`
		} `json:"cnf"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	want := sh.run(`openssl x509 -in payments/client.crt -outform DER | openssl dgst -sha256 -binary | basenc --base64url | tr -d =`)
	if claims.Cnf.X5T != want || claims.Scope != "pay" {
		t.Fatalf("claims %+v, openssl says %s", claims, want)
	}
	if got := sh.run(`pkictl thumbprint payments/client.crt`); !strings.Contains(got, want) {
		t.Errorf("pkictl thumbprint: %s, openssl says %s", got, want)
	}

	introspect := `curl -sS --cacert payments/root.crt --cert payments/client.crt --key payments/client.key \
		-d client_id=payments -d token=` + token.AccessToken + ` "$MTLS/oauth/introspect"`
	var state struct {
		Active bool   `json:"active"`
		Error  string `json:"error"`
	}
	sh.json(introspect, &state)
	if !state.Active {
		t.Fatal("introspection before the revocation: not active")
	}
	// The client's own credentials will be gone; a resource server asks from now on.
	var rs struct {
		ClientSecret string `json:"client_secret"`
	}
	sh.json(`pkictl client add gateway --auth client_secret_basic --introspect --json`, &rs)

	sh.run(`pkictl revoke payments/client.crt --reason keyCompromise --yes`)

	sh.json(`curl -sS --cacert payments/root.crt -u gateway:`+rs.ClientSecret+` -d token=`+token.AccessToken+` "$PUBLIC/oauth/introspect"`, &state)
	if state.Active {
		t.Error("introspection after the revocation: active")
	}
	sh.json(tokenRequest, &token)
	if token.Error != "invalid_client" {
		t.Errorf("token endpoint after the revocation: %+v", token)
	}
	pkitest.Eventually(t, time.Second, func() error {
		_, err := sh.try(`pkictl crl fetch --out crl.der && ! openssl verify -crl_check -CAfile payments/root.crt -untrusted payments/part-01 -CRLfile crl.der payments/part-00 2>verify.log; grep -q 'certificate revoked' verify.log`)
		return err
	})
}
