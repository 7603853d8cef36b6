package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"github.com/pkid/pkid/internal/backup"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/durable"
)

// Restore makes the data directory dir of a backup. It may be there if it is empty. As with Init, everything is made in a
// directory inside it, the store is recovered there with the evidence, and only then moved to its place, the
// configuration last: a directory that was restored in part is never taken for a CA. The operator's credentials are
// new ones; those from before work too if their certificate is in the backup.
//
// A store that is a database is not in the backup. It is restored by its own means, then Recover makes it fit to serve,
// and the Recovery is nil here.
func Restore(ctx context.Context, in io.Reader, dir string, log *slog.Logger, ev Evidence, identities ...age.Identity) (_ *backup.Manifest, _ *Recovery, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, nil, fmt.Errorf("data directory: %w", err)
	}
	if err := checkEmpty(dir); err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("creating data directory: %w", err)
	}
	tmp, err := os.MkdirTemp(dir, unfinished)
	if err != nil {
		return nil, nil, fmt.Errorf("creating data directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	m, err := backup.Extract(in, tmp, identities...)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := Load(tmp)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", backup.ErrFormat, err)
	}
	var found *Recovery
	if cfg.StorePath() != "" {
		if found, err = restoreStore(ctx, cfg, filepath.Join(tmp, storeName), log, ev); err != nil {
			return nil, nil, err
		}
	}
	if found != nil {
		for i, kept := range found.Kept { // where it will be
			if name, ok := strings.CutPrefix(kept, tmp); ok {
				found.Kept[i] = dir + name
			}
		}
	}
	return m, found, moveUp(tmp, dir)
}

// restoreStore puts the store where the configuration has it, recovers it and makes an operator.
func restoreStore(ctx context.Context, cfg *config.Config, unpacked string, log *slog.Logger, ev Evidence) (_ *Recovery, err error) {
	path := cfg.StorePath()
	if path != unpacked {
		if err := place(unpacked, path); err != nil {
			return nil, fmt.Errorf("placing the store: %w", err)
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, os.Remove(path))
			}
		}()
	}
	found, err := Recover(ctx, cfg, log, ev)
	if err != nil {
		return nil, err
	}
	return found, CreateOperator(ctx, cfg, log, OperatorID, cfg.Path(adminDir))
}

// place moves a file to where none is, on another file system perhaps.
func place(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Sync(), out.Close(), durable.Dir(filepath.Dir(to))); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return os.Remove(from)
}
