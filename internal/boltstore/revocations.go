package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
)

// Decide implements ca.Store. decide runs inside the writer: it must be quick, and must not call the store.
func (s *Store) Decide(ctx context.Context, serial ca.Serial, decide func(*ca.Record) (*ca.Revocation, audit.Event, error)) (*ca.Record, error) {
	var rec *ca.Record
	err := s.update(ctx, func(t *tx) error {
		found, err := t.certificate(serial)
		if err != nil {
			return err
		}
		rev, ev, err := decide(found)
		if err != nil {
			return err
		}
		kept := *found
		kept.Revocation = rev
		rec = &kept
		return errors.Join(t.setRevocation(found, rev, ev.Time), t.seal(ev))
	})
	if err != nil {
		return nil, err
	}
	return rec, nil
}

// setRevocation replaces a record's revocation.
func (t *tx) setRevocation(rec *ca.Record, rev *ca.Revocation, now time.Time) error {
	key := revokedKey(crl.Shard{Issuer: rec.Issuer, Number: rec.Shard}, rec.Serial[:])
	switch {
	case rev != nil:
		value := encodeRevocation(rev, rec.NotAfter)
		return errors.Join(t.put(revoked, key, value), t.put(revokedThumb, rec.Thumbprint[:], []byte{1}), t.logChange(key, value, false))
	case rec.Revocation != nil:
		value := encodeRevocation(&ca.Revocation{Reason: ca.RemoveFromCRL, At: now}, rec.NotAfter)
		return errors.Join(t.delete(revoked, key), t.delete(revokedThumb, rec.Thumbprint[:]), t.logChange(key, value, true))
	}
	return nil
}

// RevokedThumbprint implements ca.Store.
func (s *Store) RevokedThumbprint(ctx context.Context, tp thumbprint.Cert) (bool, error) {
	found := false
	err := s.view(ctx, func(t *tx) error {
		found = t.get(revokedThumb, tp[:]) != nil
		return nil
	})
	return found, err
}

func (t *tx) revocation(r *record) (*ca.Revocation, error) {
	v := t.get(revoked, revokedKey(crl.Shard{Issuer: r.issuer, Number: r.shard}, r.serial[:]))
	if v == nil {
		return nil, nil //nolint:nilnil // not revoked, and no error
	}
	rev, _, err := decodeRevocation(v)
	return rev, err
}

// shardKey is what the keys of a shard begin with.
func shardKey(s crl.Shard) []byte {
	return binary.BigEndian.AppendUint32(append(append(make([]byte, 0, len(s.Issuer)+5+len(ca.Serial{})), s.Issuer...), 0), s.Number)
}

func revokedKey(s crl.Shard, serial []byte) []byte { return append(shardKey(s), serial...) }

func encodeRevocation(rev *ca.Revocation, notAfter time.Time) []byte {
	return join([]byte{byte(rev.Reason)}, ordered(rev.At.UnixMilli()), ordered(notAfter.Unix()))
}

const revocationLen = 1 + 8 + 8

// decodeRevocation reads what encodeRevocation wrote.
func decodeRevocation(v []byte) (rev *ca.Revocation, notAfter time.Time, err error) {
	if len(v) != revocationLen {
		return nil, notAfter, fmt.Errorf("revocation: %w", errDamaged)
	}
	return &ca.Revocation{Reason: ca.Reason(v[0]), At: time.UnixMilli(number(v[1:])).UTC()}, time.Unix(number(v[9:]), 0).UTC(), nil
}

// entryOf is a revocation, with a copy of the serial that its key ends with, as it is to stand on a CRL.
func entryOf(key, value []byte) (crl.Entry, error) {
	rev, notAfter, err := decodeRevocation(value)
	if err != nil {
		return crl.Entry{}, err
	}
	return crl.Entry{Serial: bytes.Clone(key[len(key)-len(ca.Serial{}):]), Reason: int(rev.Reason), At: rev.At, NotAfter: notAfter}, nil
}

// chunk is how many keys Revoked and Changes look at in one snapshot.
const chunk = 4096

// Revoked implements crl.Revocations. It reads in chunks, each on a newer snapshot than the one before, and
// holds none while the consumer works. So it yields every certificate that was revoked when it was called and
// still is; one that is revoked or released in between may be there or not.
func (s *Store) Revoked(ctx context.Context, shard crl.Shard, notBefore time.Time) iter.Seq2[crl.Entry, error] {
	return func(yield func(crl.Entry, error) bool) {
		prefix := shardKey(shard)
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
			e, err := entryOf(k, v)
			if err != nil {
				return err
			}
			if !e.NotAfter.Before(notBefore) {
				entries = append(entries, e)
			}
		}
		return nil
	})
	return entries, next, err
}
