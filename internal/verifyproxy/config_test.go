package verifyproxy_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/verifyproxy"
)

// TestConfig_Refused: what would let anybody speak for clients, or lets a profile go by, is said before anything is served.
func TestConfig_Refused(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(*verifyproxy.Config)
		want string
	}{
		"nothing wrong so far":      {func(*verifyproxy.Config) {}, "root: open none.crt"},
		"clients of the CA":         {func(c *verifyproxy.Config) { c.Proxies.Clients = []string{"gateway"} }, "proxies.clients: which client"},
		"names without TLS":         {func(c *verifyproxy.Config) { c.Proxies.Names = []string{"gateway.example"} }, "proxies.names: a proxy proves"},
		"an empty name":             {func(c *verifyproxy.Config) { c.TLS, c.Proxies.Names = "id", []string{""} }, "proxies.names: one of them is empty"},
		"names, and a form":         {func(c *verifyproxy.Config) { c.TLS, c.Proxies.Names, c.Proxies.Form = "id", []string{"a"}, "pem" }, "proxies.form"},
		"a form for loopback":       {func(c *verifyproxy.Config) { c.Proxies.Form = "nginx" }, "root: open none.crt"},
		"everybody":                 {func(c *verifyproxy.Config) { c.Proxies.Addresses = []string{"::/0"} }, "everybody"},
		"another profile":           {func(c *verifyproxy.Config) { c.Profile = "FAPI2" }, `profile: want fapi2 or nothing, not "FAPI2"`},
		"a profile":                 {func(c *verifyproxy.Config) { c.Profile = "fapi2" }, "root: open none.crt"},
		"bearers under the profile": {func(c *verifyproxy.Config) { c.Profile, c.Servers[0].InsecureAllowBearer = "fapi2", true }, "servers[0].insecure_allow_bearer: profile fapi2"},
		"no TLS under the profile":  {func(c *verifyproxy.Config) { c.Profile, c.InsecureListenHTTP = "fapi2", true }, "insecure_listen_http: profile fapi2"},
		"in the clear":              {func(c *verifyproxy.Config) { c.Listen = "192.0.2.1:9180" }, "listen: 192.0.2.1:9180 is reached from other hosts"},
		"in the clear, gRPC":        {func(c *verifyproxy.Config) { c.ExtAuthz = ":9181" }, "ext_authz: :9181 is reached from other hosts"},
	} {
		c := verifyproxy.Config{Issuer: "https://pki.example", Root: "none.crt", Servers: []config.ResourceServer{{Audience: "https://api.example"}}}
		tt.edit(&c)
		if _, err := verifyproxy.New(c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLoad: the file says all that the flags do, and paths in it are relative to it.
func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "verify.yaml")
	text := `
issuer: https://pki.example.com:8443
root: root.crt
profile: fapi2
proxies: {names: [gateway.internal], addresses: [10.1.2.0/24], form: nginx}
listen: 10.1.2.9:9180
tls: /etc/pkid/verify
servers: [{name: orders, audience: https://orders.example.com, scopes: [orders]}]
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := verifyproxy.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.Root != filepath.Join(filepath.Dir(path), "root.crt") || c.TLS != "/etc/pkid/verify" || c.Profile != "fapi2" ||
		c.Proxies.Names[0] != "gateway.internal" || c.Proxies.Addresses[0] != "10.1.2.0/24" || c.Proxies.Form != "nginx" {
		t.Errorf("%+v", c)
	}
}
