package pgstore

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/internal/audit"
)

// MarkRestored remembers that the store was brought back from a backup at an instant, so that what happened between the
// two is unknown. Nodes that have the store open are told by Watch that anything may have changed.
func (s *Store) MarkRestored(ctx context.Context, at time.Time, ev audit.Event) error {
	return s.update(ctx, change{apply: func(t *tx) error {
		t.exec("UPDATE state SET restored_at = $1", at.UTC().Truncate(time.Millisecond))
		t.notify(restoredNotice)
		t.seal(ev)
		return nil
	}})
}

// Restored returns the instant of the newest MarkRestored; zero if there was none.
func (s *Store) Restored(ctx context.Context) (time.Time, error) {
	var at *time.Time
	err := s.view(ctx, "reading when the store was restored", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT restored_at FROM state").Scan(&at)
	})
	if err != nil || at == nil {
		return time.Time{}, err
	}
	return at.UTC(), nil
}
