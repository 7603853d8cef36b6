package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/pkid/pkid/internal/pgstore"
	"github.com/pkid/pkid/internal/pgtest"
)

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	made := pgstore.Options{Create: true, Identity: identity}
	for name, c := range map[string]struct {
		before  string // done to a store
		instead string // done to an empty database
		options pgstore.Options
		want    error
		text    string
	}{
		"an empty database":          {instead: "SELECT", options: pgstore.Options{Identity: identity}, want: pgstore.ErrNotStore, text: "is empty"},
		"another program's database": {instead: "CREATE TABLE public.orders (id int)", options: made, want: pgstore.ErrNotStore, text: "another program"},
		"another program's schema":   {instead: "CREATE SCHEMA pkid CREATE TABLE store (id int)", options: made, want: pgstore.ErrNotStore, text: "another program"},
		"another mark":               {before: "UPDATE pkid.store SET format = 'x'", options: made, want: pgstore.ErrNotStore, text: "damaged"},
		"no mark":                    {before: "DELETE FROM pkid.store", options: made, want: pgstore.ErrNotStore, text: "damaged"},
		"no version":                 {before: "DROP TABLE pkid.migrations", options: made, want: pgstore.ErrNotStore, text: "version is missing"},
		"another CA's store":         {before: "SELECT", options: pgstore.Options{Identity: "another"}, want: pgstore.ErrIdentity, text: identity},
		"a newer store": {
			before:  "INSERT INTO pkid.migrations (version, name) VALUES (9999, '9999_later')",
			options: made, want: pgstore.ErrNewerSchema, text: "version 9999",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			if c.before != "" {
				open(t, url)
			}
			execute(t, url, c.before+c.instead)
			before := tables(t, url)
			s, err := pgstore.Open(t.Context(), url, c.options)
			if err == nil {
				t.Fatalf("it was opened: %v", s.Close())
			}
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Open = %v; want %v, with %q", err, c.want, c.text)
			}
			if after := tables(t, url); after != before {
				t.Errorf("what was refused was changed: tables %s, then %s", before, after)
			}
		})
	}
}

// tables names all tables of a database.
func tables(t *testing.T, url string) (names string) {
	t.Helper()
	err := connect(t, url).QueryRow(t.Context(), `
		SELECT coalesce(string_agg(schemaname || '.' || tablename, ' ' ORDER BY 1), '') FROM pg_tables
		WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`).Scan(&names)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Any number of nodes may start at once, the very first time and at each upgrade.
func TestMigrationsRunOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	const nodes = 6
	all(t, nodes, func() error {
		s, err := pgstore.Open(t.Context(), url, pgstore.Options{Create: true, Identity: identity})
		if err != nil {
			return err
		}
		return s.Close()
	})
	have := versions(t, url)
	next := later(t, have, "CREATE TABLE pkid.later (id int); INSERT INTO pkid.later VALUES (1)")
	all(t, nodes, func() error { return upgrade(t.Context(), t, url, next) })
	if now := versions(t, url); now != have+1 {
		t.Errorf("%d migrations, then %d; want one more", have, now)
	}
	rows := 0
	if err := connect(t, url).QueryRow(t.Context(), "SELECT count(*) FROM pkid.later").Scan(&rows); err != nil || rows != 1 {
		t.Errorf("the migration wrote %d rows, %v", rows, err)
	}
	if _, err := pgstore.Open(t.Context(), url, pgstore.Options{}); !errors.Is(err, pgstore.ErrNewerSchema) {
		t.Errorf("the older program opens it: %v", err)
	}
}

// A migration that fails half-way leaves nothing, and the store as it was.
func TestMigrationFails(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	open(t, url)
	have, before := versions(t, url), tables(t, url)
	err := upgrade(t.Context(), t, url, later(t, have, "CREATE TABLE pkid.later (id int); SELECT 1/0"))
	if err == nil || !strings.Contains(err.Error(), "_later") {
		t.Errorf("upgrade = %v; want an error that names the migration", err)
	}
	if now, after := versions(t, url), tables(t, url); now != have || after != before {
		t.Errorf("it left version %d and tables %s; want %d and %s", now, after, have, before)
	}
	insert(t, open(t, url), newRecord(1))
}

func all(t *testing.T, n int, do func() error) {
	t.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if err := do(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func upgrade(ctx context.Context, t *testing.T, url string, to fs.FS) error {
	t.Helper()
	conn := connect(t, url)
	return errors.Join(pgstore.Upgrade(ctx, conn, to), conn.Close(ctx)) // the lock goes with the connection
}

func versions(t *testing.T, url string) (n int) {
	t.Helper()
	if err := connect(t, url).QueryRow(t.Context(), "SELECT max(version) FROM pkid.migrations").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// later is the program's migrations and one more.
func later(t *testing.T, have int, sql string) fs.FS {
	t.Helper()
	files := fstest.MapFS{fmt.Sprintf("migrations/%04d_later.sql", have+1): {Data: []byte(sql)}}
	names, err := fs.Glob(pgstore.Migrations, "migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := fs.ReadFile(pgstore.Migrations, name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: b}
	}
	return files
}
