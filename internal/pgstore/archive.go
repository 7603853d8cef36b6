package pgstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/internal/audit"
)

// AuditBase implements audit.Archive.
func (s *Store) AuditBase(ctx context.Context) (base audit.Head, err error) {
	err = s.view(ctx, "reading the audit log's base", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT base_seq, base_hash FROM head").Scan(&base.Seq, (*hashValue)(&base.Hash))
	})
	return base, err
}

// oldestSQL is the last of the entries to be dropped. The newest of the log always stays.
const oldestSQL = `
	SELECT seq, hash FROM (
		SELECT seq, hash FROM audit WHERE seq <= $1 AND seq < (SELECT seq FROM head) ORDER BY seq LIMIT $2
	) AS oldest ORDER BY seq DESC LIMIT 1`

// DropAudit implements audit.Archive. It holds the head's lock, as whoever writes to the log does.
func (s *Store) DropAudit(ctx context.Context, upTo audit.Head, limit int) (int, error) {
	dropped := 0
	err := s.write(ctx, "dropping audit entries", func(ctx context.Context, conn *pgx.Conn) error {
		dropped = 0
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			var base audit.Head
			err := tx.QueryRow(ctx, "SELECT base_seq, base_hash FROM head FOR UPDATE").Scan(&base.Seq, (*hashValue)(&base.Hash))
			if err != nil || base == upTo {
				return err
			}
			var known bool
			err = tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM audit WHERE seq = $1 AND hash = $2)", int64(upTo.Seq), upTo.Hash[:]).Scan(&known)
			if err != nil {
				return err
			}
			if !known {
				return fmt.Errorf("%w: number %d", audit.ErrNoEntry, upTo.Seq)
			}
			err = tx.QueryRow(ctx, oldestSQL, int64(upTo.Seq), limit).Scan(&base.Seq, (*hashValue)(&base.Hash))
			if errors.Is(err, pgx.ErrNoRows) {
				return nil
			}
			if err != nil {
				return err
			}
			tag, err := tx.Exec(ctx, "DELETE FROM audit WHERE seq <= $1", int64(base.Seq))
			if err != nil {
				return err
			}
			dropped = int(tag.RowsAffected())
			_, err = tx.Exec(ctx, "UPDATE head SET base_seq = $1, base_hash = $2", int64(base.Seq), base.Hash[:])
			return err
		})
	})
	if err != nil {
		return 0, err
	}
	return dropped, nil
}
