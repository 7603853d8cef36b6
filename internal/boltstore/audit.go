package boltstore

import (
	"bytes"
	"context"
	"fmt"
	"math"

	"github.com/pkid/pkid/internal/audit"
)

// Record seals an event that changes nothing else in the store, such as ca.init.
func (s *Store) Record(ctx context.Context, ev audit.Event) error {
	return s.update(ctx, func(t *tx) error { return t.seal(ev) })
}

// Audit returns the entries after a sequence number, oldest first, at most limit. One that is not readable has a number
// and no content, and does not verify.
func (s *Store) Audit(ctx context.Context, after uint64, limit int) ([]audit.Entry, error) {
	var out []audit.Entry
	if after >= math.MaxInt64 {
		return nil, nil
	}
	err := s.view(ctx, func(t *tx) error {
		last, err := t.auditBase()
		if err != nil {
			return err
		}
		c := t.cursor(log)
		for k, v := c.Seek(ordered(int64(after))); k != nil && len(out) < limit; k, v = c.Next() {
			seq := uint64(number(k))
			if last.Seq+1 != seq {
				last.Hash = audit.Hash{} // the one before is missing: the log is broken here, and audit.Verify says so
			}
			e, err := decodeEntry(seq, last.Hash, v)
			if err != nil {
				e = audit.Entry{Seq: seq, Prev: last.Hash, Hash: e.Hash} // broken too
			}
			if seq > after {
				out = append(out, e)
			}
			last = e.Head()
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

// AuditBase implements audit.Archive.
func (s *Store) AuditBase(ctx context.Context) (audit.Head, error) {
	var base audit.Head
	err := s.view(ctx, func(t *tx) (err error) {
		base, err = t.auditBase()
		return err
	})
	return base, err
}

func (t *tx) auditBase() (audit.Head, error) {
	switch v := t.get(meta, baseKey); len(v) {
	case 0:
		return audit.Head{}, nil
	case 8 + len(audit.Hash{}):
		return audit.Head{Seq: uint64(number(v)), Hash: audit.Hash(v[8:])}, nil
	}
	return audit.Head{}, fmt.Errorf("where the audit log begins: %w", errDamaged)
}

// DropAudit implements audit.Archive.
func (s *Store) DropAudit(ctx context.Context, upTo audit.Head, limit int) (int, error) {
	dropped := 0
	err := s.update(ctx, func(t *tx) error {
		base, err := t.auditBase()
		if err != nil {
			return err
		}
		dropped = 0
		if upTo == base {
			return nil
		}
		if v := t.get(log, ordered(int64(upTo.Seq))); upTo.Seq > math.MaxInt64 || len(v) < len(upTo.Hash) || audit.Hash(v) != upTo.Hash {
			return fmt.Errorf("%w: %d", audit.ErrNoEntry, upTo.Seq)
		}
		var old [][]byte
		c, last := t.cursor(log), min(upTo.Seq, t.head.Seq-1)
		for k, v := c.First(); k != nil && uint64(number(k)) <= last && len(old) < limit; k, v = c.Next() {
			old = append(old, bytes.Clone(k))
			base = audit.Head{Seq: uint64(number(k))}
			copy(base.Hash[:], v)
		}
		for _, k := range old {
			if err := t.delete(log, k); err != nil {
				return err
			}
		}
		dropped = len(old)
		if dropped == 0 {
			return nil
		}
		// What is in no block yet is read from the log at the opening.
		t.endBlock = int64(base.Seq) > number(t.get(meta, markKey))
		return t.put(meta, baseKey, encodeHead(base))
	})
	return dropped, err
}
