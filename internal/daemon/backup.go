package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/backup"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/web"
)

// maxBackedUp bounds a file of a data directory, the store excepted: keys, certificates and configuration have a few
// kilobytes.
const maxBackedUp = 64 << 20

// BackUp writes everything that a data directory needs to serve again, encrypted to the recipients: the store as it is
// at one instant, the configuration, certificates and keys. A daemon may serve it meanwhile; then the store comes from it, for
// the operator whose credentials are in home. A store that is a database is not in the backup, and the operator's own
// credentials never are: Restore makes new ones.
func BackUp(ctx context.Context, cfg *config.Config, home string, out io.Writer, to ...age.Recipient) (*backup.Manifest, error) {
	root, err := RootFingerprint(cfg)
	if err != nil {
		return nil, err
	}
	m := backup.Manifest{CA: cfg.Name, Root: root}
	m.Store, _, _ = strings.Cut(cfg.Store, ":")
	w, err := backup.NewWriter(out, time.Now(), to...)
	if err != nil {
		return nil, err
	}
	if cfg.StorePath() != "" {
		if m.Audit, err = addStore(ctx, w, cfg, home, root); err != nil {
			return nil, err
		}
	}
	// After the store: a key that a newer file brings does no harm, and one that is missing might.
	added, left, err := addFiles(w, cfg)
	if err != nil {
		return nil, err
	}
	m.LeftOut = append(elsewhere(cfg, added), left...)
	return &m, w.Close(m)
}

// storeName is what the store is called in a backup, wherever the configuration has it.
const storeName = "pkid.db"

func addStore(ctx context.Context, w *backup.Writer, cfg *config.Config, home, root string) (audit.Head, error) {
	s, err := boltstore.Open(cfg.StorePath(), boltstore.Options{})
	if errors.Is(err, boltstore.ErrLocked) {
		return addServed(ctx, w, home, root)
	}
	if err != nil {
		return audit.Head{}, err
	}
	head, err := addClosed(ctx, w, s)
	return head, errors.Join(err, s.Close())
}

// copied is a store that can be copied while it is in use.
type copied interface {
	Record(ctx context.Context, ev audit.Event) error
	Snapshot(ctx context.Context, begin func(size int64, head audit.Head) (io.Writer, error)) error
}

// snapshot is the daemon's web.Snapshot; nil if its store is a database.
func (d *Daemon) snapshot() web.Snapshot {
	s, ok := d.store.(copied)
	if !ok {
		return nil
	}
	return func(ctx context.Context, begin func(int64, audit.Head) (io.Writer, error)) error {
		return copyStore(ctx, s, begin)
	}
}

// copyStore records that the store is copied and copies it.
func copyStore(ctx context.Context, s copied, begin func(int64, audit.Head) (io.Writer, error)) error {
	ev := audit.Event{Time: time.Now(), Actor: audit.From(ctx), Action: audit.Backup, Subject: "store"}
	if err := s.Record(ctx, ev); err != nil {
		return fmt.Errorf("recording the backup: %w", err)
	}
	return s.Snapshot(ctx, begin)
}

// addClosed adds the store that no daemon serves.
func addClosed(ctx context.Context, w *backup.Writer, s *boltstore.Store) (head audit.Head, err error) {
	// The store writes to the pipe and the backup reads from it.
	r, pipe := io.Pipe()
	sizes, done := make(chan int64, 1), make(chan error, 1)
	go func() {
		err := copyStore(ctx, s, func(size int64, end audit.Head) (io.Writer, error) {
			head = end
			sizes <- size
			return pipe, nil
		})
		close(sizes)
		done <- errors.Join(err, pipe.CloseWithError(err))
	}()
	if size, ok := <-sizes; ok {
		err = w.Add(storeName, 0o600, size, r)
	}
	return head, errors.Join(err, r.Close(), <-done)
}

