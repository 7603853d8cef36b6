package integration

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
)

// crlRuns is how many certificates each server sees revoked, and the longest pause before each. The figures of
// docs/crl-sync.md were made with PKID_CRLSYNC_RUNS=20, and with PKID_CRLSYNC_PAUSE=3s and without.
func crlRuns(t *testing.T) (runs int, pause time.Duration) {
	t.Helper()
	runs, err := strconv.Atoi(cmp.Or(os.Getenv("PKID_CRLSYNC_RUNS"), "1"))
	if err != nil || runs < 1 {
		t.Fatalf("PKID_CRLSYNC_RUNS: want a number: %v", err)
	}
	if pause, err = time.ParseDuration(cmp.Or(os.Getenv("PKID_CRLSYNC_PAUSE"), "0s")); err != nil {
		t.Fatal(err)
	}
	return runs, pause
}

// errRevoked is how a server refuses a certificate that is on its CRLs.
var errRevoked = errors.New("the server says that the certificate is revoked")

// crlServer is a server that knows CRLs as a file only.
type crlServer struct {
	name string
	// start serves deploy/crl-files' configuration of it until the test ends, and returns what pkictl crl sync is told.
	start func(*crlFixture) (hook []string)
	admit func(f *crlFixture, name string) // what else a client needs; may be nil
	// connect makes a new connection: nil if the server lets the client in, errRevoked if it was revoked.
	connect func(f *crlFixture, id *client.Identity) error
	// open makes a connection that is kept, and returns what uses it once more.
	open func(f *crlFixture, id *client.Identity) (use func() error)
	// end ends the open connections; nil where they end by themselves.
	end func(f *crlFixture)
}

// crlFixture is a server's directory and what stands in its configuration.
type crlFixture struct {
	*testing.T
	s               *pkitest.Server
	dir, addr, file string
	identity        *client.Identity // the server's own, which is all that pkictl needs
	pkictl          string
	sessions        tls.ClientSessionCache // clients offer to resume what they have
	database        *pgtest.Server         // PostgreSQL's
}

func (f *crlFixture) read(path string) []byte {
	f.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	return content
}

// configuration writes one of deploy/crl-files into the fixture's directory, with its paths and its address changed.
func (f *crlFixture) configuration(name string, more ...string) string {
	f.Helper()
	text := f.read(filepath.Join("..", "deploy", "crl-files", name))
	changed := strings.NewReplacer(append(more, "/etc/pkid/server", f.identity.Dir(), "/var/lib/pkid-crl/crl.pem", f.file,
		"127.0.0.1:6443", f.addr)...).Replace(string(text))
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		f.Fatal(err)
	}
	return path
}

// background runs a program until the test ends.
func (f *crlFixture) background(prepare func(*exec.Cmd), program string, args ...string) {
	f.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = f.Output(), f.Output(), f.dir
	if prepare != nil {
		prepare(cmd)
	}
	if err := cmd.Start(); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
}

// sync runs pkictl crl sync.
func (f *crlFixture) sync(args ...string) {
	f.Helper()
	f.background(nil, f.pkictl, append([]string{"crl", "sync", "--home", f.identity.Dir(), "--out", f.file}, args...)...)
}

// TestCRLSync revokes clients of real servers that know CRLs as a file only. pkictl crl sync is a process of its own, as
// are the servers, whose configurations are those in deploy/crl-files.
func TestCRLSync(t *testing.T) {
	t.Parallel()
	runs, pause := crlRuns(t)
	s := pkitest.Start(t, pkitest.Options{Edit: func(c *config.Config) {
		if runs == 1 {
			c.CRL.ShardSize = 3 // so that the file grows by lists while the servers run
		}
	}})
	pkictl := pkitest.Build(t, "pkictl")
	for _, server := range []crlServer{nginxCRL, haproxyCRL, apacheCRL, postgresCRL} {
		t.Run(server.name, func(t *testing.T) {
			dir := shortDir(t)
			f := &crlFixture{
				T: t, s: s, dir: dir, addr: pkitest.FreeAddress(t), file: filepath.Join(dir, "crl.pem"), pkictl: pkictl,
				sessions: tls.NewLRUClientSessionCache(100),
			}
			f.identity = s.Enrol(t, client.InvitationRequest{ClientID: "server-" + server.name, Profile: "server", SANs: []string{"localhost", "127.0.0.1"}})
			f.runs(server, runs, pause)
		})
	}
}

