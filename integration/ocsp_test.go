package integration

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
)

// asking is a CA with a client of each status, and the certificates that a client of OCSP needs: root.crt and issuing.crt
// in the shell's directory.
type asking struct {
	*shell
	server              *pkitest.Server
	good, revoked, held *client.Identity
	url                 string
}

func newAsking(t *testing.T) *asking {
	s := pkitest.Start(t, pkitest.Options{})
	a := &asking{shell: newShell(t, s), server: s, url: s.URLs.Status + "/ocsp"}
	for name, id := range map[string]**client.Identity{"good": &a.good, "revoked": &a.revoked, "held": &a.held} {
		*id = s.Enrol(t, client.InvitationRequest{ClientID: name})
	}
	a.run(`cp "$PKICTL_HOME/root.crt" root.crt
		openssl x509 -in ` + a.file(a.good) + ` -noout -ext authorityInfoAccess | grep -q 'OCSP - URI:'"$STATUS/ocsp"
		url=$(openssl x509 -in ` + a.file(a.good) + ` -noout -ext authorityInfoAccess | sed -n 's/.*CA Issuers - URI://p')
		curl -sSf "$url" | openssl x509 -inform DER > issuing.crt
		pkictl revoke ` + a.file(a.revoked) + ` --reason keyCompromise --yes
		pkictl revoke ` + a.file(a.held) + ` --reason certificateHold --yes`)
	return a
}

func (*asking) file(id *client.Identity) string { return filepath.Join(id.Dir(), "client.crt") }

// ocsp has openssl ask, and verify the answer with nothing but the root and the issuing CA.
func (a *asking) ocsp(arguments string) string {
	a.t.Helper()
	return a.run(`openssl ocsp -url ` + a.url + ` -CAfile root.crt -issuer issuing.crt ` + arguments + ` 2>&1`)
}

func TestOpenSSLAsksOCSP(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	for _, options := range []string{"-nonce", "-no_nonce", "-sha256 -nonce", "-no_nonce -sha256"} {
		for id, want := range map[*client.Identity]string{a.good: "good", a.revoked: "revoked", a.held: "revoked"} {
			got := a.ocsp(options + ` -cert ` + a.file(id))
			if !strings.Contains(got, "Response verify OK") || !strings.Contains(got, a.file(id)+": "+want) || strings.Contains(got, "WARNING") {
				t.Errorf("%s: %s; want %s", options, got, want)
			}
		}
	}
	if got := a.ocsp("-nonce -cert " + a.file(a.revoked)); !strings.Contains(got, "Reason: keyCompromise") || !strings.Contains(got, "Revocation Time: ") {
		t.Errorf("revoked: %s", got)
	}
	if got := a.ocsp("-nonce -cert " + a.file(a.held)); !strings.Contains(got, "Reason: certificateHold") {
		t.Errorf("held: %s", got)
	}
	a.run(`pkictl revoke ` + a.file(a.held) + ` --reason removeFromCRL --yes`)
	if got := a.ocsp("-no_nonce -cert " + a.file(a.held)); !strings.Contains(got, ": good") {
		t.Errorf("released: %s", got)
	}

	several := a.ocsp(`-nonce -cert ` + a.file(a.good) + ` -cert ` + a.file(a.revoked) + ` -serial 0x1234`)
	for _, want := range []string{"Response verify OK", a.file(a.good) + ": good", a.file(a.revoked) + ": revoked", "0x1234: unknown"} {
		if !strings.Contains(several, want) {
			t.Errorf("several: no %q in %s", want, several)
		}
	}
	// Another CA's certificates are none of this responder's business, the issuing CA's own among them.
	got, _ := a.try(`openssl ocsp -url ` + a.url + ` -CAfile root.crt -issuer root.crt -cert issuing.crt 2>&1`)
	if !strings.Contains(got, "unauthorized (6)") {
		t.Errorf("of another issuer: %s", got)
	}
}

// What curl fetches by GET, with a path as it is and with one that is escaped, is what openssl verifies.
func TestCurlFetchesOCSP(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	for _, path := range []string{`$(base64 -w0 req.der)`, `$(base64 -w0 req.der | sed 's,/,%2F,g; s,+,%2B,g; s,=,%3D,g')`} {
		got := a.run(`openssl ocsp -no_nonce -issuer issuing.crt -cert ` + a.file(a.revoked) + ` -reqout req.der
			curl -sSf -D head -o resp.der "` + a.url + `/` + path + `"
			openssl ocsp -respin resp.der -CAfile root.crt -issuer issuing.crt -cert ` + a.file(a.revoked) + ` 2>&1; cat head`)
		for _, want := range []string{"Response verify OK", ": revoked", "Content-Type: application/ocsp-response", "max-age=", "Etag: "} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in %s", want, got)
			}
		}
	}
}

