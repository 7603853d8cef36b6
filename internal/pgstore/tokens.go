package pgstore

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/internal/audit"
)

// RevokeToken implements authserver.RevokedTokens. Revoking a token again changes nothing, and is not logged.
func (s *Store) RevokeToken(ctx context.Context, jti string, until time.Time, ev audit.Event) error {
	key := sha256.Sum256([]byte(jti))
	until = endOf(until)
	var kept time.Time
	return s.update(ctx, change{
		touches: []string{"token " + string(key[:])},
		read: func(q *reads) {
			kept = time.Time{} // if there is none
			q.queue("SELECT until FROM revoked_tokens WHERE key = $1", key[:]).QueryRow(func(row pgx.Row) error {
				return ifThere(row.Scan(&kept))
			})
		},
		apply: func(t *tx) error {
			if !kept.IsZero() && !kept.Before(until) {
				return nil
			}
			t.exec(`INSERT INTO revoked_tokens (key, until) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET until = EXCLUDED.until`, key[:], until)
			t.seal(ev)
			return nil
		},
	})
}

// TokenRevoked implements authserver.RevokedTokens.
func (s *Store) TokenRevoked(ctx context.Context, jti string) (bool, error) {
	key := sha256.Sum256([]byte(jti))
	found := false
	err := s.view(ctx, "looking for a revoked token", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM revoked_tokens WHERE key = $1)", key[:]).Scan(&found)
	})
	return found, err
}

// RevokedTokens returns until when revoked tokens count, by the SHA-256 of their ids: at most limit of those that have not
// expired by now.
func (s *Store) RevokedTokens(ctx context.Context, now time.Time, limit int) (map[[sha256.Size]byte]time.Time, error) {
	var out map[[sha256.Size]byte]time.Time
	err := s.view(ctx, "looking for revoked tokens", func(ctx context.Context, conn *pgx.Conn) error {
		out = map[[sha256.Size]byte]time.Time{}
		rows, err := conn.Query(ctx, "SELECT key, until FROM revoked_tokens WHERE until > $1 LIMIT $2", now, limit)
		if err != nil {
			return err
		}
		var key []byte
		var until time.Time
		_, err = pgx.ForEachRow(rows, []any{&key, &until}, func() error {
			out[[sha256.Size]byte(key)] = until.UTC()
			return nil
		})
		return err
	})
	return out, err
}

// endOf is an instant as a column can hold it, rounded up so that nothing is forgotten before its time. What a client
// sent may say any time; the years of four digits are enough.
func endOf(t time.Time) time.Time {
	first, last := time.Unix(0, 0), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	switch {
	case t.Before(first):
		return first
	case t.After(last):
		return last
	}
	return t.Add(time.Microsecond - 1).Truncate(time.Microsecond)
}
