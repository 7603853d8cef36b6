package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
)

// Insert implements ca.Store.
func (s *Store) Insert(ctx context.Context, rec *ca.Record, spend *ca.Spend, ev audit.Event) error {
	if err := checkID("issuer", rec.Issuer); err != nil {
		return err
	}
	if rec.Thumbprint != thumbprint.OfDER(rec.DER) {
		return fmt.Errorf("certificate %s: thumbprint %s is not that of its DER", rec.Serial, rec.Thumbprint)
	}
	value, serial := encodeRecord(rec), rec.Serial[:]
	return s.update(ctx, func(t *tx) error {
		inv, err := t.unspent(spend)
		if err != nil {
			return err
		}
		if t.get(certificates, serial) != nil {
			return fmt.Errorf("%w: %s", ca.ErrDuplicate, rec.Serial)
		}
		return errors.Join(
			t.spend(inv, spend, rec.Serial),
			t.put(certificates, serial, value),
			t.put(byThumbprint, join(thumbKey(rec.Thumbprint), serial), nil),
			t.put(byClient, join(clientKey(rec.ClientID), serial), nil),
			t.put(byExpiry, join(ordered(rec.NotAfter.Unix()), serial), nil),
			t.seal(ev),
		)
	})
}

// Certificate implements ca.Store.
func (s *Store) Certificate(ctx context.Context, serial ca.Serial) (*ca.Record, error) {
	var rec *ca.Record
	err := s.view(ctx, func(t *tx) (err error) {
		rec, err = t.certificate(serial)
		return err
	})
	return rec, err
}

// RevokedThumbprint implements ca.Store.
func (s *Store) RevokedThumbprint(ctx context.Context, tp thumbprint.Cert) (bool, error) {
	rec, err := s.ByThumbprint(ctx, tp)
	if errors.Is(err, ca.ErrNotFound) {
		return false, nil
	}
	return err == nil && rec.Revocation != nil, err
}

// ByThumbprint returns the record of the certificate with that thumbprint.
func (s *Store) ByThumbprint(ctx context.Context, tp thumbprint.Cert) (*ca.Record, error) {
	var rec *ca.Record
	err := s.view(ctx, func(t *tx) error {
		for serial := range t.descend(byThumbprint, thumbKey(tp), noSerial) {
			r, err := t.certificate(ca.Serial(serial[indexPrefix:]))
			if err != nil {
				return err
			}
			if r.Thumbprint == tp {
				rec = r
				return nil
			}
		}
		return fmt.Errorf("%w: thumbprint %s", ca.ErrNotFound, tp)
	})
	return rec, err
}

// Decide implements ca.Store. decide runs inside the writer: it must be quick, and must not call the store.
func (s *Store) Decide(ctx context.Context, serial ca.Serial, decide func(*ca.Record) (*ca.Revocation, audit.Event, error)) (*ca.Record, error) {
	var rec *ca.Record
	err := s.update(ctx, func(t *tx) (err error) {
		if rec, err = t.certificate(serial); err != nil {
			return err
		}
		rev, ev, err := decide(rec)
		if err != nil {
			return err
		}
		kept := *rec
		kept.Revocation = rev
		rec = &kept
		key := revokedKey(rec.Issuer, serial[:])
		if rev == nil {
			err = t.delete(revoked, key)
		} else {
			err = t.put(revoked, key, encodeRevocation(rev, rec.NotAfter))
		}
		return errors.Join(err, t.logChange(rec, rev), t.seal(ev))
	})
	if err != nil {
		return nil, err
	}
	return rec, nil
}

// certificate returns a copy of a record, or ca.ErrNotFound.
func (t *tx) certificate(serial ca.Serial) (*ca.Record, error) {
	v := t.get(certificates, serial[:])
	if v == nil {
		return nil, fmt.Errorf("%w: %s", ca.ErrNotFound, serial)
	}
	r, err := decodeRecord(serial, v)
	if err != nil {
		return nil, err
	}
	rev, err := t.revocation(&r)
	if err != nil {
		return nil, err
	}
	return r.copy(rev), nil
}

func (t *tx) revocation(r *record) (*ca.Revocation, error) {
	return decodeRevocation(t.get(revoked, revokedKey(string(r.issuer), r.serial[:])))
}

// noSerial is above every serial: the start of a list that goes down.
var noSerial = bytes.Repeat([]byte{0xff}, len(ca.Serial{})+1)

// descend yields what a bucket holds under a prefix, from below prefix+bound downwards.
func (t *tx) descend(b bucket, prefix, bound []byte) func(yield func(k, v []byte) bool) {
	return func(yield func(k, v []byte) bool) {
		c := t.cursor(b)
		first := c.Prev
		if k, _ := c.Seek(join(prefix, bound)); k == nil {
			first = c.Last
		}
		for k, v := first(); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Prev() {
			if !yield(k, v) {
				return
			}
		}
	}
}
