package boltstore

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
)

// Latest implements crl.Store.
func (s *Store) Latest(ctx context.Context, shard crl.Shard, have uint64) (crl.Signed, error) {
	var out crl.Signed
	err := s.view(ctx, func(t *tx) (err error) {
		out, err = decodeCRL(shard, t.get(crls, []byte(shard.Issuer)))
		return err
	})
	if out.Number == have {
		out.DER = nil
	}
	return out, err
}

// Position implements crl.Revocations.
func (s *Store) Position(ctx context.Context) (uint64, error) {
	at := uint64(0)
	err := s.view(ctx, func(t *tx) error {
		if k, _ := t.cursor(changes).Last(); k != nil {
			at = uint64(number(k))
		}
		return nil
	})
	return at, err
}

// Changes implements crl.Revocations.
func (s *Store) Changes(ctx context.Context, shard crl.Shard, after uint64) iter.Seq2[crl.Change, error] {
	return func(yield func(crl.Change, error) bool) {
		var all []crl.Change
		err := s.view(ctx, func(t *tx) error {
			c := t.cursor(changes)
			for k, v := c.Seek(ordered(int64(after) + 1)); k != nil; k, v = c.Next() {
				serial, issuer := v[revocationLen+1:][:16], string(v[revocationLen+1+16:])
				rev, err := decodeRevocation(v[:revocationLen])
				if err != nil {
					return err
				}
				if issuer == shard.Issuer {
					all = append(all, crl.Change{Position: uint64(number(k)), Released: v[revocationLen] != 0, Entry: crl.Entry{
						Serial: bytes.Clone(serial), Reason: int(rev.Reason), At: rev.At, NotAfter: time.Unix(number(v[9:]), 0).UTC(),
					}})
				}
			}
			return nil
		})
		for _, c := range all {
			if !yield(c, nil) {
				return
			}
		}
		if err != nil {
			yield(crl.Change{}, err)
		}
	}
}

// logChange appends to the log of changes.
func (t *tx) logChange(rec *ca.Record, rev *ca.Revocation) error {
	released := byte(0)
	if rev == nil {
		rev, released = &ca.Revocation{}, 1
	}
	seq, err := t.b.Bucket(changes.name).NextSequence()
	if err != nil {
		return err
	}
	return t.put(changes, ordered(int64(seq)), join(encodeRevocation(rev, rec.NotAfter), []byte{released}, rec.Serial[:], []byte(rec.Issuer)))
}

// Replace implements crl.Store.
func (s *Store) Replace(ctx context.Context, prev, next crl.Signed) error {
	if err := checkID("issuer", next.Shard.Issuer); err != nil {
		return err
	}
	key := []byte(next.Shard.Issuer)
	value := join(ordered(int64(next.Number)), ordered(next.ThisUpdate.UnixMilli()), ordered(next.NextUpdate.UnixMilli()), next.DER.Bytes())
	return s.update(ctx, func(t *tx) error {
		latest := uint64(0) // none
		if v := t.get(crls, key); v != nil {
			latest = uint64(number(v))
		}
		if latest != prev.Number {
			return fmt.Errorf("%w: number %d stands, not %d", crl.ErrConflict, latest, prev.Number)
		}
		return t.put(crls, key, value)
	})
}

// decodeCRL copies a CRL out of the file; nil is one that was never published.
func decodeCRL(shard crl.Shard, v []byte) (crl.Signed, error) {
	const head = 8 + 8 + 8
	switch {
	case v == nil:
		return crl.Signed{}, fmt.Errorf("%w: issuer %s", crl.ErrNotPublished, shard.Issuer)
	case len(v) < head:
		return crl.Signed{}, fmt.Errorf("CRL of issuer %s: %w", shard.Issuer, errDamaged)
	}
	return crl.Signed{
		Shard:      shard,
		Number:     uint64(number(v)),
		ThisUpdate: time.UnixMilli(number(v[8:])).UTC(),
		NextUpdate: time.UnixMilli(number(v[16:])).UTC(),
		DER:        crl.DER{bytes.Clone(v[head:])},
	}, nil
}

// chunk is how many revocations Revoked reads in one snapshot.
const chunk = 4096

// Revoked implements crl.Revocations. It reads in chunks, each on a newer snapshot than the one before, and
// holds none while the consumer works. So it yields every certificate that was revoked when it was called and
// still is; one that is revoked or released in between may be there or not.
func (s *Store) Revoked(ctx context.Context, shard crl.Shard, notBefore time.Time) iter.Seq2[crl.Entry, error] {
	return func(yield func(crl.Entry, error) bool) {
		prefix := revokedKey(shard.Issuer, nil)
		for from := prefix; from != nil; {
			entries, next, err := s.revokedChunk(ctx, prefix, from, notBefore)
			if err != nil {
				yield(crl.Entry{}, fmt.Errorf("reading revocations of issuer %s: %w", shard.Issuer, err))
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
			from = next
		}
	}
}

// revokedChunk looks at no more than chunk keys from a key on. next is where to go on; nil at the end.
func (s *Store) revokedChunk(ctx context.Context, prefix, from []byte, notBefore time.Time) (entries []crl.Entry, next []byte, err error) {
	err = s.view(ctx, func(t *tx) error {
		c, seen := t.cursor(revoked), 0
		for k, v := c.Seek(from); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
			if seen++; seen > chunk {
				next = bytes.Clone(k)
				return nil
			}
			rev, err := decodeRevocation(v)
			if err != nil {
				return err
			}
			if notAfter := time.Unix(number(v[9:]), 0).UTC(); !notAfter.Before(notBefore) {
				serial := bytes.Clone(k[len(k)-len(ca.Serial{}):])
				entries = append(entries, crl.Entry{Serial: serial, Reason: int(rev.Reason), At: rev.At, NotAfter: notAfter})
			}
		}
		return nil
	})
	return entries, next, err
}
