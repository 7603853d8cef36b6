package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
)

var changeTests = map[string]func(*testing.T, *store){
	"ChangesInOrder":          testChanges,
	"ChangesOfEachShard":      testChangesOfShards,
	"ChangesWhileRevoking":    testChangesWhileRevoking,
	"ChangesWithASlowReader":  testChangesSlow,
	"ChangesEndWithContext":   testChangesEnded,
	"ChangesOfWhatWasRefused": testChangesRefused,
}

func position(t *testing.T, s *store) uint64 {
	t.Helper()
	at, err := s.Position(t.Context())
	if err != nil {
		t.Fatalf("Position: %v", err)
	}
	return at
}

// changes reads all that Changes yields, and checks that positions grow.
func changes(t *testing.T, s *store, shard crl.Shard, after uint64) []crl.Change {
	t.Helper()
	var all []crl.Change
	last := after
	for c, err := range s.Changes(t.Context(), shard, after) {
		if err != nil {
			t.Fatalf("Changes: %v", err)
		}
		if c.Position <= last {
			t.Fatalf("position %d comes after %d", c.Position, last)
		}
		last = c.Position
		all = append(all, c)
	}
	return all
}

// testChanges revokes, holds and releases, and reads the log from each of its positions.
func testChanges(t *testing.T, s *store) {
	if at := position(t, s); at != 0 {
		t.Fatalf("Position of an empty store = %d", at)
	}
	shard := crl.Shard{Issuer: issuerID}
	var want []crl.Change
	for i := range 4 {
		r := record("alice", time.Duration(-i)*time.Second)
		insert(t, s, r)
		revs := []*ca.Revocation{{Reason: ca.KeyCompromise, At: start.Add(time.Duration(i) * time.Millisecond)}}
		if i%2 == 1 {
			hold := ca.Revocation{Reason: ca.CertificateHold, At: start.Add(time.Millisecond)}
			revs = []*ca.Revocation{&hold, nil, &hold, revs[0]} // held, released, held again, revoked
		}
		for _, rev := range revs {
			before := position(t, s)
			revoke(t, s, r.Serial, rev)
			at := position(t, s)
			if at <= before {
				t.Fatalf("Position = %d after a change, %d before it", at, before)
			}
			c := crl.Change{Position: at, Released: rev == nil, Entry: crl.Entry{Serial: r.Serial[:], NotAfter: r.NotAfter}}
			if rev == nil {
				rev = &ca.Revocation{Reason: ca.RemoveFromCRL, At: start} // the event's instant
			}
			c.Reason, c.At = int(rev.Reason), rev.At
			want = append(want, c)
		}
	}
	for range 2 {
		if got := changes(t, s, shard, 0); !reflect.DeepEqual(got, want) {
			t.Errorf("Changes = %v, want %v", got, want)
		}
		for i, c := range want {
			if got := changes(t, s, shard, c.Position); len(got)+len(want[i+1:]) > 0 && !reflect.DeepEqual(got, want[i+1:]) {
				t.Errorf("Changes after %d = %v, want %v", c.Position, got, want[i+1:])
			}
		}
		s.reopen(t)
		if at := position(t, s); at != want[len(want)-1].Position {
			t.Errorf("Position = %d after reopening, want %d", at, want[len(want)-1].Position)
		}
	}
	for _, after := range []uint64{want[len(want)-1].Position + 1, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
		if got := changes(t, s, shard, after); len(got) != 0 {
			t.Errorf("Changes after %d, which is the future: %v", after, got)
		}
	}
}

// testChangesOfShards: positions are those of one log, of which each shard sees its own.
func testChangesOfShards(t *testing.T, s *store) {
	shards := []crl.Shard{{Issuer: issuerID}, {Issuer: issuerID, Number: 1}, {Issuer: issuerID, Number: 256}, {Issuer: issuerID + "0"}}
	want := map[crl.Shard][]uint64{}
	for i := range 12 {
		shard := shards[i*5%len(shards)]
		r := record("alice", 0, func(r *ca.Record) { r.Issuer, r.Shard = shard.Issuer, shard.Number })
		insert(t, s, r)
		revoke(t, s, r.Serial, &ca.Revocation{At: start})
		want[shard] = append(want[shard], position(t, s))
	}
	for _, shard := range append(shards, crl.Shard{Issuer: issuerID, Number: 2}, crl.Shard{Issuer: "other"}) {
		var got []uint64
		for _, c := range changes(t, s, shard, 0) {
			got = append(got, c.Position)
		}
		if !slices.Equal(got, want[shard]) {
			t.Errorf("changes of %v are at %d, want %d", shard, got, want[shard])
		}
		if got := len(revocations(t, s, shard, start)); got != len(want[shard]) {
			t.Errorf("%v has %d revocations, want %d", shard, got, len(want[shard]))
		}
	}
}