// The daemon's own listeners send an answer along, which openssl verifies, and it is replaced before it ends.
func TestListenersStaple(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	for _, url := range []string{a.server.URLs.Public, a.server.URLs.MTLS} {
		got := a.run(`openssl s_client -connect ` + strings.TrimPrefix(url, "https://") + ` -status -CAfile root.crt -verify_return_error </dev/null 2>&1`)
		if !strings.Contains(got, "OCSP Response Status: successful") || !strings.Contains(got, "Cert Status: good") || !strings.Contains(got, "Verify return code: 0 (ok)") {
			t.Errorf("%s: %s", url, got)
		}
		conn, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), a.good.TLSConfig())
		if err != nil {
			t.Fatal(err)
		}
		state := conn.ConnectionState()
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		answer, err := ocsp.ParseResponseForCert(state.OCSPResponse, state.PeerCertificates[0], state.PeerCertificates[1])
		if err != nil || answer.Status != ocsp.Good || time.Until(answer.NextUpdate) <= 0 {
			t.Errorf("%s: %+v, %v", url, answer, err)
		}
	}
}

func TestJavaAsksOCSP(t *testing.T) {
	t.Parallel()
	javac, java := pkitest.Need(t, "javac"), pkitest.Need(t, "java")
	source, err := filepath.Abs(filepath.Join("testdata", "PKIXCheck.java"))
	if err != nil {
		t.Fatal(err)
	}
	a := newAsking(t)
	a.run(javac + ` -d . ` + source)
	for id, want := range map[*client.Identity]string{a.good: "GOOD", a.revoked: "REVOKED at 0", a.held: "REVOKED at 0"} {
		if got := a.run(java + ` -cp . PKIXCheck root.crt ` + a.file(id) + ` ocsp`); !strings.Contains(got, want) {
			t.Errorf("%s; want %s", got, want)
		}
	}
}

// nginx asks about its clients, and staples an answer about itself.
const nginxOCSPConf = `
daemon off;
pid %[1]s/nginx.pid;
error_log stderr notice;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fcgi;
  uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  server {
    listen %[2]s ssl;
    ssl_certificate %[3]s/client.crt;
    ssl_certificate_key %[3]s/client.key;
    ssl_client_certificate %[1]s/root.crt;
    ssl_trusted_certificate %[1]s/root.crt;
    ssl_verify_client on;
    ssl_verify_depth 2;
    ssl_ocsp leaf;
    ssl_ocsp_responder %[4]s;
    ssl_stapling on;
    ssl_stapling_verify on;
    ssl_stapling_responder %[4]s;
    location / { return 200 "hello $ssl_client_s_dn\n"; }
  }
}
`

func TestNginxAsksOCSP(t *testing.T) {
	t.Parallel()
	nginx := pkitest.Need(t, "nginx")
	a := newAsking(t)
	web := a.server.Enrol(t, client.InvitationRequest{ClientID: "web", Profile: "server", SANs: []string{"localhost", "127.0.0.1"}})
	addr := pkitest.FreeAddress(t)
	responder := regexp.MustCompile(`//[^:]+`).ReplaceAllString(a.url, "//127.0.0.1") // nginx has no resolver here
	runNginx(t, nginx, a.dir, addr, fmt.Sprintf(nginxOCSPConf, a.dir, addr, web.Dir(), responder))
	get := func(id *client.Identity) string {
		out, err := a.try(fmt.Sprintf(`curl -sS --cacert root.crt --cert %[1]s/client.crt --key %[1]s/client.key -w '%%{http_code}' https://%[2]s/`, id.Dir(), addr))
		return fmt.Sprint(out, err)
	}
	if got := get(a.good); !strings.Contains(got, "hello CN=good") {
		t.Errorf("good: %s", got)
	}
	for _, id := range []*client.Identity{a.revoked, a.held} {
		if got := get(id); !strings.Contains(got, "400") || !strings.Contains(got, "certificate error") {
			t.Errorf("revoked or held: %s", got)
		}
	}
	a.run(`pkictl revoke ` + a.file(a.good) + ` --reason keyCompromise --yes`)
	if got := get(a.good); !strings.Contains(got, "400") {
		t.Errorf("revoked just now: %s", got)
	}
	a.run(`pkictl revoke ` + a.file(a.held) + ` --reason removeFromCRL --yes`)
	pkitest.Eventually(t, 10*time.Second, func() error { // the first handshake has nginx fetch it for the next
		got, err := a.try(fmt.Sprintf(`openssl s_client -connect %[2]s -status -CAfile root.crt -cert %[1]s/client.crt -key %[1]s/client.key </dev/null 2>&1`, a.held.Dir(), addr))
		if !strings.Contains(got, "Cert Status: good") {
			return fmt.Errorf("no staple: %w", err)
		}
		return nil
	})
}

