package pgstore

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// schema has all tables of a store. The database has nothing else.
const schema = "pkid"

// formatMark tells a store from anything else that has a schema of that name.
const formatMark = "pkid store"

// migrationLock is the advisory lock under which a schema is made and migrated: "pkid" in ASCII.
const migrationLock = 0x706b6964

// migrations are numbered from 0001 without gaps. One that was released is never changed: the next one is.
//
//go:embed migrations/*.sql
var migrations embed.FS

type migration struct {
	version   int
	name, sql string
}

// allMigrations reads the files. They are the program's own, so a mistake in their names is a mistake in the program.
func allMigrations(from fs.FS) ([]migration, error) {
	names, err := fs.Glob(from, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	var all []migration
	for i, path := range names {
		name := strings.TrimSuffix(strings.TrimPrefix(path, "migrations/"), ".sql")
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s: want number %04d", path, i+1)
		}
		sql, err := fs.ReadFile(from, path)
		if err != nil {
			return nil, err
		}
		all = append(all, migration{version, name, string(sql)})
	}
	return all, nil
}

// database is a connection, or a transaction on one.
type database interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// prepare lays out an empty database, or checks and migrates a store. Many nodes may do so at once: the first has the
// lock, and the others find its work done. The lock goes with the connection. Each migration is a transaction.
func prepare(ctx context.Context, conn database, from fs.FS, o Options) error {
	all, err := allMigrations(from)
	if err != nil {
		return err
	}
	// A migration of a large store takes as long as it takes; the wait for another node that is at it ends some time.
	if _, err := conn.Exec(ctx, unhurriedSQL); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "SET lock_timeout = 600000"); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", migrationLock); err != nil {
		return err
	}
	fresh, err := inspect(ctx, conn, o)
	if err != nil {
		return err
	}
	if fresh {
		if err := create(ctx, conn, o.Identity); err != nil {
			return err
		}
	}
	return upgrade(ctx, conn, all)
}

// inspect reports whether the database is empty. The errors are ErrNotStore and ErrIdentity, beside the database's.
func inspect(ctx context.Context, conn database, o Options) (fresh bool, err error) {
	var ours, others bool
	err = conn.QueryRow(ctx, `
		SELECT to_regclass('pkid.store') IS NOT NULL, EXISTS (
			SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
			AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'))`).Scan(&ours, &others)
	switch {
	case err != nil:
		return false, err
	case !ours && others:
		return false, fmt.Errorf("%w: the database has tables of another program: pkid needs one of its own", ErrNotStore)
	case !ours && !o.Create:
		return false, fmt.Errorf("%w: the database is empty; restore it from a backup, or have pkid init make a new one", ErrNotStore)
	case !ours:
		return true, nil
	}
	var format, owner string
	err = conn.QueryRow(ctx, "SELECT format, owner FROM pkid.store").Scan(&format, &owner)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && format != formatMark, isForeign(err):
		return false, fmt.Errorf("%w: its table pkid.store is another program's, or damaged", ErrNotStore)
	case err != nil:
		return false, err
	case o.Identity != "" && owner != o.Identity:
		return false, fmt.Errorf("%w: it was made for %q, and this is %q", ErrIdentity, owner, o.Identity)
	}
	return false, nil
}

// isForeign: the table has not the columns that it should.
func isForeign(err error) bool {
	const undefinedColumn, undefinedTable, mismatch = "42703", "42P01", "42804"
	code := sqlState(err)
	return code == undefinedColumn || code == undefinedTable || code == mismatch
}

// create makes the schema and what says whose it is, in one transaction.
func create(ctx context.Context, conn database, identity string) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Without parameters these are several statements in one.
		_, err := tx.Exec(ctx, `
			CREATE SCHEMA IF NOT EXISTS pkid;
			CREATE TABLE pkid.store (format text NOT NULL, owner text NOT NULL);
			CREATE TABLE pkid.migrations (
				version    int PRIMARY KEY,
				name       text NOT NULL,
				applied_at timestamptz NOT NULL DEFAULT now()
			)`)
		if err != nil {
			return fmt.Errorf("making the schema: %w", err)
		}
		_, err = tx.Exec(ctx, "INSERT INTO pkid.store (format, owner) VALUES ($1, $2)", formatMark, identity)
		return err
	})
}

// upgrade applies what is missing.
func upgrade(ctx context.Context, conn database, all []migration) error {
	var version int
	if err := conn.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM pkid.migrations").Scan(&version); err != nil {
		if isForeign(err) {
			return fmt.Errorf("%w: it is damaged: its version is missing", ErrNotStore)
		}
		return err
	}
	if version > len(all) {
		return fmt.Errorf("%w: it has version %d, and this pkid knows %d", ErrNewerSchema, version, len(all))
	}
	for _, m := range all[version:] {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, m.sql); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "INSERT INTO pkid.migrations (version, name) VALUES ($1, $2)", m.version, m.name)
			return err
		})
		if err != nil {
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
	}
	return nil
}
