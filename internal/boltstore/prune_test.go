package boltstore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
)

// drop deletes certificates as Prune does.
func drop(t *testing.T, s *Store, recs []*ca.Record) {
	t.Helper()
	err := s.update(t.Context(), func(tx *tx) error {
		var gone []ca.Serial
		for _, r := range recs {
			gone = append(gone, r.Serial)
			if err := tx.delete(certificates, r.Serial[:]); err != nil {
				return err
			}
		}
		return tx.thinBlocks(gone)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.sound.Clear()
}

// room returns the octets of all blocks, and their number.
func room(t *testing.T, s *Store) (octets, number int) {
	t.Helper()
	err := s.view(t.Context(), func(tx *tx) error {
		return tx.b.Bucket(blocks.name).ForEach(func(_, v []byte) error {
			octets, number = octets+len(v), number+1
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return octets, number
}

// TestThinnedBlocks drops certificates of two blocks, whose serials overlap, in some steps, and looks for the others.
func TestThinnedBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	var recs []*ca.Record
	for range 2 {
		some := many(4000, 50)
		insertMany(t, s, some...)
		endBlock(t, s)
		recs = append(recs, some...)
	}
	some := many(100, 50)
	insertMany(t, s, some...)
	recs = append(recs, some...)
	rand.Shuffle(len(recs), func(i, j int) { recs[i], recs[j] = recs[j], recs[i] })
	full, _ := room(t, s)
	for left := len(recs) * 9 / 10; left > 100; left /= 3 {
		drop(t, s, recs[left:])
		recs = recs[:left]
		checkFound(t, s, recs)
		if octets, _ := room(t, s); octets > 3*left*entryLen {
			t.Errorf("%d certificates are left, and blocks of %d octets, of %d", left, octets, full)
		}
		closeStore(t, s)
		s = openTest(t, path)
	}
	drop(t, s, recs)
	if octets, number := room(t, s); number != 0 {
		t.Errorf("no certificate is left, and %d blocks of %d octets", number, octets)
	}
	closeStore(t, s)
	s = openTest(t, path)
	if at := s.newest.Load().block; at != 2 {
		t.Errorf("the next block has number %d, want 2: a reader may still ask for an earlier one", at)
	}
	more := many(100, 10)
	insertMany(t, s, more...)
	checkFound(t, s, more)
}

// endBlock ends the block that is being filled.
func endBlock(t *testing.T, s *Store) {
	t.Helper()
	err := s.update(t.Context(), func(tx *tx) error {
		tx.endBlock = true
		return tx.put(meta, probeKey, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDamagedBlockIsTold: a bit that changed would hide certificates from searches.
func TestDamagedBlockIsTold(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	recs := many(100, 1)
	insertMany(t, s, recs...)
	endBlock(t, s)
	checkFound(t, s, recs)
	for at := range 100 * entryLen {
		if at%61 != 0 {
			continue
		}
		change := func(tx *tx) error {
			v := bytes.Clone(tx.get(blocks, ordered(0)))
			v[at] ^= 4
			return tx.put(blocks, ordered(0), v)
		}
		if err := s.update(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		s.sound.Clear() // as after an opening
		if _, err := s.List(t.Context(), ca.Query{ClientID: recs[0].ClientID, Limit: 1000}); !errors.Is(err, errDamaged) {
			t.Fatalf("octet %d: List = %v, want that the block is damaged", at, err)
		}
		if err := s.update(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	s.sound.Clear()
	checkFound(t, s, recs)
}

// TestStoreDoesNotGrow: a store that issues, revokes, publishes and prunes for ever stays as large as it was after the
// first rounds, and the audit log does not grow if it is archived.
func TestStoreDoesNotGrow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	keep := ca.Retention{Certificates: time.Hour, Invitations: time.Hour}
	now := time.Now().UTC().Truncate(time.Second)
	var list crl.Signed
	var early int64
	const rounds, each = 40, 150
	for round := range rounds {
		now = now.Add(25 * time.Hour)
		var wg sync.WaitGroup
		for i := range each {
			wg.Go(func() { issueAndRevoke(t, s, now, round*each+i) })
		}
		wg.Wait()
		next := newList(uint64(round + 1))
		next.ThisUpdate, next.NextUpdate = now, now.Add(time.Hour)
		replace(t, s, list, next)
		list = next
		for {
			n, err := s.Prune(t.Context(), now, keep, 100)
			if err != nil {
				t.Fatal(err)
			}
			if n.Total() < 100 {
				break
			}
		}
		head, err := s.AuditHead(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.DropAudit(t.Context(), head, 1<<20); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if round == 7 {
			early = info.Size()
		}
		if round > 7 && info.Size() > 2*early { // it grows in steps of twice the size
			t.Fatalf("round %d: %d octets, %d after the first eight", round, info.Size(), early)
		}
	}
	page, err := s.List(t.Context(), ca.Query{Limit: 1000})
	if err != nil || len(page.Records) < each || len(page.Records) > 3*each {
		t.Errorf("%d certificates are left, %v; want those of the last rounds", len(page.Records), err)
	}
}

// issueAndRevoke makes a certificate of a day that is valid from an instant, and revokes every fourth.
func issueAndRevoke(t *testing.T, s *Store, now time.Time, i int) {
	r := newRecord(fmt.Sprint("client-", i%10))
	r.NotBefore, r.NotAfter, r.IssuedAt = now, now.Add(24*time.Hour), now
	r.Thumbprint = thumbprint.OfDER(r.DER)
	err := s.Insert(t.Context(), r, nil, event(r.Serial.String()))
	if err == nil && i%4 == 0 {
		_, err = s.Decide(t.Context(), r.Serial, func(*ca.Record) (*ca.Revocation, audit.Event, error) {
			return &ca.Revocation{Reason: ca.Superseded, At: now}, event("revoked"), nil
		})
	}
	if err == nil {
		var key [32]byte
		key[0], key[1] = byte(i), byte(i>>8)
		err = s.Use(t.Context(), key, now.Add(time.Minute))
	}
	if err != nil && !strings.Contains(err.Error(), "replay") {
		t.Error(err)
	}
}

// TestFilesOfDroppedCRLs: the text of a list that is dropped goes with it, and one that a crash left at the opening.
func TestFilesOfDroppedCRLs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	now := time.Now().UTC().Truncate(time.Second)
	for n := range uint32(2) {
		r := newRecord("alice")
		r.Issuer, r.Shard = testShard.Issuer, n
		r.NotAfter = now.Add(time.Duration(n) * 1000 * time.Hour)
		r.Thumbprint = thumbprint.OfDER(r.DER)
		if err := s.Insert(t.Context(), r, nil, event("x")); err != nil {
			t.Fatal(err)
		}
		l := newList(1)
		l.Shard.Number = n
		replace(t, s, crl.Signed{}, l)
	}
	closeStore(t, s) // writes the files
	first, second := s.texts.path(testShard), s.texts.path(crl.Shard{Issuer: testShard.Issuer, Number: 1})
	left, unfinished := filepath.Join(path+".crl", "left.crl"), second+".new"
	for _, file := range []string{left, unfinished} {
		copyFile(t, first, file)
	}
	s = openTest(t, path)
	exist := func(file string, want bool) {
		t.Helper()
		if _, err := os.Stat(file); (err == nil) != want {
			t.Errorf("%s: %v; want it: %t", file, err, want)
		}
	}
	exist(first, true)
	exist(second, true)
	exist(left, false)
	exist(unfinished, false)
	n, err := s.Prune(t.Context(), now.Add(100*time.Hour), ca.Retention{Certificates: time.Hour}, 10)
	if err != nil || n != (ca.Pruned{Certificates: 1, Shards: 1}) {
		t.Fatalf("Prune = %+v, %v", n, err)
	}
	exist(first, false)
	exist(second, true)
}

// TestUnreadableAuditEntry: one entry that is damaged does not hide the others.
func TestUnreadableAuditEntry(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	for i := range 5 {
		if err := s.Record(t.Context(), event(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string][]byte{"cut": make([]byte, 40), "shorter than a hash": {1}, "empty": {}} {
		if err := s.update(t.Context(), func(tx *tx) error { return tx.put(log, ordered(3), value) }); err != nil {
			t.Fatal(err)
		}
		all, err := s.Audit(t.Context(), 0, 10)
		if err != nil || len(all) != 5 {
			t.Fatalf("%s: Audit = %d entries, %v", name, len(all), err)
		}
		v, err := audit.NewVerifier(audit.Head{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if err = v.Add(e); err != nil {
				break
			}
		}
		var broken *audit.BrokenError
		if !errors.As(err, &broken) || broken.Seq != 3 {
			t.Errorf("%s: %v, want that entry 3 is broken", name, err)
		}
	}
}
