package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pkid/pkid/internal/backup"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/config"
)

// created makes a CA.
func created(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pkid-data")
	listen := config.Listen{Public: "127.0.0.1:0", MTLS: "127.0.0.1:0", Status: "127.0.0.1:0", Ops: "127.0.0.1:0"}
	if err := Init(t.Context(), InitSpec{Dir: dir, Listen: listen}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// opened opens a data directory until the test ends.
func opened(t *testing.T, dir string) *Daemon {
	t.Helper()
	cfg, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("closing the daemon: %v", err)
		}
	})
	return d
}

func newIdentity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func backUp(t *testing.T, dir string, to age.Recipient) (*backup.Manifest, []byte, error) {
	t.Helper()
	cfg, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	m, err := BackUp(t.Context(), cfg, cfg.Path(adminDir), &out, to)
	return m, out.Bytes(), err
}

func restoreTo(ctx context.Context, dir string, file []byte, id age.Identity) (*Recovery, error) {
	_, found, err := Restore(ctx, bytes.NewReader(file), dir, slog.New(slog.DiscardHandler), Evidence{}, id)
	return found, err
}

// TestBackUpThroughLinks: the directory is a link, and so are a key and a directory in it.
func TestBackUpThroughLinks(t *testing.T) {
	dir, id := created(t), newIdentity(t)
	away := filepath.Join(filepath.Dir(dir), "away")
	link := filepath.Join(filepath.Dir(dir), "link")
	for _, err := range []error{
		os.Rename(filepath.Join(dir, "keys", "token.key"), away), os.Symlink(away, filepath.Join(dir, "keys", "token.key")),
		os.Symlink(dir, link), os.Symlink(filepath.Join(dir, "nothing"), filepath.Join(dir, "dangling")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	m, file, err := backUp(t, link, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if len(m.LeftOut) != 1 || filepath.Base(m.LeftOut[0]) != "dangling" {
		t.Errorf("left out: %q", m.LeftOut)
	}
	if _, err := restoreTo(t.Context(), filepath.Join(t.TempDir(), "new"), file, id); err != nil {
		t.Error(err)
	}

	// A directory behind a link is not looked into, and what it holds is told.
	for _, err := range []error{
		os.Rename(filepath.Join(dir, "keys"), filepath.Join(filepath.Dir(dir), "elsewhere")),
		os.Symlink(filepath.Join(filepath.Dir(dir), "elsewhere"), filepath.Join(dir, "keys")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if m, _, err = backUp(t, dir, id.Recipient()); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"issuer.key", "token.key", "data.key"} {
		if !slices.ContainsFunc(m.LeftOut, func(p string) bool { return filepath.Base(p) == key }) {
			t.Errorf("left out: %q, without %s", m.LeftOut, key)
		}
	}
}

// TestBackUpTellsOfKeysElsewhere looks from the data directory itself, where a key's URI looks like a file beside.
func TestBackUpTellsOfKeysElsewhere(t *testing.T) {
	dir := created(t)
	t.Chdir(dir)
	cfg, err := Load(".")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Issuer.Key, cfg.Passphrase = "pkcs11:token=pkid", "env:PKID_PASSPHRASE"
	cfg.Issuer.Certificate = "/somewhere/issuer.crt"
	w, err := backup.NewWriter(io.Discard, time.Now(), newIdentity(t).Recipient())
	if err != nil {
		t.Fatal(err)
	}
	added, _, err := addFiles(w, cfg)
	if err != nil {
		t.Fatal(err)
	}
	got := elsewhere(cfg, added)
	slices.Sort(got)
	if want := []string{"/somewhere/issuer.crt", "environment variable PKID_PASSPHRASE", "pkcs11:token=pkid"}; !slices.Equal(got, want) {
		t.Errorf("elsewhere: %q, want %q", got, want)
	}
}

// TestBackUpRefusesWhatCannotBeRestored: it must not turn out when the backup is needed.
func TestBackUpRefusesWhatCannotBeRestored(t *testing.T) {
	for name, prepare := range map[string]func(dir string) error{
		"a manifest": func(dir string) error { return os.WriteFile(filepath.Join(dir, "manifest.json"), nil, 0o600) },
		"a name that is no text": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "a\xff"), nil, 0o600)
		},
		"many files": func(dir string) (err error) {
			for range 1100 {
				f, create := os.CreateTemp(dir, "x")
				err = errors.Join(err, create, f.Close())
			}
			return err
		},
		"another store of the same name": func(dir string) error {
			text, err := os.ReadFile(filepath.Join(dir, config.File))
			if err != nil {
				return err
			}
			text = bytes.Replace(text, []byte("bolt:pkid.db"), []byte("bolt:other.db"), 1)
			return errors.Join(os.WriteFile(filepath.Join(dir, config.File), text, 0o600),
				os.Rename(filepath.Join(dir, "pkid.db"), filepath.Join(dir, "other.db")), os.WriteFile(filepath.Join(dir, "pkid.db"), nil, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := created(t)
			if err := prepare(dir); err != nil {
				t.Skip(err) // not every file system has such names
			}
			if _, _, err := backUp(t, dir, newIdentity(t).Recipient()); !errors.Is(err, backup.ErrName) {
				t.Errorf("backing up: %v", err)
			}
		})
	}
}

// TestRestoreKeepsTheFilesOfTheLog: what is set aside is where it says.
func TestRestoreKeepsTheFilesOfTheLog(t *testing.T) {
	dir, id := created(t), newIdentity(t)
	text, err := os.ReadFile(filepath.Join(dir, config.File))
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "\naudit:\n  export: file:export.jsonl\n"...)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, config.File), text, 0o600), os.WriteFile(filepath.Join(dir, "export.jsonl"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	_, file, err := backUp(t, dir, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	found, err := restoreTo(t.Context(), filepath.Join(t.TempDir(), "new"), file, id)
	if err != nil || len(found.Kept) != 1 {
		t.Fatalf("kept %+v, %v", found, err)
	}
	if _, err := os.Stat(found.Kept[0]); err != nil {
		t.Error(err)
	}
}

// TestDamagedDirectories: each is told, and none is served.
func TestDamagedDirectories(t *testing.T) {
	id := newIdentity(t)
	whole := created(t)
	_, file, err := backUp(t, whole, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	store := func(dir string) string { return filepath.Join(dir, "pkid.db") }
	overwrite := func(path string, at int64, with []byte) error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(with, at)
		return errors.Join(err, f.Close())
	}
	for name, tt := range map[string]struct {
		damage func(dir string) error
		want   error
		says   string
	}{
		"no store":           {func(dir string) error { return os.Remove(store(dir)) }, os.ErrNotExist, "pkid.db"},
		"an empty store":     {func(dir string) error { return os.Truncate(store(dir), 0) }, boltstore.ErrNotStore, "restore it from a backup"},
		"a truncated store":  {func(dir string) error { return os.Truncate(store(dir), 3*4096) }, boltstore.ErrNotStore, "restore it from a backup"},
		"a header of noise":  {func(dir string) error { return overwrite(store(dir), 0, bytes.Repeat([]byte{0xa5}, 8192)) }, boltstore.ErrNotStore, "header"},
		"pages of noise":     {func(dir string) error { return overwrite(store(dir), 8192, bytes.Repeat([]byte{0xa5}, 1<<18)) }, boltstore.ErrNotStore, "damaged"},
		"a mark of damage":   {func(dir string) error { return os.WriteFile(store(dir)+".damaged", []byte("page 7"), 0o600) }, boltstore.ErrNotStore, "page 7"},
		"another CA's store": {func(dir string) error { return os.Rename(store(created(t)), store(dir)) }, boltstore.ErrIdentity, "another CA"},
		"a wrong passphrase": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "passphrase"), []byte(strings.Repeat("x", 32)), 0o600)
		}, nil, "passphrase"},
		"no passphrase": {func(dir string) error { return os.Remove(filepath.Join(dir, "passphrase")) }, os.ErrNotExist, "passphrase"},
		"half a restore": {func(dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, unfinished+"1"), 0o700), os.Rename(filepath.Join(dir, config.File), filepath.Join(dir, unfinished+"1", config.File)))
		}, nil, "interrupted"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pkid-data")
			if _, err := restoreTo(t.Context(), dir, file, id); err != nil {
				t.Fatal(err)
			}
			if err := tt.damage(dir); err != nil {
				t.Fatal(err)
			}
			cfg, err := Load(dir)
			if err == nil {
				var d *Daemon
				if d, err = New(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil {
					_ = d.Close()
				}
			}
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v; want %v, which says %q", err, tt.want, tt.says)
			}
		})
	}
}

