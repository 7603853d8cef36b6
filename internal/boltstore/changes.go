package boltstore

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"math"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
)

// The log of changes has for every revocation, hold and release whether it was a release, the value of the revoked
// bucket (of a release: its instant, for the reason removeFromCRL), and that bucket's key: issuer, NUL, shard, serial.

// logChange appends to the log of changes.
func (t *tx) logChange(key, value []byte, released bool) error {
	position, err := t.b.Bucket(changes.name).NextSequence()
	if err != nil {
		return fmt.Errorf("numbering a change: %w", err)
	}
	kind := []byte{0}
	if released {
		kind[0] = 1
	}
	return t.put(changes, ordered(int64(position)), join(kind, value, key))
}

// Position implements crl.Revocations.
func (s *Store) Position(ctx context.Context) (uint64, error) {
	at := uint64(0)
	err := s.view(ctx, func(t *tx) error {
		at = t.b.Bucket(changes.name).Sequence()
		return nil
	})
	return at, err
}

// changesBase is the position of the newest change that Prune dropped. Positions have no gaps.
func (t *tx) changesBase() uint64 {
	if k, _ := t.cursor(changes).First(); k != nil {
		return uint64(number(k)) - 1
	}
	return t.b.Bucket(changes.name).Sequence()
}

// Changes implements crl.Revocations. It reads in chunks as Revoked does, up to where the log ended when it was
// called.
func (s *Store) Changes(ctx context.Context, shard crl.Shard, after uint64) iter.Seq2[crl.Change, error] {
	return func(yield func(crl.Change, error) bool) {
		end, err := s.Position(ctx)
		for err == nil && after < min(end, math.MaxInt64) {
			var some []crl.Change
			if some, after, err = s.changesChunk(ctx, shardKey(shard), after, end); err != nil {
				break
			}
			for _, c := range some {
				if !yield(c, nil) {
					return
				}
			}
		}
		if err != nil {
			yield(crl.Change{}, fmt.Errorf("reading changes of issuer %s: %w", shard.Issuer, err))
		}
	}
}

// changesChunk looks at no more than chunk changes after a position, up to end, and returns how far it came.
func (s *Store) changesChunk(ctx context.Context, prefix []byte, after, end uint64) (some []crl.Change, upTo uint64, err error) {
	upTo = end
	err = s.view(ctx, func(t *tx) error {
		c, seen := t.cursor(changes), 0
		if after < t.changesBase() {
			return crl.ErrChangesDropped
		}
		for k, v := c.Seek(ordered(int64(after) + 1)); k != nil; k, v = c.Next() {
			position := uint64(number(k))
			if position > end {
				return nil
			}
			if seen++; seen > chunk {
				upTo = position - 1
				return nil
			}
			const head = 1 + revocationLen
			if len(v) < head {
				return fmt.Errorf("change %d: %w", position, errDamaged)
			}
			if key := v[head:]; len(key) == len(prefix)+len(ca.Serial{}) && bytes.HasPrefix(key, prefix) {
				e, err := entryOf(key, v[1:head])
				if err != nil {
					return err
				}
				some = append(some, crl.Change{Position: position, Released: v[0] != 0, Entry: e})
			}
		}
		return nil
	})
	return some, upTo, err
}
