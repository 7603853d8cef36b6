package daemon_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/pkitest"
)

// An installation that was interrupted while its files moved to their places goes on when it is called again.
func TestInstallIssuerAfterInterruption(t *testing.T) {
	cfg, pub := offline(t)
	dir := filepath.Dir(cfg.Path(config.File))
	root := newAuthority(t, nil, caTemplate("Root"))
	in := daemon.Installation{
		Certificate: pemFile(t, root.sign(t, caTemplate("Issuing"), pub)), Root: pemFile(t, root.cert),
		RootCRL: root.crl(t, 1, time.Now().Add(24*time.Hour)),
	}
	obstacle := filepath.Join(cfg.Path(cfg.Issuer.Root), "in the way")
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := daemon.InstallIssuer(t.Context(), cfg, in); err == nil {
		t.Fatal("nothing was in the way")
	}
	if err := daemon.Incomplete(cfg); err == nil {
		t.Error("half an installation is taken for a whole one")
	}
	if err := os.RemoveAll(cfg.Path(cfg.Issuer.Root)); err != nil {
		t.Fatal(err)
	}
	other := in
	other.Certificate = pemFile(t, root.sign(t, caTemplate("Another"), pub))
	if _, err := daemon.InstallIssuer(t.Context(), cfg, other); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("another certificate in its place: %v", err)
	}
	if _, err := daemon.InstallIssuer(t.Context(), cfg, in); err != nil {
		t.Fatal(err)
	}
	s := pkitest.Serve(t, dir, pkitest.Options{})
	s.Enrol(t, client.InvitationRequest{ClientID: "svc"})
	s.Stop(t)
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	// Who loses the certificate later must not get a new store over the one in which everything is recorded.
	if err := os.Remove(cfg.Path(cfg.Issuer.Certificate)); err != nil {
		t.Fatal(err)
	}
	if _, err := daemon.InstallIssuer(t.Context(), cfg, in); !errors.Is(err, daemon.ErrExists) {
		t.Errorf("installing over a CA that served: %v", err)
	}
}
