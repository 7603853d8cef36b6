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
	// What the writer need not do is done here.
	var ready []byte
	if p := s.patterns.Load().of(rec); p != nil {
		ready = encodeRecord(rec, p)
	}
	entry := indexed{rec.Serial, thumbHash(rec.Thumbprint), clientHash(rec.ClientID)}
	expiry := join(ordered(rec.NotAfter.Unix()), rec.Serial[:])
	return s.update(ctx, func(t *tx) error {
		if err := t.unspent(spend); err != nil {
			return err
		}
		if t.get(certificates, rec.Serial[:]) != nil {
			return fmt.Errorf("%w: %s", ca.ErrDuplicate, rec.Serial)
		}
		value := ready // of this run: a pattern that it makes may be rolled back
		if value == nil {
			var err error
			if value, err = t.encode(rec); err != nil {
				return err
			}
		}
		t.added = append(t.added, entry)
		t.count(rec)
		return errors.Join(
			t.spend(spend, rec.Serial),
			t.put(certificates, rec.Serial[:], value),
			t.put(byExpiry, expiry, nil),
			t.sealWith(ev, &rec.Serial),
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

// certificate returns a copy of a record, or ca.ErrNotFound.
func (t *tx) certificate(serial ca.Serial) (*ca.Record, error) {
	r, err := t.record(serial)
	if err != nil {
		return nil, err
	}
	rev, err := t.revocation(&r)
	if err != nil {
		return nil, err
	}
	return r.copy(rev)
}

// record finds a record, or returns ca.ErrNotFound.
func (t *tx) record(serial ca.Serial) (record, error) {
	v := t.get(certificates, serial[:])
	if v == nil {
		return record{}, fmt.Errorf("%w: %s", ca.ErrNotFound, serial)
	}
	return t.certificateRecord(serial, v)
}

// noSerial is above every serial: the start of a list that goes down.
var noSerial = bytes.Repeat([]byte{0xff}, len(ca.Serial{})+1)