// TestRestoreFailures: a backup that cannot be used leaves nothing behind that could be taken for a CA.
func TestRestoreFailures(t *testing.T) {
	id := newIdentity(t)
	_, file, err := backUp(t, created(t), id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		file []byte
		id   age.Identity
		want error
	}{
		"another identity": {file, newIdentity(t), backup.ErrIdentity},
		"cut":              {file[:len(file)-1000], id, backup.ErrFormat},
		"cut in the head":  {file[:100], id, backup.ErrFormat},
		"changed":          {append(append([]byte{}, file[:len(file)/2]...), append([]byte{file[len(file)/2] ^ 1}, file[len(file)/2+1:]...)...), id, backup.ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "new")
			if _, err := restoreTo(t.Context(), dir, tt.file, tt.id); !errors.Is(err, tt.want) {
				t.Errorf("restoring: %v, want %v", err, tt.want)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			if _, err := restoreTo(t.Context(), dir, file, id); err != nil {
				t.Errorf("the right one afterwards: %v", err)
			}
		})
	}
}

// TestRestoreForgetsProofs: the backup of a stopped daemon has the DPoP proofs up to then, and those that were used after
// it must not be taken for new ones.
func TestRestoreForgetsProofs(t *testing.T) {
	id := newIdentity(t)
	_, file, err := backUp(t, created(t), id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "new")
	found, err := restoreTo(t.Context(), dir, file, id)
	if err != nil {
		t.Fatal(err)
	}
	d := opened(t, dir)
	if d.proofs.since.Before(found.At) || !d.restored.Equal(found.At) {
		t.Errorf("proofs are known since %s, the store was restored at %s, %s", d.proofs.since, d.restored, found.At)
	}
}
