//go:build unix

package daemon_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pkitest"
)

// public are the files that others may read. Everything else in a data directory is its owner's, whatever umask says.
var public = map[string]bool{
	"issuer.crt": true, "root.crt": true, "root.crl": true, "admin/client.crt": true, "admin/root.crt": true, "admin/pkid.json": true,
}

// TestModes: what a CA writes over its life is its owner's alone.
func TestModes(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{})
	s.Enrol(t, client.InvitationRequest{ClientID: "svc"})
	s.Stop(t)
	seen := map[string]bool{}
	err := filepath.WalkDir(s.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(s.Dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		seen[name] = true
		mode := info.Mode().Perm()
		if allowed := public[name] && mode == 0o644; mode&0o077 != 0 && !allowed {
			t.Errorf("%s has mode %#o", name, mode)
		}
		if d.Type().IsRegular() && !strings.HasSuffix(name, ".db") {
			checkNoClearKey(t, name, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"keys/issuer.key", "keys/root.key", "keys/token.key", "keys/data.key", "passphrase", "pkid.yaml", "pkid.db"} {
		if !seen[name] {
			t.Errorf("%s is missing", name)
		}
	}
}

// checkNoClearKey: the operator's key alone is in clear, since it is a client's.
func checkNoClearKey(t *testing.T, name, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "-----BEGIN ") && strings.Contains(line, "PRIVATE KEY") && !strings.Contains(line, "ENCRYPTED") && name != "admin/client.key" {
			t.Errorf("%s holds a key in clear", name)
		}
	}
}
