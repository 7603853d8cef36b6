package integration

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/tokenbind"
)

// proxyProgram is a reverse proxy, run with the files of deploy/ that its users have.
type proxyProgram struct {
	name    string
	command string
	form    tokenbind.CertificateForm
	needs   string // a file without which forward authentication does not run, and its package
	// The files below deploy/ for each arrangement that it is run in. The first is the proxy's configuration.
	files map[arrangement][]string
	// main is what includes that file where it is no whole configuration; %DIR% and %FILE% stand for the paths.
	main string
	args []string
	// Debian has no package of it: it is run where it is installed, and has no column in the document.
	unpackaged bool
}

const (
	// What a distribution's nginx.conf has around the files of conf.d.
	nginxMain = `daemon off; master_process off; pid %DIR%/nginx.pid; error_log stderr warn; events {}
http {
  access_log off; client_body_temp_path %DIR%/body; proxy_temp_path %DIR%/proxy; fastcgi_temp_path %DIR%/fcgi;
  uwsgi_temp_path %DIR%/uwsgi; scgi_temp_path %DIR%/scgi;
  include %FILE%;
}
`
	// What Debian's apache2.conf and a2enmod have around a site. The script's host is the module of Debian's package.
	apacheMain = `ServerRoot %DIR%
ServerName localhost
PidFile %DIR%/httpd.pid
DefaultRuntimeDir %DIR%
Mutex file:%DIR%
ErrorLog %DIR%/error.log
LogLevel warn ssl:error
StartServers 1
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
LoadModule lua_module /usr/lib/apache2/modules/mod_lua.so
Include %FILE%
`
)

var proxyPrograms = []proxyProgram{
	{
		name: "nginx", command: "nginx", form: tokenbind.FormNginx, main: nginxMain,
		files: map[arrangement][]string{passes: {"nginx/pass-certificate.conf"}, asks: {"nginx/forward-auth.conf"}},
		args:  []string{"-p", "%DIR%", "-e", "stderr", "-c", "%MAIN%"},
	},
	{
		name: "HAProxy", command: "haproxy", form: tokenbind.FormHAProxy,
		files: map[arrangement][]string{passes: {"haproxy/pass-certificate.cfg"}, asks: {"haproxy/forward-auth.cfg", "haproxy/pkid-verify.lua"}},
		args:  []string{"-db", "-q", "-f", "%FILE%"},
	},
	{
		name: "Apache", command: "apache2", form: tokenbind.FormApache, main: apacheMain, needs: "/usr/share/lua/5.3/socket.lua",
		files: map[arrangement][]string{passes: {"apache/pass-certificate.conf"}, asks: {"apache/forward-auth.conf", "apache/pkid-verify.lua"}},
		args:  []string{"-D", "FOREGROUND", "-f", "%MAIN%"},
	},
	{
		name: "Caddy", command: "caddy", form: tokenbind.FormRFC9440,
		files: map[arrangement][]string{passes: {"caddy/pass-certificate.Caddyfile"}, asks: {"caddy/forward-auth.Caddyfile"}, asksDaemon: {"caddy/forward-auth-daemon.Caddyfile"}},
		args:  []string{"run", "--adapter", "caddyfile", "--config", "%FILE%"},
	},
	{
		name: "Traefik", command: "traefik", form: tokenbind.FormTraefik, unpackaged: true,
		files: map[arrangement][]string{passes: {"traefik/pass-certificate.yaml"}, asks: {"traefik/forward-auth.yaml"}},
		args:  []string{"--entryPoints.api.address=127.0.0.1:6443", "--providers.file.filename=%FILE%"},
	},
	{
		name: "Envoy", command: "envoy", form: tokenbind.FormEnvoy, unpackaged: true,
		files: map[arrangement][]string{passes: {"envoy/pass-certificate.yaml"}, asks: {"envoy/forward-auth.yaml"}},
		args:  []string{"-c", "%FILE%", "--disable-hot-restart", "-l", "warn"},
	},
}

// arrangements are those that it is run in, in their order.
func (p *proxyProgram) arrangements() []arrangement {
	return slices.DeleteFunc(slices.Clone(arrangements), func(a arrangement) bool { return p.files[a] == nil })
}

// need looks up the program.
func (p *proxyProgram) need(t *testing.T) string {
	t.Helper()
	if p.needs != "" {
		if _, err := os.Stat(p.needs); err != nil {
			pkitest.Missing(t, p.needs+" is not installed: `make deps` installs it on Debian as root")
		}
	}
	if path, err := exec.LookPath(p.command); p.unpackaged {
		if err != nil {
			t.Skipf("%s is not installed, and Debian has no package of it", p.command)
		}
		return path
	}
	return pkitest.Need(t, p.command)
}

// addresses are where the parts are that a file of deploy/ has in the places that its head names.
type addresses struct {
	proxy, api, verify, pkid string // host:port
}

// start runs the proxy until the test ends. The file is the one that is shipped, but for the addresses and the path of
// the identity's directory.
func (p *proxyProgram) start(t *testing.T, path string, files []string, id *client.Identity, at addresses) {
	t.Helper()
	dir := openDir(t)
	for _, name := range []string{"client.crt", "client.key", "root.crt"} {
		writeFor(t, filepath.Join(dir, name), readFile(t, filepath.Join(id.Dir(), name)))
	}
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.Certificate().Leaf.Raw})
	writeFor(t, filepath.Join(dir, "client.pem"), string(leaf)+readFile(t, filepath.Join(id.Dir(), "client.key")))
	port := func(address string) string { return ":" + address[strings.LastIndexByte(address, ':')+1:] }
	shipped := strings.NewReplacer("/etc/pkid/proxy", dir, "/etc/haproxy", dir, "/etc/apache2", dir, ":6443", port(at.proxy), ":7080", port(at.api), ":9180", port(at.verify), ":9443", port(at.pkid))
	for _, f := range files {
		writeFor(t, filepath.Join(dir, filepath.Base(f)), shipped.Replace(readFile(t, filepath.Join("..", "deploy", f))))
	}
	paths := strings.NewReplacer("%DIR%", dir, "%FILE%", filepath.Join(dir, filepath.Base(files[0])), "%MAIN%", filepath.Join(dir, "main.conf"))
	writeFor(t, filepath.Join(dir, "main.conf"), paths.Replace(p.main))
	var args []string
	for _, a := range p.args {
		args = append(args, paths.Replace(shipped.Replace(a)))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, t.Output(), t.Output()
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(syscall.SIGTERM) }, 10*time.Second
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // that it was ended
		if log, err := os.ReadFile(filepath.Join(dir, "error.log")); err == nil && t.Failed() {
			t.Logf("%s", log)
		}
	})
	// Some listen before they have read of their certificate.
	pkitest.Eventually(t, 15*time.Second, func() error {
		c, err := tls.Dial("tcp", at.proxy, &tls.Config{RootCAs: id.Roots(), ServerName: "localhost", MinVersion: tls.VersionTLS12})
		if err == nil {
			c.Close()
		}
		return err
	})
}

// nobody is whom the proxies run as where the tests run as root.
const nobody = 65534

// openDir is a directory that nobody can get at and into; those of t.TempDir are root's alone.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pkid-proxy") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	give(t, dir)
	return dir
}

func writeFor(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	give(t, path)
}

func give(t *testing.T, path string) {
	t.Helper()
	if os.Getuid() == 0 {
		if err := os.Chown(path, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
