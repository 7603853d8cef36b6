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
		if m.Audit, err = addStore(ctx, w, cfg, home); err != nil {
			return nil, err
		}
	}
	// After the store: a key that a newer file brings does no harm, and one that is missing might.
	large, err := addFiles(w, cfg)
	if err != nil {
		return nil, err
	}
	m.LeftOut = append(elsewhere(cfg), large...)
	return &m, w.Close(m)
}

// storeName is what the store is called in a backup, wherever the configuration has it.
const storeName = "pkid.db"

func addStore(ctx context.Context, w *backup.Writer, cfg *config.Config, home string) (audit.Head, error) {
	s, err := boltstore.Open(cfg.StorePath(), boltstore.Options{})
	if errors.Is(err, boltstore.ErrLocked) {
		return addServed(ctx, w, home)
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
func addServed(ctx context.Context, w *backup.Writer, home string) (audit.Head, error) {
	id, err := client.Load(home)
	if err != nil {
		return audit.Head{}, fmt.Errorf("a daemon serves the store, and only an operator may copy it then: %w", err)
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

// addFiles adds what is in the directory beside the store, and returns what is too large for that. Links are followed,
// so that what they lead to is there.
func addFiles(w *backup.Writer, cfg *config.Config) (large []string, err error) {
	dir, store := cfg.Path(""), cfg.StorePath()
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if name == adminDir || name == "lost+found" || path == store+".crl" || name != "." && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return err
		case path == store || !info.Mode().IsRegular():
			return nil
		case info.Size() > maxBackedUp:
			large = append(large, path)
			return nil
		}
		content, err := os.ReadFile(path) //nolint:gosec // G304, G122: the operator's own directory
		if err != nil {
			return err
		}
		return w.Add(filepath.ToSlash(name), info.Mode(), int64(len(content)), bytes.NewReader(content))
	})
	if err != nil {
		return nil, fmt.Errorf("backing up the data directory: %w", err)
	}
	return large, nil
}

// elsewhere lists what the configuration names and is not in its directory.
func elsewhere(cfg *config.Config) (out []string) {
	keys := []string{cfg.Issuer.Key, cfg.Tokens.DataKey}
	for _, k := range cfg.Tokens.Keys {
		keys = append(keys, k.Key)
	}
	for _, k := range keys {
		if p := cfg.KeyURI(k); !within(cfg.Path(""), p) {
			out = append(out, p)
		}
	}
	if p := cfg.PassphraseText(); !within(cfg.Path(""), p) {
		out = append(out, p)
	}
	if cfg.StorePath() == "" {
		out = append(out, "the database")
	}
	return out
}

// within reports whether a path lies in a directory. A key's URI does not.
func within(dir, path string) bool {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return false
	}
	if path, err = filepath.Abs(path); err != nil {
		return false
	}
	return strings.HasPrefix(path, dir+string(filepath.Separator))
}
