// Package pkitest runs a real CA for tests: a data directory, a store and the daemon's four listeners on
// loopback, all in a temporary directory.
package pkitest

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/thumbprint"
)

// Server is a running daemon.
type Server struct {
	Dir    string // the data directory
	Home   string // the operator's credentials
	Config *config.Config
	URLs   client.URLs

	stop func() error
}

// Options change what Start creates. The zero value is quickstart's.
type Options struct {
	KeyType ca.KeyType
	// Database is the URL of an empty database to keep everything in; a file if empty.
	Database string
	// Edit changes the configuration before the daemon starts.
	Edit func(*config.Config)
}

// Start creates a CA and serves it until the test ends.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pkid-data")
	store, password := "", ""
	if o.Database != "" {
		store, password = Database(t, o.Database)
	}
	err := daemon.Init(t.Context(), daemon.InitSpec{
		Dir: dir, KeyType: o.KeyType, Store: store, StorePassword: password,
		Listen: FreeListen(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return Serve(t, dir, o)
}

// Serve serves an existing data directory until the test ends or Stop is called.
func Serve(t testing.TB, dir string, o Options) *Server {
	t.Helper()
	cfg, err := daemon.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if o.Edit != nil {
		o.Edit(cfg)
	}
	d, err := daemon.New(t.Context(), cfg, Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	// t.Context ends before the cleanups run; the daemon must outlive it to stop in order.
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- d.Serve(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatal(err)
	}
	s := &Server{Dir: dir, Home: filepath.Join(dir, "admin"), Config: cfg, URLs: d.URLs()}
	s.stop = func() error {
		s.stop = func() error { return nil }
		cancel()
		return <-done
	}
	t.Cleanup(func() { s.Stop(t) })
	return s
}

// Stop stops the daemon; stopping twice is no error.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.stop(); err != nil {
		t.Errorf("stopping the daemon: %v", err)
	}
}

// Path joins names to the data directory.
func (s *Server) Path(names ...string) string {
	return filepath.Join(append([]string{s.Dir}, names...)...)
}

// Operator returns the operator's API.
func (s *Server) Operator(t testing.TB) *client.API {
	t.Helper()
	id, err := client.Load(s.Home)
	if err != nil {
		t.Fatal(err)
	}
	return id.API()
}

// Enrol invites a client and enrols it into a directory of its own.
func (s *Server) Enrol(t testing.TB, r client.InvitationRequest) *client.Identity {
	t.Helper()
	inv, err := s.Operator(t).Invite(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	token, err := client.ParseEnrolmentToken(inv.Token)
	if err != nil {
		t.Fatal(err)
	}
	id, err := client.Enroll(t.Context(), token, client.EnrollOptions{Dir: filepath.Join(t.TempDir(), r.ClientID)})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Logger writes the daemon's log to the test's log where it fails, through a buffer-free writer.
func Logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(output{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type output struct{ testing.TB }

func (o output) Write(p []byte) (int, error) { return o.Output().Write(p) }

// Need looks up a program that a test talks to. Where it is missing the test skips, and fails with CI=true.
func Need(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	Missing(t, program+" is not installed: `make deps` installs it on Debian as root")
	return ""
}

// Missing skips the test for a reason, and fails it with CI=true.
func Missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Build compiles a command of this module once per test and returns the binary's path.
func Build(t testing.TB, command string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), command)
	//nolint:gosec // G204: a test names the command
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/pkid/pkid/cmd/"+command)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", command, err, out)
	}
	return bin
}

// Eventually calls f until it returns nil, for at most limit.
func Eventually(t testing.TB, limit time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", limit, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// ReadAll reads a bounded body.
func ReadAll(t testing.TB, r io.Reader) []byte {
	t.Helper()
	b, err := io.ReadAll(io.LimitReader(r, 16<<20))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Thumbprint returns the x5t#S256 of an identity's certificate.
func Thumbprint(id *client.Identity) thumbprint.Cert {
	return thumbprint.OfCertificate(id.Certificate().Leaf)
}

// Fingerprint is the SHA-256 of a certificate's DER.
func Fingerprint(c *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(c.Raw) }