// What is revoked on one node, every other tells at once: it asks the database, and uses no answer that says otherwise.
func TestNodesAgreeOnOCSP(t *testing.T) {
	t.Parallel()
	c := newCluster(t, pgtest.Database(t), 2)
	leaf := c.robot.Certificate().Leaf
	issuer, err := x509.ParseCertificate(c.robot.Certificate().Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	request, err := ocsp.CreateRequest(leaf, issuer, nil)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(n *node, method, url, body string) int {
		t.Helper()
		got := n.must(nil, method, url, http.Header{"Content-Type": {"application/ocsp-request"}}, body)
		answer, err := ocsp.ParseResponseForCert([]byte(got.body), leaf, issuer)
		if err != nil {
			t.Fatalf("node %s: %v: %s", n.name, err, got)
		}
		return answer.Status
	}
	for _, status := range []int{ocsp.Good, ocsp.Revoked} {
		for _, n := range c.nodes {
			url := leaf.OCSPServer[0]
			if got := ask(n, http.MethodPost, url, string(request)); got != status {
				t.Errorf("node %s: %d, want %d", n.name, got, status)
			}
			if got := ask(n, http.MethodGet, url+"/"+base64.StdEncoding.EncodeToString(request), ""); got != status {
				t.Errorf("node %s by GET: %d, want %d", n.name, got, status)
			}
		}
		if got := c.nodes[0].rest(c.operator, http.MethodPost, "/v1/certificates/"+serialOf(c.robot)+"/revoke", map[string]string{"reason": "keyCompromise"}); status == ocsp.Good && got.status != http.StatusOK {
			t.Fatalf("revoking: %s", got)
		}
	}
}

// Certificates of the next issuing CA and of the one before it are answered for alike, also after a restart.
func TestOCSPAfterARotation(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	old, bad := s.Enrol(t, client.InvitationRequest{ClientID: "old"}), s.Enrol(t, client.InvitationRequest{ClientID: "bad"})
	rotate(t, s)
	fresh := s.Enrol(t, client.InvitationRequest{ClientID: "fresh"})
	if _, err := s.Operator(t).Revoke(t.Context(), serialText(bad), client.Revocation{Reason: "keyCompromise"}); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"now", "after a restart"} {
		for id, want := range map[*client.Identity]int{old: ocsp.Good, bad: ocsp.Revoked, fresh: ocsp.Good} {
			pkitest.Eventually(t, 5*time.Second, func() error {
				if got, err := statusOf(id); err != nil || got != want {
					return fmt.Errorf("%s: %s: %d, %w; want %d", when, id.Info().ClientID, got, err, want)
				}
				return nil
			})
		}
		if when == "now" {
			s.Stop(t)
			s = pkitest.Serve(t, s.Dir, pkitest.Options{})
		}
	}
}

// statusOf asks about a client's certificate where it says.
func statusOf(id *client.Identity) (int, error) {
	issuer, err := x509.ParseCertificate(id.Certificate().Certificate[1])
	if err != nil {
		return 0, err
	}
	leaf := id.Certificate().Leaf
	request, err := ocsp.CreateRequest(leaf, issuer, nil)
	if err != nil {
		return 0, err
	}
	if len(leaf.OCSPServer) != 1 {
		return 0, fmt.Errorf("the certificate names %d responders", len(leaf.OCSPServer))
	}
	resp, err := http.Post(leaf.OCSPServer[0], "application/ocsp-request", bytes.NewReader(request))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	answer, err := ocsp.ParseResponseForCert(text, leaf, issuer)
	if err != nil {
		return 0, err
	}
	return answer.Status, nil
}

// A CA that is told to do without answers nobody, and its certificates name no responder.
func TestWithoutOCSP(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{Edit: func(c *config.Config) { c.OCSP.Enabled = new(bool) }})
	id := s.Enrol(t, client.InvitationRequest{ClientID: "client"})
	if got := id.Certificate().Leaf.OCSPServer; len(got) != 0 {
		t.Errorf("the certificate names %q", got)
	}
	resp, err := http.Post(s.URLs.Status+"/ocsp", "application/ocsp-request", bytes.NewReader([]byte{0x30, 0}))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("%s: %s, %v", resp.Status, text, err)
	}
}