// testChangesWhileRevoking checks what a CRL that is kept up to date rests on: a change that was acknowledged is at or
// before the position that is read afterwards, and whoever reads on from position to position misses none.
func testChangesWhileRevoking(t *testing.T, s *store) {
	shard := crl.Shard{Issuer: issuerID}
	const workers, rounds = 5, 6
	errs := together(workers+1, func(i int) error {
		if i == workers {
			return followChanges(t.Context(), s, shard, workers*rounds*2)
		}
		for k := range rounds {
			r := record(subject(i), time.Duration(k)*time.Second)
			if err := s.Insert(t.Context(), r, nil, event(audit.Issue, "x")); err != nil {
				return err
			}
			for _, rev := range []*ca.Revocation{{Reason: ca.CertificateHold, At: start}, nil} {
				if _, err := s.Decide(t.Context(), r.Serial, func(*ca.Record) (*ca.Revocation, audit.Event, error) {
					return rev, event(audit.Revoke, "x"), nil
				}); err != nil {
					return err
				}
				if err := lastChange(t.Context(), s, shard, r.Serial, rev == nil); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// lastChange checks that the newest change of a certificate, whose writer this is, is seen.
func lastChange(ctx context.Context, s *store, shard crl.Shard, serial ca.Serial, released bool) error {
	end, err := s.Position(ctx)
	if err != nil {
		return err
	}
	var last crl.Change
	for c, err := range s.Changes(ctx, shard, 0) {
		if err != nil {
			return err
		}
		if bytes.Equal(c.Serial, serial[:]) {
			last = c
		}
	}
	if last.Position == 0 || last.Position > end || last.Released != released {
		return fmt.Errorf("the newest change of %s is %+v; Position was %d, and it was released: %t", serial, last, end, released)
	}
	return nil
}

// followChanges reads on until it saw n changes.
func followChanges(ctx context.Context, s *store, shard crl.Shard, n int) error {
	seen := map[uint64]bool{}
	for after := uint64(0); len(seen) < n; {
		end, err := s.Position(ctx)
		if err != nil {
			return err
		}
		for c, err := range s.Changes(ctx, shard, after) {
			if err != nil {
				return err
			}
			seen[c.Position] = true
		}
		after = end
	}
	return nil
}

// testChangesSlow checks that the reader of a sequence may write before it goes on.
func testChangesSlow(t *testing.T, s *store) {
	rec := record("alice", 0)
	insert(t, s, rec)
	for range 3 {
		revoke(t, s, rec.Serial, &ca.Revocation{Reason: ca.CertificateHold, At: start})
	}
	n := 0
	for _, err := range s.Changes(t.Context(), crl.Shard{Issuer: issuerID}, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n <= 3 {
			revoke(t, s, rec.Serial, &ca.Revocation{Reason: ca.CertificateHold, At: start})
		}
	}
	if n < 3 || n > 6 {
		t.Errorf("Changes yielded %d, want those 3 that were there and maybe those that came meanwhile", n)
	}
}

func testChangesEnded(t *testing.T, s *store) {
	rec := record("alice", 0)
	insert(t, s, rec)
	revoke(t, s, rec.Serial, &ca.Revocation{At: start})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := 0
	for _, err := range s.Changes(ctx, crl.Shard{Issuer: issuerID}, 0) {
		if n++; !errors.Is(err, context.Canceled) {
			t.Errorf("Changes yielded %v, want context.Canceled", err)
		}
	}
	if n != 1 {
		t.Errorf("Changes yielded %d times; an error is yielded once and ends it", n)
	}
}

// testChangesRefused: a decision that was refused, and a release of what is not held, change nothing.
func testChangesRefused(t *testing.T, s *store) {
	rec := record("alice", 0)
	insert(t, s, rec)
	_, err := s.Decide(t.Context(), rec.Serial, func(*ca.Record) (*ca.Revocation, audit.Event, error) {
		return &ca.Revocation{At: start}, event(audit.Revoke, "x"), errors.New("refused")
	})
	if err == nil {
		t.Fatal("Decide lost its error")
	}
	revoke(t, s, rec.Serial, nil)
	if at, all := position(t, s), changes(t, s, crl.Shard{Issuer: issuerID}, 0); at != 0 || len(all) != 0 {
		t.Errorf("Position = %d, Changes = %v; want none", at, all)
	}
}
