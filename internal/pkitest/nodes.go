package pkitest

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/pkid/pkid/internal/config"
)

// Database makes a database's URL fit for a configuration, which takes no password in it: it returns the URL without,
// and where the password is.
func Database(t testing.TB, raw string) (store, password string) {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal("the database's URL is none") // err would show the password
	}
	text, _ := u.User.Password()
	u.User = url.User(u.User.Username())
	file := filepath.Join(t.TempDir(), "db-password")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return u.String(), "file:" + file
}

// NewNode makes the data directory of another node of the same CA: as docs/operations.md says, with everything but the
// root's key and the operator's credentials, and its own addresses. It is served with Serve.
func (s *Server) NewNode(t testing.TB) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "pkid-node")
	if err := os.CopyFS(dir, os.DirFS(s.Dir)); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close() //nolint:errcheck // nothing is written through it itself
	text, err := root.ReadFile(config.File)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{s.Config.Listen.Public, s.Config.Listen.MTLS, s.Config.Listen.Status, s.Config.Listen.Ops} {
		text = regexp.MustCompile(`"`+regexp.QuoteMeta(addr)+`"`).ReplaceAll(text, []byte(`"`+FreeAddress(t)+`"`))
	}
	text = fmt.Appendf(text, "urls: {public: %q, mtls: %q, status: %q}\n", s.Config.URLs.Public, s.Config.URLs.MTLS, s.Config.URLs.Status)
	err = errors.Join(root.RemoveAll("admin"), root.RemoveAll("keys/root.key"), root.WriteFile(config.File, text, 0o600), private(root))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// private takes the rights of others away, which a copy has given them.
func private(root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return root.Chmod(path, 0o600)
	})
}

// FreeAddress returns a loopback address whose port is free now. It lies below the ports that the system gives to
// connections and to those who ask for any, so that none of them takes it before it is listened to, or while what listens
// there starts again.
func FreeAddress(t testing.TB) string {
	t.Helper()
	const first, last = 10_000, 30_000
	for range 100 {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", first+rand.N(last-first)))
		if err != nil {
			continue // somebody listens there
		}
		defer l.Close()
		return l.Addr().String()
	}
	t.Fatal("no port is free")
	return ""
}

// FreeListen are such addresses for a daemon.
func FreeListen(t testing.TB) config.Listen {
	t.Helper()
	return config.Listen{Public: FreeAddress(t), MTLS: FreeAddress(t), Status: FreeAddress(t), Ops: FreeAddress(t)}
}
