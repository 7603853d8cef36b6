package boltstore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/thumbprint"
)

// insertMany inserts records in a few transactions.
func insertMany(t *testing.T, s *Store, recs ...*ca.Record) {
	t.Helper()
	for some := range slices.Chunk(recs, 1000) {
		err := s.update(t.Context(), func(tx *tx) error {
			for _, r := range some {
				v, err := tx.encode(r)
				if err != nil {
					return err
				}
				tx.added = append(tx.added, indexed{r.Serial, thumbHash(r.Thumbprint), clientHash(r.ClientID)})
				if err := errors.Join(tx.put(certificates, r.Serial[:], v), tx.sealWith(event(r.Serial.String()), &r.Serial)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// many returns n records of some clients, with serials in a random order.
func many(n, clients int) []*ca.Record {
	var out []*ca.Record
	for i := range n {
		r := newRecord(fmt.Sprint("client-", i%clients))
		r.DER = append(bytes.Repeat([]byte("pattern"), 5), r.DER[:30]...)
		r.Thumbprint = thumbprint.OfDER(r.DER)
		r.Serial[5] = byte(rand.IntN(256))
		out = append(out, r)
	}
	return out
}

// found lists all that q selects, by pages, which must be in order.
func found(t *testing.T, s *Store, q ca.Query) []ca.Serial {
	t.Helper()
	var out []ca.Serial
	for q.Limit = 7; ; {
		page, err := s.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Records {
			if len(out) > 0 && compareSerials(out[len(out)-1], r.Serial) <= 0 {
				t.Fatalf("%s comes after %s", r.Serial, out[len(out)-1])
			}
			out = append(out, r.Serial)
		}
		if page.Next == "" {
			return out
		}
		q.Cursor = page.Next
	}
}

func compareSerials(a, b ca.Serial) int { return bytes.Compare(a[:], b[:]) }

// checkFound checks that each client's certificates are found, and some by their thumbprints.
func checkFound(t *testing.T, s *Store, recs []*ca.Record) {
	t.Helper()
	byClient := map[string][]ca.Serial{}
	for i, r := range recs {
		byClient[r.ClientID] = append(byClient[r.ClientID], r.Serial)
		if i%97 == 0 || i == len(recs)-1 {
			if got := found(t, s, ca.Query{Thumbprint: r.Thumbprint}); !slices.Equal(got, []ca.Serial{r.Serial}) {
				t.Errorf("by the thumbprint of %s: %s", r.Serial, got)
			}
		}
	}
	for id, want := range byClient {
		slices.SortFunc(want, func(a, b ca.Serial) int { return compareSerials(b, a) })
		if got := found(t, s, ca.Query{ClientID: id}); !slices.Equal(got, want) {
			t.Errorf("client %s: %d certificates, want %d", id, len(got), len(want))
		}
	}
}

// TestBlocks fills two blocks and a part of the third, whose serials overlap, and looks for all of it, in the store as
// it is and opened again.
func TestBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	recs := many(2*blockSize+3000, 5000)
	insertMany(t, s, recs...)
	if at := s.newest.Load(); at.block != 2 || len(at.entries) == 0 {
		t.Fatalf("%d blocks and %d certificates in none, want 2 and some", at.block, len(at.entries))
	}
	checkFound(t, s, recs)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, path)
	checkFound(t, s, recs)
	more := many(100, 10)
	insertMany(t, s, more...)
	checkFound(t, s, append(recs, more...))
}

// TestReaderAcrossTheEndOfABlock: who took the newest certificates before a block ended, and its snapshot after, finds
// them all the same.
func TestReaderAcrossTheEndOfABlock(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	recs := many(blockSize-1, 5000)
	insertMany(t, s, recs...)
	before := s.newest.Load()
	more := many(10, 10)
	insertMany(t, s, more...)
	if s.newest.Load().block != 1 {
		t.Fatal("the block has not ended")
	}
	err := s.view(t.Context(), func(tx *tx) error {
		tx.newest = before
		for _, r := range append(recs[:100:100], more...) {
			n := 0
			for serial, err := range tx.hashed(byThumb, thumbHash(r.Thumbprint), ca.Serial{}, noSerial) {
				if err != nil {
					return err
				}
				if serial == r.Serial {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s is found %d times", r.Serial, n)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFailedInsertIsNotIndexed: what was rolled back is not in memory either.
func TestFailedInsertIsNotIndexed(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	good, bad := newRecord("good"), newRecord("bad")
	insertMany(t, s, good)
	failure := errors.New("refused")
	err := s.update(t.Context(), func(tx *tx) error {
		tx.added = append(tx.added, indexed{serial: bad.Serial, thumb: thumbHash(bad.Thumbprint)})
		_, err := tx.encode(&ca.Record{Issuer: "other", Profile: "other", DER: []byte("der")})
		return errors.Join(err, failure)
	})
	if !errors.Is(err, failure) {
		t.Fatal(err)
	}
	if n := len(s.newest.Load().entries); n != 1 {
		t.Errorf("%d certificates are indexed, want 1", n)
	}
	if n := len(s.patterns.Load().byID); n != 1 {
		t.Errorf("there are %d patterns, want 1", n)
	}
	checkFound(t, s, []*ca.Record{good})
}

// TestPatternThatWasRolledBack: the first certificate of a kind makes its pattern again if its transaction has to be
// repeated.
func TestPatternThatWasRolledBack(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	first, other := many(1, 1)[0], many(1, 1)[0]
	other.Profile = "server"
	failure := errors.New("refused")
	errs := batch(t, s, insertion(t, s, first), func() error {
		return s.update(t.Context(), func(tx *tx) error {
			return errors.Join(tx.put(clients, []byte("half"), []byte("written")), failure)
		})
	})
	if errs[0] != nil || !errors.Is(errs[1], failure) {
		t.Fatal(errs)
	}
	insertMany(t, s, other, many(1, 1)[0])
	for _, want := range []*ca.Record{first, other} {
		if got, err := s.Certificate(t.Context(), want.Serial); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Certificate = %+v, %v; want %+v", got, err, want)
		}
	}
}

// TestOpeningReadsABoundedPartOfTheLog: a block ends, be it empty, after so many audit entries.
func TestOpeningReadsABoundedPartOfTheLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	first, second := newRecord("alice"), newRecord("alice")
	for i, r := range []*ca.Record{first, nil, second} {
		if r != nil {
			insertMany(t, s, r)
		}
		err := s.update(t.Context(), func(tx *tx) error {
			for range maxUnread {
				if err := tx.seal(event("x")); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(s.newest.Load().entries); n != 0 {
			t.Errorf("step %d: %d certificates are in no block", i, n)
		}
	}
	if n := s.newest.Load().block; n != 2 {
		t.Errorf("there are %d blocks, want 2", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	checkFound(t, openTest(t, path), []*ca.Record{first, second})
}

// TestHashesThatStartAlike: the index has the start of a hash only, and the record decides.
func TestHashesThatStartAlike(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	a, b := newRecord("alice"), newRecord("bob")
	insertMany(t, s, a, b)
	now := *s.newest.Load()
	now.entries = slices.Clone(now.entries)
	for i := range now.entries { // as if they did
		now.entries[i].thumb, now.entries[i].client = thumbHash(a.Thumbprint), clientHash("alice")
	}
	s.newest.Store(&now)
	checkFound(t, s, []*ca.Record{a})
	if got := found(t, s, ca.Query{ClientID: "alice", Thumbprint: b.Thumbprint}); got != nil {
		t.Errorf("found %s", got)
	}
}

// FuzzBlock: a block gives back what was put in, by either hash, and a damaged one does no harm.
func FuzzBlock(f *testing.F) {
	f.Add([]byte("0123456789abcdefAAAABBBB0123456789abcdegAAAACCCC"), uint32(0x41414141))
	f.Add(bytes.Repeat([]byte{0xff}, 24*40), uint32(0xffffffff))
	f.Add(make([]byte, 24*40), uint32(0))
	f.Fuzz(func(t *testing.T, octets []byte, hash uint32) {
		var entries []indexed
		for some := range slices.Chunk(octets, 24) {
			if len(some) == 24 && len(entries) < 1<<16 {
				entries = append(entries, indexed{ca.Serial(some), byThumb.of(some), byClient.of(some)})
			}
		}
		block := encodeBlock(entries)
		for _, key := range []by{byThumb, byClient} {
			for _, h := range append([]uint32{hash}, hashes(entries, key)...) {
				var want []ca.Serial
				for _, e := range entries {
					if e.hash(key) == h {
						want = append(want, e.serial)
					}
				}
				got, err := appendMatches(nil, block, key, h)
				if len(entries) > 0 && (err != nil || !slices.Equal(got, want)) {
					t.Fatalf("%08x: found %s, %v; want %s", h, got, err, want)
				}
			}
			_, _ = appendMatches(nil, octets, key, hash) // must not panic
		}
	})
}

// of takes a hash from the end of 24 octets.
func (key by) of(b []byte) uint32 { return clientHash(string(b[16+4*key:][:4])) }

func hashes(entries []indexed, key by) []uint32 {
	var out []uint32
	for _, e := range entries[:min(len(entries), 50)] {
		out = append(out, e.hash(key))
	}
	return out
}

// BenchmarkMillion looks for one certificate among a million, through every block, reads it, and opens the store.
func BenchmarkMillion(b *testing.B) {
	path := filepath.Join(b.TempDir(), "pkid.db")
	s := openTest(b, path)
	fill(b, s, 1024, 1_000_000)
	first, err := s.List(b.Context(), ca.Query{ClientID: "client-1", Limit: 1})
	if err != nil || len(first.Records) != 1 {
		b.Fatal(err)
	}
	for name, q := range map[string]ca.Query{
		"by thumbprint": {Thumbprint: first.Records[0].Thumbprint},
		"by client":     {ClientID: "client-1"},
	} {
		q.Limit = 10
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if page, err := s.List(b.Context(), q); err != nil || len(page.Records) != 1 {
					b.Fatal(page, err)
				}
			}
		})
	}
	b.Run("by serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Certificate(b.Context(), first.Records[0].Serial); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("revoked thumbprint", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if revoked, err := s.RevokedThumbprint(b.Context(), first.Records[0].Thumbprint); err != nil || revoked {
				b.Fatal(revoked, err)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			if s, err = Open(path, Options{}); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		report(b, s, 1_000_000)
	})
}
