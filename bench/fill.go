package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // G505: for key identifiers
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

// A large store is filled through the store's own methods, as the CA would, but with certificates that are forged
// after one that it signed: signing ten million would take longer than everything else, and the store does not look.
// Everything is different in each of them that is different in real ones, and of the same size, so that a store which
// saves what they have in common saves no more than it would of real ones.

// forger makes such certificates.
type forger struct {
	tbs       []byte // of the certificate that it goes by
	algorithm []byte // of its signature
	issuer    string
	lifetime  time.Duration
	name      string // stands in tbs, wherever the client's does

	// Where in tbs the rest of what varies is.
	serial, notBefore, notAfter, key, keyID int
}

// forge makes a forger of a certificate that the CA issued to an applicant.
func forge(pattern *x509.Certificate, issuer string) (*forger, error) {
	f := &forger{
		tbs: pattern.RawTBSCertificate, issuer: issuer, lifetime: pattern.NotAfter.Sub(pattern.NotBefore), name: pattern.Subject.CommonName,
	}
	f.serial = bytes.Index(f.tbs, pattern.SerialNumber.FillBytes(make([]byte, 16)))
	f.notBefore = bytes.Index(f.tbs, utcTime(pattern.NotBefore))
	f.notAfter = bytes.LastIndex(f.tbs, utcTime(pattern.NotAfter))
	f.key = bytes.Index(f.tbs, pattern.RawSubjectPublicKeyInfo) + len(pattern.RawSubjectPublicKeyInfo) - 64
	id := keyID(f.tbs[f.key:])
	f.keyID = bytes.LastIndex(f.tbs, id[:])
	rest, ok := bytes.CutPrefix(pattern.Raw[len(pattern.Raw)-len(pattern.Signature)-3-12:], []byte{0x30, 10})
	if ok {
		f.algorithm = append([]byte{0x30, 10}, rest[:10]...)
	}
	if f.serial < 0 || f.notBefore < 0 || f.notAfter < 0 || f.key < 0 || f.keyID < 0 || !ok || len(f.name) != len(clientName(0)) {
		return nil, fmt.Errorf("certificate %x has another form than expected", pattern.SerialNumber)
	}
	return f, nil
}

// keyID is the subject key identifier of a P-256 key that stands at the start of b, without its first octet, as pkid
// makes it (RFC 5280 section 4.2.1.2, method 1).
func keyID(b []byte) [sha1.Size]byte {
	return sha1.Sum(append([]byte{4}, b[:64]...)) //nolint:gosec // G401: a name, not a proof
}

// utcTime is a time as certificates have it, without its header.
func utcTime(t time.Time) []byte { return t.UTC().AppendFormat(nil, "060102150405Z") }

// record is one of the i-th client, issued now.
func (f *forger) record(i int, random *mathrand.ChaCha8) *ca.Record {
	now := time.Now().UTC()
	from := now.Truncate(time.Second)
	var s ca.Serial
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(s[:6], ms[2:])
	_, _ = random.Read(s[6:])
	name := clientName(applicants + i)
	tbs := bytes.ReplaceAll(f.tbs, []byte(f.name), []byte(name)) // a copy
	copy(tbs[f.serial:], s[:])
	copy(tbs[f.notBefore:], utcTime(from))
	copy(tbs[f.notAfter:], utcTime(from.Add(f.lifetime)))
	_, _ = random.Read(tbs[f.key : f.key+64])
	id := keyID(tbs[f.key:])
	copy(tbs[f.keyID:], id[:])
	der := f.signed(tbs, random)
	return &ca.Record{
		Serial: s, Issuer: f.issuer, ClientID: name, Profile: "client", Thumbprint: thumbprint.OfDER(der),
		NotBefore: from, NotAfter: from.Add(f.lifetime), IssuedAt: now, Names: []string{name}, DER: der,
	}
}

// signed puts a certificate together with something of the form of an ECDSA signature.
func (f *forger) signed(tbs []byte, random *mathrand.ChaCha8) []byte {
	var numbers []byte
	for range 2 {
		var n [33]byte
		_, _ = random.Read(n[1:])
		n[1] |= 1 // no shorter one
		raw := n[1:]
		if raw[0] >= 0x80 {
			raw = n[:]
		}
		numbers = append(append(numbers, 2, byte(len(raw))), raw...)
	}
	signature := append([]byte{3, byte(len(numbers) + 3), 0, 0x30, byte(len(numbers))}, numbers...)
	n := len(tbs) + len(f.algorithm) + len(signature)
	return slices.Concat([]byte{0x30, 0x82, byte(n >> 8), byte(n)}, tbs, f.algorithm, signature)
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