func (f *crlFixture) runs(server crlServer, runs int, pause time.Duration) {
	hook := server.start(f)
	f.sync(hook...)
	good := f.enrol(server, "good_"+server.name)
	var took []time.Duration
	for n := range runs {
		time.Sleep(rand.N(max(pause/2, 1)) + pause/2) // none in a test
		took = append(took, f.revoked(server, good, fmt.Sprintf("bad%d_%s", n, server.name)))
	}
	slices.Sort(took)
	f.Logf("%s: from the return of the revoke call to refusal, %d times: median %s, highest %s, all %s", server.name, len(took),
		took[len(took)/2], took[len(took)-1], took)
}

// enrol returns a client that the server lets in. The list for a certificate of a new shard is in its file by then.
func (f *crlFixture) enrol(server crlServer, name string) *client.Identity {
	f.Helper()
	if server.admit != nil {
		server.admit(f, name)
	}
	id := f.s.Enrol(f, client.InvitationRequest{ClientID: name})
	pkitest.Eventually(f, 30*time.Second, func() error { return server.connect(f, id) })
	return id
}

// revoked revokes a new client's certificate, and returns how long it took until the server refused it.
func (f *crlFixture) revoked(server crlServer, good *client.Identity, name string) time.Duration {
	f.Helper()
	bad := f.enrol(server, name)
	use := server.open(f, bad)
	if err := use(); err != nil {
		f.Fatalf("before the revocation: %v", err)
	}
	op := f.s.Operator(f)
	if _, err := op.Revoke(f.Context(), serialText(bad), client.Revocation{Reason: "keyCompromise"}); err != nil {
		f.Fatal(err)
	}
	since := time.Now()
	pkitest.Eventually(f, 30*time.Second, func() error {
		switch err := server.connect(f, bad); {
		case errors.Is(err, errRevoked):
			return nil
		case err == nil:
			return errors.New("a revoked client is let in")
		default:
			return err
		}
	})
	took := time.Since(since).Round(time.Millisecond)
	if err := server.connect(f, good); err != nil {
		f.Errorf("another client, after the revocation: %v", err)
	}
	if server.end != nil {
		if err := use(); err != nil {
			f.Errorf("docs/crl-sync.md says that an open connection goes on: %v", err)
		}
		server.end(f)
	}
	pkitest.Eventually(f, 30*time.Second, func() error {
		if use() == nil {
			return errors.New("an open connection goes on after the revocation")
		}
		return nil
	})
	return took
}

// tlsConfig is that of a client which resumes sessions where it can, as its own for each identity.
func (f *crlFixture) tlsConfig(id *client.Identity) *tls.Config {
	c := id.TLSConfig()
	c.ClientSessionCache = sessionsOf{f.sessions, id.Info().ClientID}
	return c
}

// sessionsOf keeps the sessions of clients apart.
type sessionsOf struct {
	tls.ClientSessionCache
	client string
}

func (s sessionsOf) Get(key string) (*tls.ClientSessionState, bool) {
	return s.ClientSessionCache.Get(s.client + key)
}

func (s sessionsOf) Put(key string, state *tls.ClientSessionState) {
	s.ClientSessionCache.Put(s.client+key, state)
}

// get connects to a web server and asks once.
func (f *crlFixture) get(id *client.Identity) error {
	tr := &http.Transport{TLSClientConfig: f.tlsConfig(id), DisableKeepAlives: true}
	return answered(&http.Client{Transport: tr, Timeout: 5 * time.Second}, f.addr)
}

// keepAlive connects to a web server, and asks as often as is wanted over one connection.
func (f *crlFixture) keepAlive(id *client.Identity) func() error {
	tr := &http.Transport{TLSClientConfig: f.tlsConfig(id)}
	f.Cleanup(tr.CloseIdleConnections)
	hc := &http.Client{Transport: tr, Timeout: 5 * time.Second}
	return func() error { return answered(hc, f.addr) }
}

func answered(hc *http.Client, addr string) error {
	resp, err := hc.Get("https://" + addr + "/")
	if err != nil {
		return revokedIf(err, strings.Contains(err.Error(), "tls: revoked certificate"))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return revokedIf(fmt.Errorf("%s: %s", resp.Status, body), strings.Contains(string(body), "SSL certificate error"))
}

func revokedIf(err error, is bool) error {
	if is {
		return fmt.Errorf("%w: %w", errRevoked, err)
	}
	return err
}

// shortDir is a directory whose path leaves room for the name of a socket, readable for whoever a server runs as.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "crl-") //nolint:usetesting // what it is for
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
