package pgstore

import (
	"context"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
