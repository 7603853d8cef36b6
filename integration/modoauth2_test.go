package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/tokenbind"
)

// What deploy/apache/mod_oauth2.conf leaves to Debian's own files, kept in a directory of the test's own.
const apacheConf = `
ServerRoot %[1]s
ServerName localhost
PidFile %[1]s/apache.pid
DocumentRoot %[1]s/www
ErrorLog /dev/stderr
LogLevel error
%[2]s
Include %[1]s/mod_oauth2.conf
`

// Apache's mod_oauth2 takes pkid's tokens with nothing but its metadata and its keys: the file in deploy/, but for
// addresses and directories, with the root among the system's.
func TestModOAuth2(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	api := s.Enrol(t, client.InvitationRequest{ClientID: "api", Profile: "server", SANs: []string{"localhost"}})
	url := startModOAuth2(t, s, api)
	shop := s.Enrol(t, client.InvitationRequest{ClientID: "shop", Resources: []string{url, "https://other.example"}})
	legacy, err := s.Operator(t).AddClient(t.Context(), client.ClientRecord{
		ID: "legacy", Auth: "client_secret_basic", Bearer: true, Resources: []string{url, "https://other.example"},
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := client.NewKey("")
	if err != nil {
		t.Fatal(err)
	}
	secret := client.TokenConfig{Issuer: s.URLs.Public, ClientID: "legacy", Secret: legacy.Secret, Roots: shop.Roots(), Resource: url}
	dpop, elsewhere := secret, secret
	dpop.DPoPKey, elsewhere.Resource = key, "https://other.example"
	for _, c := range []struct {
		name, path string
		conf       client.TokenConfig
		who        string
	}{
		{"a certificate-bound token", "/mtls", client.TokenConfig{Identity: shop, Resource: url}, "shop"},
		{"a DPoP-bound token", "/dpop", dpop, "legacy"},
		{"a bearer token", "/bearer", secret, "legacy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 { // the second from mod_oauth2's own memory
				if got := getAs(t, c.conf, url+c.path); got != "200 hello "+c.who {
					t.Errorf("its own: %s", got)
				}
			}
		})
	}

	token := func(conf client.TokenConfig) string {
		source, err := client.NewTokenSource(conf)
		if err != nil {
			t.Fatal(err)
		}
		got, err := source.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return got.AccessToken
	}
	prover, err := tokenbind.NewProver(key)
	if err != nil {
		t.Fatal(err)
	}
	prove := func(p *tokenbind.Prover, target, token string) string {
		proof, err := p.Proof(http.MethodGet, target, tokenbind.ProofOptions{AccessToken: token})
		if err != nil {
			t.Fatal(err)
		}
		return proof
	}
	thiefKey, _ := client.NewKey("")
	thiefProver, err := tokenbind.NewProver(thiefKey)
	if err != nil {
		t.Fatal(err)
	}
	thief := s.Enrol(t, client.InvitationRequest{ClientID: "thief"})
	bound, proved, bare := token(client.TokenConfig{Identity: shop, Resource: url}), token(dpop), token(secret)
	used := prove(prover, url+"/dpop", proved)
	for _, c := range []struct {
		name, path, scheme, token, proof string
		want                             string
	}{
		{"the first use of a proof", "/dpop", "DPoP", proved, used, "200"},
		{"a certificate-bound token of another", "/mtls", "Bearer", bound, "", "401"},
		{"a DPoP-bound token among certificate-bound ones", "/mtls", "Bearer", proved, "", "401"},
		{"a bearer token among certificate-bound ones", "/mtls", "Bearer", bare, "", "401"},
		{"a DPoP-bound token as Bearer", "/bearer", "Bearer", proved, "", "401"},
		{"a certificate-bound token as Bearer", "/bearer", "Bearer", bound, "", "401"},
		{"a DPoP-bound token without a proof", "/dpop", "DPoP", proved, "", "401"},
		{"a DPoP-bound token with a thief's proof", "/dpop", "DPoP", proved, prove(thiefProver, url+"/dpop", proved), "401"},
		{"a proof for another URL", "/dpop", "DPoP", proved, prove(prover, "https://localhost:1/dpop", proved), "401"},
		{"a proof for an URL that the thief says is this one", "/dpop", "DPoP", proved, prove(prover, "https://evil.example/dpop", proved), "401"},
		{"a proof that was used", "/dpop", "DPoP", proved, used, "401"},
		{"a bearer token among DPoP-bound ones", "/dpop", "DPoP", bare, prove(prover, url+"/dpop", bare), "401"},
		{"a token for another server", "/bearer", "Bearer", token(elsewhere), "", "401"},
		{"no token that this issuer signed", "/bearer", "Bearer", bare[:len(bare)-4] + "AAAA", "", "401"},
	} {
		header := http.Header{"Authorization": {c.scheme + " " + c.token}}
		if c.proof != "" {
			header.Set("DPoP", c.proof)
			header.Set("X-Forwarded-Host", "evil.example")
		}
		if got := answerOf(t, thief.HTTPClient(), url+c.path, header); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := answerOf(t, thief.HTTPClient(), url+"/mtls", nil); !strings.HasPrefix(got, "401") {
		t.Errorf("no token: %s", got)
	}
}

// startModOAuth2 serves the file in deploy/ until the test ends, and returns its URL.
func startModOAuth2(t *testing.T, s *pkitest.Server, api *client.Identity) string {
	t.Helper()
	apache, unshare := pkitest.Need(t, "apache2"), pkitest.Need(t, "unshare")
	if _, err := os.Stat("/usr/lib/apache2/modules/mod_oauth2.so"); err != nil {
		pkitest.Missing(t, "libapache2-mod-oauth2 is not installed: `make deps` installs it on Debian as root")
	}
	dir, addr := t.TempDir(), pkitest.FreeAddress(t)
	url := "https://localhost:" + addr[strings.LastIndex(addr, ":")+1:]
	text, err := os.ReadFile("../deploy/apache/mod_oauth2.conf")
	if err != nil {
		t.Fatal(err)
	}
	conf := strings.NewReplacer(
		"127.0.0.1:6443", addr, "https://localhost:6443", url, "https://localhost:8443", s.URLs.Public,
		"/etc/pkid/api", api.Dir(),
	).Replace(string(text))
	var modules strings.Builder
	for _, m := range []string{"mpm_event", "authn_core", "authz_core", "authz_user", "ssl", "headers", "oauth2"} {
		fmt.Fprintf(&modules, "LoadModule %s_module /usr/lib/apache2/modules/mod_%s.so\n", m, m)
	}
	// Whom the module found is what a script behind it would read.
	conf = strings.Replace(conf, "</VirtualHost>", `
    Header always set X-Client "expr=%{REMOTE_USER}"
</VirtualHost>`, 1)
	if err := os.Mkdir(filepath.Join(dir, "www"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"mod_oauth2.conf": conf, "apache.conf": fmt.Sprintf(apacheConf, dir, modules.String()),
		"www/mtls": "hello", "www/dpop": "hello", "www/bearer": "hello",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// libcurl, which the module fetches with, knows the system's roots only. A mount namespace has others for this process.
	const trust = `cat /etc/ssl/certs/ca-certificates.crt "$0" > roots.pem && mount --bind roots.pem /etc/ssl/certs/ca-certificates.crt && exec "$@"`
	mounts := []string{"--mount"}
	if os.Getuid() != 0 {
		mounts = append(mounts, "--map-root-user")
	}
	args := append(mounts, "bash", "-c", trust, filepath.Join(api.Dir(), "root.crt"), apache, "-d", dir, "-f", filepath.Join(dir, "apache.conf"), "-DFOREGROUND")
	cmd := exec.CommandContext(t.Context(), unshare, args...)
	cmd.Dir = dir
	serveProgram(t, cmd, addr)
	return url
}

// getAs calls a URL with a token of its own, and returns status, body and whom the server took it for.
func getAs(t *testing.T, conf client.TokenConfig, url string) string {
	t.Helper()
	source, err := client.NewTokenSource(conf)
	if err != nil {
		t.Fatal(err)
	}
	return answerOf(t, source.Client(), url, nil)
}

func answerOf(t *testing.T, hc *http.Client, url string, header http.Header) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	resp, err := hc.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body := pkitest.ReadAll(t, resp.Body)
	return fmt.Sprintf("%d %s %s", resp.StatusCode, strings.TrimSpace(string(body)), resp.Header.Get("X-Client"))
}