// addServed adds the store as the daemon that serves it copies it.
func addServed(ctx context.Context, w *backup.Writer, home, root string) (audit.Head, error) {
	id, err := client.Load(home)
	if err != nil {
		return audit.Head{}, fmt.Errorf("a daemon serves the store, and only an operator may copy it then: %w", err)
	}
	if of := id.Info().Fingerprint; of != root {
		return audit.Head{}, fmt.Errorf("%s: these are credentials for a CA with the root %s, and the data directory is of %s", home, of, root)
	}
	s, err := id.API().Snapshot(ctx)
	if err != nil {
		return audit.Head{}, fmt.Errorf("copying the store: %w", err)
	}
	defer s.Close()
	head := audit.Head{Seq: s.AuditSeq}
	if err := head.Hash.UnmarshalText([]byte(s.AuditHash)); err != nil {
		return head, fmt.Errorf("copying the store: %w", err)
	}
	return head, w.Add(storeName, 0o600, s.Size, s)
}

// addFiles adds what is in the directory beside the store, and returns the names of it, and what it left out: what is too
// large, and what a link leads to that is not a file. Links to files are followed, so that what they lead to is there.
func addFiles(w *backup.Writer, cfg *config.Config) (added map[string]bool, left []string, err error) {
	dir, err := filepath.EvalSymlinks(cfg.Path("."))
	if err != nil {
		return nil, nil, fmt.Errorf("backing up the data directory: %w", err)
	}
	added = map[string]bool{}
	isStore, isTexts := sameFile(cfg.StorePath()), sameFile(cfg.StorePath()+".crl")
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := os.Stat(path)
		gone := errors.Is(err, os.ErrNotExist) // moved away just now, or a link to what is not there
		switch {
		case name == adminDir, name == "lost+found", name != "." && strings.HasPrefix(d.Name(), "."), err == nil && isTexts(info):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case gone, err == nil && d.Type()&fs.ModeSymlink != 0 && info.IsDir(), err == nil && info.Size() > maxBackedUp && !isStore(info):
			left = append(left, path)
			return nil
		case err != nil:
			return err
		case isStore(info), !info.Mode().IsRegular():
			return nil
		}
		content, err := os.ReadFile(path) //nolint:gosec // G304, G122: the operator's own directory
		if err != nil {
			return err
		}
		added[filepath.ToSlash(name)] = true
		return w.Add(filepath.ToSlash(name), info.Mode(), int64(len(content)), bytes.NewReader(content))
	})
	if err == nil && !added[config.File] {
		err = fmt.Errorf("%s is not in it", config.File)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("backing up the data directory: %w", err)
	}
	return added, left, nil
}

// sameFile returns what recognises a file, whatever path leads to it; none if it is not there.
func sameFile(path string) func(fs.FileInfo) bool {
	want, err := os.Stat(path)
	return func(found fs.FileInfo) bool { return err == nil && os.SameFile(want, found) }
}

// elsewhere lists what the configuration names and the backup lacks.
func elsewhere(cfg *config.Config, added map[string]bool) (out []string) {
	named := []string{cfg.KeyURI(cfg.Issuer.Key), cfg.KeyURI(cfg.Tokens.DataKey), cfg.Path(cfg.Issuer.Certificate), cfg.Path(cfg.Issuer.Root)}
	for _, k := range cfg.Tokens.Keys {
		named = append(named, cfg.KeyURI(k.Key))
	}
	if cfg.Audit.Checkpoints != "" {
		named = append(named, cfg.KeyURI(cfg.Audit.Key))
	}
	if _, err := os.Stat(cfg.Path(cfg.Issuer.RootCRL)); err == nil { // there need not be one
		named = append(named, cfg.Path(cfg.Issuer.RootCRL))
	}
	for from, shown := range map[string]string{cfg.Passphrase: cfg.PassphraseText(), cfg.StorePassword: cfg.StorePassword} {
		if path, ok := strings.CutPrefix(from, "file:"); ok {
			named = append(named, cfg.Path(path))
		} else if from != "" {
			out = append(out, shown)
		}
	}
	for _, path := range named {
		// A key's URI is no path below the directory.
		if name, err := filepath.Rel(cfg.Path("."), path); err != nil || !added[filepath.ToSlash(name)] {
			out = append(out, path)
		}
	}
	if cfg.StorePath() == "" {
		out = append(out, "the database")
	}
	return out
}
