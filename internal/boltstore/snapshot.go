package boltstore

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

// Snapshot writes a copy of the store as it is at one instant, a file that Open opens. It asks begin once where to, and
// tells it the copy's size in octets and the end of the audit log in it. Others go on reading and writing meanwhile, but
// the file cannot use its free room again before the copy is done: a slow taker makes it grow.
func (s *Store) Snapshot(ctx context.Context, begin func(size int64, head audit.Head) (io.Writer, error)) error {
	return s.view(ctx, func(t *tx) error {
		if err := t.loadHead(); err != nil {
			return err
		}
		to, err := begin(t.b.Size(), t.head)
		if err != nil {
			return err
		}
		if _, err := t.b.WriteTo(to); err != nil {
			return fmt.Errorf("copying the store: %w", err)
		}
		return nil
	})
}

// MarkRestored remembers that the store was brought back from a backup at an instant, so that what happened between
// the two is unknown.
func (s *Store) MarkRestored(ctx context.Context, at time.Time, ev audit.Event) error {
	return s.update(ctx, func(t *tx) error {
		if err := t.put(meta, restoredKey, ordered(at.UnixMilli())); err != nil {
			return err
		}
		return t.seal(ev)
	})
}

// Restored returns the instant of the newest MarkRestored; zero if there was none.
func (s *Store) Restored(ctx context.Context) (at time.Time, err error) {
	err = s.view(ctx, func(t *tx) error {
		if v := t.get(meta, restoredKey); len(v) == 8 {
			at = time.UnixMilli(number(v)).UTC()
		}
		return nil
	})
	return at, err
}
