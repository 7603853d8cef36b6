package pgstore_test

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/pgtest"
)

// BenchmarkUse uses up DPoP proofs, of 32 callers at once.
func BenchmarkUse(b *testing.B) {
	s := open(b, pgtest.Database(b))
	until := time.Now().Add(time.Minute)
	b.SetParallelism(16) // for each of GOMAXPROCS
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			var key [32]byte
			rand.Read(key[:])
			if err := s.Use(b.Context(), key, until); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkReplace publishes lists of 50 MB that differ in one revocation, and has another node read each.
func BenchmarkReplace(b *testing.B) {
	url := pgtest.Database(b)
	here, there := open(b, url), open(b, url)
	list := crl.Signed{Shard: shardOfTests, Number: 1, NextUpdate: time.Now().Add(time.Hour)}
	for range 400 {
		list.DER = append(list.DER, noise(128<<10))
	}
	if err := here.Replace(b.Context(), crl.Signed{}, list); err != nil {
		b.Fatal(err)
	}
	if _, err := there.Latest(b.Context(), list.Shard, 0); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		next := list
		next.Number++
		next.DER = append(crl.DER{}, list.DER...)
		next.DER[0], next.DER[next.Number%398+1], next.DER[399] = noise(600), noise(128<<10), noise(300)
		if err := here.Replace(b.Context(), list, next); err != nil {
			b.Fatal(err)
		}
		if got, err := there.Latest(b.Context(), list.Shard, list.Number); err != nil || got.Number != next.Number || len(got.DER) != 400 {
			b.Fatal(got.Number, len(got.DER), err)
		}
		list = next
	}
}
