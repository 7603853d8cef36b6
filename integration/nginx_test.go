package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pkitest"
)

// nginx checks the whole chain against its ssl_crl file, so that file holds the root's CRL too.
const nginxConf = `
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
    ssl_client_certificate %[3]s/root.crt;
    ssl_verify_client on;
    ssl_verify_depth 2;
    ssl_crl %[1]s/crl.pem;
    location / { return 200 "hello $ssl_client_s_dn\n"; }
  }
}
`

func TestNginxRefusesARevokedClient(t *testing.T) {
	t.Parallel()
	nginx := pkitest.Need(t, "nginx")
	s := pkitest.Start(t, pkitest.Options{})
	sh := newShell(t, s)
	web := s.Enrol(t, client.InvitationRequest{ClientID: "web", Profile: "server", SANs: []string{"localhost", "127.0.0.1"}})
	good := s.Enrol(t, client.InvitationRequest{ClientID: "good"})
	bad := s.Enrol(t, client.InvitationRequest{ClientID: "bad"})

	const fetchCRLs = `for id in root $(curl -sS --cacert "$PKICTL_HOME/root.crt" "$PUBLIC/v1/ca" | grep -o '"id": *"[0-9a-f]*"' | grep -o '[0-9a-f]\{16\}'); do
		curl -sSf "$STATUS/crl/$id.crl" | openssl crl -inform DER; done > crl.pem`
	sh.run(fetchCRLs)
	addr := startNginx(t, nginx, sh.dir, web.Dir())
	get := func(id *client.Identity) (string, error) {
		return sh.try(fmt.Sprintf(`curl -sS --cacert %[1]s/root.crt --cert %[1]s/client.crt --key %[1]s/client.key -w '%%{http_code}' https://%[2]s/`, id.Dir(), addr))
	}
	for _, id := range []*client.Identity{good, bad} {
		if got, err := get(id); err != nil || !strings.Contains(got, "200") {
			t.Fatalf("before the revocation: %s, %v", got, err)
		}
	}

	sh.run(`pkictl revoke ` + filepath.Join(bad.Dir(), "client.crt") + ` --reason keyCompromise --yes`)
	pkitest.Eventually(t, 5*time.Second, func() error {
		sh.run(fetchCRLs + ` && kill -HUP "$(cat nginx.pid)"`)
		got, err := get(bad)
		if err != nil || !strings.Contains(got, "400") || !strings.Contains(got, "certificate error") {
			return fmt.Errorf("after the revocation: %s, %w", got, err)
		}
		return nil
	})
	if got, err := get(good); err != nil || !strings.Contains(got, "hello CN=good") {
		t.Errorf("the other client: %s, %v", got, err)
	}
}

// startNginx serves the configuration until the test ends, and returns its address.
func startNginx(t *testing.T, nginx, dir, serverIdentity string) string {
	t.Helper()
	addr := pkitest.FreeAddress(t)
	runNginx(t, nginx, dir, addr, fmt.Sprintf(nginxConf, dir, addr, serverIdentity))
	return addr
}

// runNginx runs nginx with a configuration that listens on an address.
func runNginx(t *testing.T, nginx, dir, addr, text string) {
	t.Helper()
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nginx, "-p", dir, "-e", "stderr", "-c", conf)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	pkitest.Eventually(t, 5*time.Second, func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	})
}
