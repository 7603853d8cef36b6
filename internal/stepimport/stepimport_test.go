package stepimport_test

import (
	"crypto/x509"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	badger1 "github.com/dgraph-io/badger"
	badger2 "github.com/dgraph-io/badger/v2"
	bolt "go.etcd.io/bbolt"

	"github.com/pkid/pkid/internal/stepimport"
)

var engines = []string{"badgerv2", "badgerv1", "bbolt"}

// home returns a copy of a home in testdata.
func home(t *testing.T, engine string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", engine))); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T, dir string) *stepimport.Home {
	t.Helper()
	h, err := stepimport.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestReadsWhatStepCALeft(t *testing.T) {
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			dir := home(t, engine)
			h := open(t, dir)
			for what, path := range map[string]string{
				"certs/root_ca.crt": h.Root, "certs/intermediate_ca.crt": h.Intermediate,
				"secrets/intermediate_ca_key": h.IntermediateKey, "secrets/root_ca_key": h.RootKey,
			} {
				if path != filepath.Join(dir, what) {
					t.Errorf("%s is looked for at %s", what, path)
				}
			}
			before := files(t, dir)
			db, err := h.Database()
			if err != nil {
				t.Fatal(err)
			}
			checkContent(t, db)
			if err := db.Close(); err != nil {
				t.Error(err)
			}
			if after := files(t, dir); !maps.Equal(before, after) {
				t.Error("reading changed the home")
			}
		})
	}
}

func checkContent(t *testing.T, db *stepimport.Database) {
	t.Helper()
	reasons := map[string]int{}
	for der, err := range db.Certificates() {
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := db.Certificate(cert.SerialNumber); err != nil || string(again) != string(der) {
			t.Errorf("certificate %s by its number: %d octets, err %v", cert.SerialNumber, len(again), err)
		}
		reasons[cert.Subject.CommonName] = -1
		r, err := db.Revocation(cert.SerialNumber)
		if err != nil {
			t.Fatal(err)
		}
		if r != nil {
			reasons[cert.Subject.CommonName] = r.Reason
			if r.At.IsZero() || time.Since(r.At) < 0 || !r.Expires.Equal(cert.NotAfter) {
				t.Errorf("%s was revoked at %s and expires at %s", cert.Subject, r.At, r.Expires)
			}
		}
	}
	want := map[string]int{"billing": -1, "stolen.example.com": 1, "replaced.example.com": 4, "wildcard.example.com": -1, "Alice Example": -1}
	if !maps.Equal(reasons, want) {
		t.Errorf("certificates and the reasons of their revocations %v, want %v", reasons, want)
	}
	var serials []string
	for r, err := range db.Revocations() {
		if err != nil {
			t.Fatal(err)
		}
		serials = append(serials, r.Serial.String())
	}
	if len(serials) != 3 || !slices.Contains(serials, "123456789012345678901234567890123456789") {
		t.Errorf("revocations of %v", serials)
	}
	number, der, err := db.NewestCRL()
	if err != nil || number == 0 {
		t.Fatalf("CRL %d, err %v", number, err)
	}
	if list, err := x509.ParseRevocationList(der); err != nil || list.Number.Uint64() != number || len(list.RevokedCertificateEntries) != 3 {
		t.Errorf("CRL %d: %v", number, err)
	}
	if n, err := db.SSHCertificates(); n != 0 || err != nil {
		t.Errorf("%d certificates for SSH, err %v", n, err)
	}
}

