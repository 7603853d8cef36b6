package pgstore

import (
	"context"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
)

// What tests of the package from outside reach into it for.

// DialWriter has the writer of a store that wrote nothing yet connect through a function.
func (s *Store) DialWriter(dial pgconn.DialFunc) {
	s.writer.dial = func(ctx context.Context) (*pgx.Conn, error) {
		cfg := s.pool.Config().ConnConfig
		cfg.DialFunc = dial
		return pgx.ConnectConfig(ctx, cfg)
	}
}

// DialReaders has all that is not the writer's, of a store that did nothing yet, go over one connection that is made
// through a function.
func (s *Store) DialReaders(ctx context.Context, dial pgconn.DialFunc) (err error) {
	cfg := s.pool.Config()
	cfg.MaxConns, cfg.ConnConfig.DialFunc = 1, dial
	s.pool.Close()
	s.pool, err = pgxpool.NewWithConfig(ctx, cfg)
	return err
}

// Upgrade brings a store up to the migrations in a file system.
func Upgrade(ctx context.Context, conn *pgx.Conn, from fs.FS) error {
	return prepare(ctx, conn, from, Options{})
}

// Migrations are those that the program has.
var Migrations fs.FS = migrations

// Setting returns a setting of the store's sessions.
func (s *Store) Setting(ctx context.Context, name string) (value string, err error) {
	err = s.view(ctx, "reading a setting", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&value)
	})
	return value, err
}

// FailLate makes a change that finds out only after it has written everything that it cannot be.
func (s *Store) FailLate(ctx context.Context, ev audit.Event, rec *ca.Record, failure error) error {
	return s.update(ctx, change{apply: func(t *tx) error {
		t.exec("UPDATE state SET clients = clients + 1000")
		t.setRevocation(rec, &ca.Revocation{At: ev.Time}, ev.Time)
		t.seal(ev)
		return failure
	}})
}

// Waiting is how many requests the writer has not received.
func (s *Store) Waiting() int { return len(s.writer.queue) }

// Settings returns what a new connection is set to, of the settings that pkid sets; and then which timeouts are left
// where there is to be no hurry.
func (s *Store) Settings(ctx context.Context) (given map[string]string, hurried []string, err error) {
	conn, err := s.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close(ctx)
	given = map[string]string{}
	for name := range session {
		value := ""
		if err := conn.QueryRow(ctx, "SELECT setting FROM pg_settings WHERE lower(name) = $1", name).Scan(&value); err != nil {
			return nil, nil, err
		}
		given[name] = value
	}
	if _, err := conn.Exec(ctx, unhurriedSQL); err != nil {
		return nil, nil, err
	}
	rows, err := conn.Query(ctx, `SELECT name FROM pg_settings WHERE name ~ '(statement|lock|transaction).*_timeout' AND setting <> '0' AND context = 'user'`)
	if err != nil {
		return nil, nil, err
	}
	hurried, err = pgx.CollectRows(rows, pgx.RowTo[string])
	return given, hurried, err
}

// Session is what is set on every connection.
var Session = session
