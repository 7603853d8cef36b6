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

// A whole round but for the store: writing the list, signing it with the issuing key, checking the signature,
// and reading the list back. The floor is SHA-256 over the list and one signature.
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
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Publish(b.Context(), shard); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprint(n, "/floor"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				digest := sha256.Sum256(store.newest.DER.Bytes())
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
	newest  crl.Signed
}

// revocationsOf returns n of them, with serial numbers as this CA gives them.
func revocationsOf(n int) *revocations {
	r := &revocations{entries: make([]crl.Entry, n)}
	for i := range r.entries {
		serial := make([]byte, 16)
		binary.BigEndian.PutUint64(serial, 0x0190_0000_0000_0000+uint64(i)<<20)
		digest := sha256.Sum256(serial)
		copy(serial[6:], digest[:])
		at := start.Add(time.Duration(binary.BigEndian.Uint32(digest[16:])) * 10 * time.Millisecond)
		r.entries[i] = crl.Entry{Serial: serial, Reason: 1, At: at, NotAfter: at.AddDate(1, 0, 0)}
	}
	return r
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

func (r *revocations) Position(context.Context) (uint64, error) { return 0, nil }

func (r *revocations) Changes(context.Context, crl.Shard, uint64) iter.Seq2[crl.Change, error] {
	return func(func(crl.Change, error) bool) {}
}

func (r *revocations) Latest(context.Context, crl.Shard, uint64) (crl.Signed, error) {
	if r.newest.Number == 0 {
		return crl.Signed{}, crl.ErrNotPublished
	}
	return r.newest, nil
}

func (r *revocations) Replace(_ context.Context, _, next crl.Signed) error {
	r.newest = next
	return nil
}
