package boltstore

import (
	"context"
	"encoding/json"
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
	first := int64(min(after, math.MaxInt64-1)) + 1
	err := s.view(ctx, func(t *tx) error {
		c := t.cursor(log)
		for k, v := c.Seek(ordered(first)); k != nil && len(out) < limit; k, v = c.Next() {
			e, err := decodeEntry(v)
			if err != nil {
				return err
			}
			out = append(out, e)
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

// seal appends ev to the log, in the transaction of the act that it describes.
func (t *tx) seal(ev audit.Event) error {
	e := audit.Seal(t.head, ev)
	v, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encoding audit entry: %w", err)
	}
	t.head = e.Head()
	return t.put(log, ordered(int64(e.Seq)), v)
}

func decodeEntry(v []byte) (audit.Entry, error) {
	var e audit.Entry
	if err := json.Unmarshal(v, &e); err != nil {
		return e, fmt.Errorf("reading audit entry: %w", err)
	}
	return e, nil
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
