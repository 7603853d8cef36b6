package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/migrate"
	"github.com/pkid/pkid/internal/pgstore"
)

// movedSuffix is what a file's name ends with once it was moved, so that nobody serves it: two stores of one CA would not
// know of each other's revocations.
const movedSuffix = ".moved"

// Moved tells what MigrateStore did.
type Moved struct {
	Kinds []migrate.Kind // the same on both sides
	File  string         // the old store's, by its new name
}

// MigrateStore moves everything from the bbolt file at path, which no daemon may have open, into the empty database that
// to configures. It is one transaction; whatever goes wrong before its end leaves both sides as they were.
func MigrateStore(ctx context.Context, path string, to *config.Config) (_ *Moved, err error) {
	url, err := to.StoreURL()
	if err != nil {
		return nil, err
	}
	from, err := boltstore.Open(path, boltstore.Options{})
	if err != nil {
		return nil, err
	}
	data, kinds, err := moveStore(ctx, from, url)
	if err := errors.Join(err, from.Close()); err != nil {
		return nil, err
	}
	moved := &Moved{Kinds: kinds, File: path + movedSuffix}
	if err := rename(path, moved.File); err != nil {
		return moved, fmt.Errorf("everything is in the database, but %s could not be renamed: %w; move it away, it must not be served again", path, err)
	}
	if err := recordMove(ctx, url, data.Meta); err != nil {
		return moved, fmt.Errorf("everything is in the database, but that it was moved could not be recorded: %w", err)
	}
	return moved, nil
}

func moveStore(ctx context.Context, from *boltstore.Store, url string) (data migrate.Data, kinds []migrate.Kind, err error) {
	if data, err = from.Export(ctx); err != nil {
		return data, nil, err
	}
	kinds, err = migrate.Move(ctx, data, func(ctx context.Context, data migrate.Data, check func(migrate.Data) error) error {
		return pgstore.Import(ctx, url, data, check)
	})
	return data, kinds, err
}

// recordMove is the first entry that the database's audit log does not have in common with the file's.
func recordMove(ctx context.Context, url string, was migrate.Meta) error {
	to, err := pgstore.Open(ctx, url, pgstore.Options{Identity: was.Identity})
	if err != nil {
		return err
	}
	err = to.Record(ctx, audit.Event{
		Time: time.Now(), Actor: audit.From(ctx), Action: audit.StoreMove, Subject: "store",
		Detail: map[string]string{"head": was.AuditHead.Hash.String()},
	})
	return errors.Join(err, to.Close())
}

// rename renames the file of a store, and the directory of its CRLs.
func rename(from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("%s exists", to)
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := os.Rename(from+".crl", to+".crl"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
