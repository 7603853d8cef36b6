package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/thumbprint"
)

// A large store is filled through the store's own methods, as the CA would, but with certificates that are
// copies of one that it signed, with another serial number, key and signature: signing ten million would
// take longer than everything else, and the store does not look.

// forger makes such certificates.
type forger struct {
	pattern []byte
	serial  int // where the serial number is in pattern
	key     int // where the key is
	issuer  string
	expiry  time.Time
}

// forge makes a forger of a certificate that the CA issued.
func forge(pattern *x509.Certificate, issuer string) (*forger, error) {
	serial := pattern.SerialNumber.FillBytes(make([]byte, 16))
	f := &forger{pattern: pattern.Raw, serial: bytes.Index(pattern.Raw, serial), issuer: issuer, expiry: pattern.NotAfter}
	f.key = bytes.Index(pattern.Raw, pattern.RawSubjectPublicKeyInfo) + len(pattern.RawSubjectPublicKeyInfo) - 64
	if f.serial < 0 || f.key < 0 {
		return nil, fmt.Errorf("certificate %x has another form than expected", serial)
	}
	return f, nil
}

// record is one of the i-th client, issued now.
func (f *forger) record(i int, random *mathrand.ChaCha8) *ca.Record {
	now := time.Now().UTC()
	var s ca.Serial
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(s[:6], ms[2:])
	_, _ = random.Read(s[6:])
	der := slices.Clone(f.pattern)
	copy(der[f.serial:], s[:])
	_, _ = random.Read(der[f.key : f.key+64])
	_, _ = random.Read(der[len(der)-24:])
	name := fmt.Sprintf("client-%08d", i)
	return &ca.Record{
		Serial: s, Issuer: f.issuer, ClientID: name, Profile: "client", Thumbprint: thumbprint.OfDER(der),
		NotBefore: now.Truncate(time.Second), NotAfter: f.expiry.UTC(), IssuedAt: now, Names: []string{name}, DER: der,
	}
}

// event is what the CA writes into the audit log for it.
func (f *forger) event(r *ca.Record, action string) audit.Event {
	return audit.Event{
		Time: r.IssuedAt, Actor: audit.Actor{Name: r.ClientID, Address: "127.0.0.1", RequestID: rand.Text()}, Action: action, Subject: r.Serial.String(),
		Detail: map[string]string{
			"client": r.ClientID, "profile": r.Profile, "not_after": r.NotAfter.Format(time.RFC3339), "x5t#S256": r.Thumbprint.String(),
		},
	}
}

// writers are enough to fill the store's transactions.
const writers = 1024

// fill keeps n certificates, of the first-th client and those after it, and returns their serial numbers.
func (f *forger) fill(ctx context.Context, store *boltstore.Store, first, n int) ([]ca.Serial, error) {
	serials := make([]ca.Serial, n)
	err := each(ctx, n, func(ctx context.Context, i int, random *mathrand.ChaCha8) error {
		r := f.record(first+i, random)
		serials[i] = r.Serial
		return store.Insert(ctx, r, nil, f.event(r, audit.Issue))
	})
	return serials, err
}

// revoke revokes certificates.
func (f *forger) revoke(ctx context.Context, store *boltstore.Store, serials []ca.Serial) error {
	return each(ctx, len(serials), func(ctx context.Context, i int, _ *mathrand.ChaCha8) error {
		_, err := store.Decide(ctx, serials[i], func(r *ca.Record) (*ca.Revocation, audit.Event, error) {
			return &ca.Revocation{Reason: ca.KeyCompromise, At: time.Now().UTC()}, f.event(r, audit.Revoke), nil
		})
		return err
	})
}

// each calls do for 0 to n-1 by all writers.
func each(ctx context.Context, n int, do func(context.Context, int, *mathrand.ChaCha8) error) error {
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(writers, n) {
		group.Go(func() error {
			var seed [32]byte
			_, _ = rand.Read(seed[:])
			random := mathrand.NewChaCha8(seed)
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := do(ctx, i, random); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}