// files returns the content of every file.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Whoever has the database open, as step-ca has, is told of.
func TestRunningStepCA(t *testing.T) {
	for engine, hold := range map[string]func(path string) (func() error, error){
		"badgerv2": func(path string) (func() error, error) {
			db, err := badger2.Open(badger2.DefaultOptions(path).WithLogger(nil))
			return db.Close, err
		},
		"badgerv1": func(path string) (func() error, error) {
			db, err := badger1.Open(badger1.DefaultOptions(path).WithLogger(nil))
			return db.Close, err
		},
		"bbolt": func(path string) (func() error, error) {
			db, err := bolt.Open(filepath.Join(path, "step.db"), 0o600, nil)
			return db.Close, err
		},
	} {
		dir := home(t, engine)
		release, err := hold(filepath.Join(dir, "db"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, dir).Database(); !errors.Is(err, stepimport.ErrRunning) || !strings.Contains(err.Error(), "stop it") {
			t.Errorf("%s: %v", engine, err)
		}
		if err := release(); err != nil {
			t.Error(err)
		}
	}
}

// A step-ca that was killed leaves what must be replayed, which takes writing to it.
func TestKilledStepCA(t *testing.T) {
	for engine, open := range map[string]func(dir string) (write, release func() error, err error){
		"badgerv2": func(dir string) (func() error, func() error, error) {
			db, err := badger2.Open(badger2.DefaultOptions(dir).WithLogger(nil))
			return func() error {
				return db.Update(func(tx *badger2.Txn) error { return tx.Set([]byte("a"), []byte("b")) })
			}, db.Close, err
		},
		"badgerv1": func(dir string) (func() error, func() error, error) {
			db, err := badger1.Open(badger1.DefaultOptions(dir).WithLogger(nil))
			return func() error {
				return db.Update(func(tx *badger1.Txn) error { return tx.Set([]byte("a"), []byte("b")) })
			}, db.Close, err
		},
	} {
		dir, killed := home(t, engine), home(t, engine)
		write, release, err := open(filepath.Join(dir, "db"))
		if err != nil {
			t.Fatal(err)
		}
		if err := write(); err != nil {
			t.Fatal(err)
		}
		// What is on disk now is what a kill would leave.
		if err := errors.Join(os.RemoveAll(filepath.Join(killed, "db")), os.CopyFS(filepath.Join(killed, "db"), os.DirFS(filepath.Join(dir, "db")))); err != nil {
			t.Fatal(err)
		}
		h, err := stepimport.Open(killed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Database(); !errors.Is(err, stepimport.ErrHome) || !strings.Contains(err.Error(), "start it once more") {
			t.Errorf("%s: %v", engine, err)
		}
		if err := release(); err != nil {
			t.Error(err)
		}
	}
}

func TestRefusesWithAReason(t *testing.T) {
	remove := func(name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	change := func(from, to string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, "config", "ca.json")
			text, err := os.ReadFile(path)
			if err != nil || !strings.Contains(string(text), from) {
				t.Fatalf("%s is not in %s: %v", from, text, err)
			}
			if err := os.WriteFile(path, []byte(strings.Replace(string(text), from, to, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	overwrite := func(name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat("x", 4096)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tt := range map[string]struct {
		engine string
		spoil  func(t *testing.T, dir string)
		want   error
		says   string
	}{
		"no configuration":  {"bbolt", remove("config"), stepimport.ErrHome, "step path"},
		"no JSON":           {"bbolt", change(`"address"`, `address`), stepimport.ErrHome, "ca.json"},
		"no root":           {"bbolt", remove("certs/root_ca.crt"), stepimport.ErrHome, "root's certificate"},
		"no intermediate":   {"bbolt", remove("certs/intermediate_ca.crt"), stepimport.ErrHome, "intermediate's certificate"},
		"no key":            {"bbolt", remove("secrets/intermediate_ca_key"), stepimport.ErrHome, "intermediate's key"},
		"an RA":             {"bbolt", change(`"crt"`, `"other"`), stepimport.ErrUnsupported, "another CA"},
		"several roots":     {"bbolt", change(`"root": "/home/step/certs/root_ca.crt"`, `"root": ["a", "b"]`), stepimport.ErrUnsupported, "2 roots"},
		"no database":       {"bbolt", change(`"db"`, `"other"`), stepimport.ErrUnsupported, "pkid init"},
		"mysql":             {"bbolt", change(`"bbolt"`, `"MySQL"`), stepimport.ErrUnsupported, "A dump is not read"},
		"postgresql":        {"bbolt", change(`"bbolt"`, `"postgresql"`), stepimport.ErrUnsupported, "postgresql"},
		"another engine":    {"bbolt", change(`"bbolt"`, `"tables"`), stepimport.ErrUnsupported, "tables"},
		"a missing file":    {"bbolt", remove("db/step.db"), stepimport.ErrHome, "missing"},
		"a missing db":      {"badgerv2", remove("db"), stepimport.ErrHome, "missing"},
		"damaged bbolt":     {"bbolt", overwrite("db/step.db"), stepimport.ErrHome, "step.db"},
		"damaged badger v2": {"badgerv2", overwrite("db/MANIFEST"), stepimport.ErrHome, "magic"},
		"damaged badger v1": {"badgerv1", overwrite("db/MANIFEST"), stepimport.ErrHome, "magic"},
		"badger v1 as v2":   {"badgerv1", change(`"badgerv1"`, `"badgerv2"`), stepimport.ErrHome, "version"},
	} {
		dir := home(t, tt.engine)
		tt.spoil(t, dir)
		h, err := stepimport.Open(dir)
		if err == nil {
			_, err = h.Database()
		}
		if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %v and %q", name, err, tt.want, tt.says)
		}
	}
}

func TestKeyInADeviceIsNotLookedFor(t *testing.T) {
	dir := home(t, "bbolt")
	path := filepath.Join(dir, "config", "ca.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "/home/step/secrets/intermediate_ca_key", "pkcs11:id=7331;object=intermediate", 1)
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if h := open(t, dir); h.IntermediateKey != "" {
		t.Errorf("the key is looked for at %s", h.IntermediateKey)
	}
}
