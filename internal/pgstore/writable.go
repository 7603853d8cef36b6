package pgstore

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// fresh is how long a commit shows that others can be made.
const fresh = 2 * time.Second

// probeSize is more than what the tables' pages have free: a smaller probe would succeed on a full disk.
const probeSize = 64 << 10

// Writable returns why nothing can be written, for a readiness check: a standby and a full disk answer reads. It tries,
// unless there was a commit just now; after one that failed with more than a few octets, since those would find room
// where a certificate does not.
func (s *Store) Writable(ctx context.Context) error {
	failed := s.writer.failed.Load()
	if failed == nil && time.Since(time.UnixMilli(s.writer.committed.Load())) < fresh {
		return nil
	}
	data := make([]byte, 1)
	if failed != nil {
		data = make([]byte, probeSize)
	}
	rand.Read(data)
	err := s.view(ctx, "writing to see whether anything can be", func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, "UPDATE probe SET data = $1", data)
		if err == nil && tag.RowsAffected() == 0 {
			err = errors.New("the table for it is empty")
		}
		return err
	})
	if err == nil {
		s.writer.failed.CompareAndSwap(failed, nil)
	}
	return err
}
