package ca_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"log/slog"
	"testing"
	"time"

	"github.com/pkid/pkid/crl"
)

// A whole round but for the store, after one more revocation: reading what changed, writing the list, and having it
// signed with the issuing key. The floor is SHA-256 over the list and one signature.
func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{0, 1000, 100_000, 1_000_000} {
		a := newBench(b)
		shard := crl.Shard{Issuer: a.Issuer().ID()}
		store := revocationsOf(n)
		p, err := crl.NewPublisher(crl.PublisherConfig{
			Shards: []crl.PublishedShard{{Shard: shard, URL: a.Issuer().CRLURL, Issuer: a.Issuer().Signer.Certificate()}},
			Store:  store, Revocations: store, Signer: a, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			b.Fatal(err)
		}
		publish := func() {
			if _, err := p.Publish(b.Context(), shard); err != nil {
				b.Fatal(err)
			}
		}
		publish() // reads everything
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				store.revokeAnother()
				publish()
			}
		})
		whole := store.newest.DER.Bytes()
		b.Run(fmt.Sprint(n, "/floor"), func(b *testing.B) {
			b.SetBytes(int64(len(whole)))
			b.ReportAllocs()
			for b.Loop() {
				digest := sha256.Sum256(whole)
				if _, err := a.signer.key.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// revocations is a crl.Store and crl.Revocations that costs nothing.
type revocations struct {
	entries []crl.Entry
	changes []crl.Change
	newest  crl.Signed
}

func revocationsOf(n int) *revocations {
	r := &revocations{entries: make([]crl.Entry, n)}
	for i := range r.entries {
		r.entries[i] = revocation(2 * i)
	}
	return r
}

// revocation returns the i-th, with a serial number as this CA gives them.
func revocation(i int) crl.Entry {
	serial := make([]byte, 16)
	binary.BigEndian.PutUint64(serial, 0x0190_0000_0000_0000+uint64(i)<<20)
	digest := sha256.Sum256(serial)
	copy(serial[6:], digest[:])
	at := start.Add(time.Duration(binary.BigEndian.Uint32(digest[16:])) * 10 * time.Millisecond)
	return crl.Entry{Serial: serial, Reason: 1, At: at, NotAfter: at.AddDate(1, 0, 0)}
}

// revokeAnother revokes one certificate more, somewhere among the others.
func (r *revocations) revokeAnother() {
	n := len(r.changes)
	among := int(uint64(n) * 7919 % uint64(max(len(r.entries), 1)))
	r.changes = append(r.changes, crl.Change{Position: uint64(n) + 1, Entry: revocation(2*among + 1)})
}

func (r *revocations) Revoked(context.Context, crl.Shard, time.Time) iter.Seq2[crl.Entry, error] {
	return func(yield func(crl.Entry, error) bool) {
		for _, e := range r.entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (r *revocations) Position(context.Context) (uint64, error) { return uint64(len(r.changes)), nil }

func (r *revocations) Changes(_ context.Context, _ crl.Shard, after uint64) iter.Seq2[crl.Change, error] {
	return func(yield func(crl.Change, error) bool) {
		for _, c := range r.changes[after:] {
			if !yield(c, nil) {
				return
			}
		}
	}
}

func (r *revocations) Latest(_ context.Context, _ crl.Shard, have uint64) (crl.Signed, error) {
	if r.newest.Number == 0 {
		return crl.Signed{}, crl.ErrNotPublished
	}
	s := r.newest
	if s.Number == have {
		s.DER = nil
	}
	return s, nil
}

func (r *revocations) Replace(_ context.Context, _, next crl.Signed) error {
	r.newest = next
	return nil
}
