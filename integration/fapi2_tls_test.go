package integration

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
)

// Both listeners that serve OAuth and the console speak TLS 1.3, and 1.2 with the suites of BCP 195; openssl, which still
// knows the others, gets nothing else out of them.
func TestH01H02H03H06H12_TLSOnlyAndGoodTLSOnly(t *testing.T) {
	t.Parallel()
	openssl := pkitest.Need(t, "openssl")
	s := pkitest.Start(t, pkitest.Options{})
	offers := []struct {
		name string
		args []string
		ok   bool
	}{
		{"TLS 1.3", []string{"-tls1_3"}, true},
		{"ECDHE with AES-128-GCM", []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"}, true},
		{"ECDHE with AES-256-GCM", []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"}, true},
		{"CBC", []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-SHA"}, false},
		{"CBC with SHA-2", []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA384"}, false},
		{"no forward secrecy", []string{"-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-GCM-SHA384:AES128-SHA"}, false},
		{"TLS 1.1", []string{"-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}, false},
		{"TLS 1.0", []string{"-tls1", "-cipher", "ALL:@SECLEVEL=0"}, false},
	}
	for name, addr := range map[string]string{"public": s.Config.Listen.Public, "mtls": s.Config.Listen.MTLS} {
		for _, offer := range offers {
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			args := append([]string{"s_client", "-connect", addr, "-CAfile", s.Path("root.crt"), "-verify_return_error"}, offer.args...)
			cmd := exec.CommandContext(ctx, openssl, args...)
			cmd.Stdin = strings.NewReader("Q\n")
			out, err := cmd.CombinedOutput()
			cancel()
			if (err == nil) != offer.ok || offer.ok && !bytes.Contains(out, []byte("Verify return code: 0 (ok)")) {
				t.Errorf("%s, %s: %v\n%s", name, offer.name, err, out)
			}
			if !offer.ok && !bytes.Contains(out, []byte("alert")) && !bytes.Contains(out, []byte("no protocols available")) {
				t.Errorf("%s, %s: failed otherwise than for what was offered:\n%s", name, offer.name, out)
			}
		}
		if got := plainHTTP(t, addr); !strings.HasPrefix(got, "HTTP/1.0 400") {
			t.Errorf("%s, plain HTTP: %q", name, got)
		}
	}
}

// plainHTTP asks for a token without TLS.
func plainHTTP(t *testing.T, addr string) string {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := conn.Write([]byte("POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	return string(pkitest.ReadAll(t, conn))
}

// The CA that clients' and servers' certificates are trusted by is published, for everybody to compare with what they have.
func TestH08_TheTrustedCAIsPublished(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{})
	id := s.Enrol(t, client.InvitationRequest{ClientID: "a"})
	resp, err := id.HTTPClient().Get(s.URLs.Public + "/v1/ca")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var ca client.CA
	if err := json.NewDecoder(resp.Body).Decode(&ca); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(ca.Root))
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, issuer := range ca.Issuers {
		between.AppendCertsFromPEM([]byte(issuer.Certificate))
	}
	use := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := id.Certificate().Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: use}); err != nil {
		t.Errorf("a client's certificate does not lead to the published root: %v", err)
	}
}

// Nothing that a stranger writes into a request leads away from the daemon.
func TestH26_NoOpenRedirects(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{Edit: func(c *config.Config) { c.Profile = config.ProfileFAPI2 }})
	operator, err := client.Load(s.Home)
	if err != nil {
		t.Fatal(err)
	}
	hc := operator.HTTPClient()
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	evil := "?next=https://evil.example&redirect_uri=https://evil.example&url=https://evil.example"
	for _, origin := range []string{s.URLs.Public, s.URLs.MTLS, s.URLs.Status} {
		for _, path := range []string{
			"", "/", "//evil.example", "//evil.example/..", "/\\evil.example", "/%2f%2fevil.example/", "/oauth/token", "/oauth/revoke", "/oauth/introspect",
			"/oauth/jwks", "/oauth//evil.example", "/.well-known/openid-configuration", "/console", "/console/", "/console//evil.example", "/v1/ca", "/crl", "/crl/",
		} {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				req, err := http.NewRequestWithContext(t.Context(), method, origin+path+evil, http.NoBody)
				if err != nil {
					continue // no such URL can be asked for
				}
				req.Header.Set("X-Forwarded-Prefix", "//evil.example")
				resp, err := hc.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				target, err := url.Parse(resp.Header.Get("Location"))
				if err != nil || target.Host != "" || target.Scheme != "" || strings.HasPrefix(resp.Header.Get("Location"), "//") {
					t.Errorf("%s %s%s leads to %q", method, origin, path, resp.Header.Get("Location"))
				}
			}
		}
	}
}
