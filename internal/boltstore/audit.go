package boltstore

import (
	"context"
	"fmt"
	"math"

	"github.com/pkid/pkid/internal/audit"
)

// Record seals an event that changes nothing else in the store, such as ca.init.
func (s *Store) Record(ctx context.Context, ev audit.Event) error {
	return s.update(ctx, func(t *tx) error { return t.seal(ev) })
}

// Audit returns the entries after a sequence number, oldest first, at most limit.
func (s *Store) Audit(ctx context.Context, after uint64, limit int) ([]audit.Entry, error) {
	var out []audit.Entry
	if after >= math.MaxInt64 {
		return nil, nil
	}
	err := s.view(ctx, func(t *tx) error {
		c := t.cursor(log)
		var last audit.Head
		for k, v := c.Seek(ordered(int64(after))); k != nil && len(out) < limit; k, v = c.Next() {
			seq := uint64(number(k))
			if seq > after {
				if last.Seq+1 != seq {
					last.Hash = audit.Hash{} // the one before is missing: the log is broken here, and audit.Verify says so
				}
				e, err := decodeEntry(seq, last.Hash, v)
				if err != nil {
					return err
				}
				out = append(out, e)
			}
			if len(v) < len(last.Hash) {
				return fmt.Errorf("audit entry %d: %w", seq, errDamaged)
			}
			last = audit.Head{Seq: seq, Hash: audit.Hash(v)}
		}
		return nil
	})
	return out, err
}

// AuditHead returns the end of the audit log.
func (s *Store) AuditHead(ctx context.Context) (audit.Head, error) {
	var head audit.Head
	err := s.view(ctx, func(t *tx) error {
		err := t.loadHead()
		head = t.head
		return err
	})
	return head, err
}

func (t *tx) loadHead() error {
	v := t.get(meta, headKey)
	if len(v) != 8+len(audit.Hash{}) {
		return fmt.Errorf("%w: it is damaged: the audit log's head is missing", ErrNotStore)
	}
	t.head = audit.Head{Seq: uint64(number(v)), Hash: audit.Hash(v[8:])}
	return nil
}

func (t *tx) storeHead() error { return t.put(meta, headKey, encodeHead(t.head)) }

func encodeHead(h audit.Head) []byte { return join(ordered(int64(h.Seq)), h.Hash[:]) }
