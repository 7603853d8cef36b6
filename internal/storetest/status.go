package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
)

var statusTests = map[string]func(*testing.T, *store){
	"LatestAndReplace":       testReplace,
	"LatestOfEachShard":      testShardsOfLists,
	"LatestThatTheCallerHas": testLatestHave,
	"LatestWhileReplacing":   testLatestWhileReplacing,
	"ReplaceHasOneWinner":    testReplaceWinner,
	"RevokedInOrder":         testRevoked,
	"RevokedWhileRevoking":   testRevokedWhileRevoking,
	"RevokedWithASlowReader": testRevokedSlow,
	"RevokedEndsWithContext": testRevokedEnded,
}

func signed(issuer string, number uint64) crl.Signed {
	return crl.Signed{
		Shard: crl.Shard{Issuer: issuer}, Number: number,
		ThisUpdate: start.Add(time.Duration(number) * time.Second), NextUpdate: start.Add(time.Hour), DER: crl.DER{noise(20_000)},
	}
}

func testReplace(t *testing.T, s *store) {
	ctx := t.Context()
	first, second, other := signed(issuerID, 1<<62), signed(issuerID, 1<<62+1), signed("other", 3)
	if _, err := s.Latest(ctx, first.Shard, 0); !errors.Is(err, crl.ErrNotPublished) {
		t.Fatalf("Latest = %v, want ErrNotPublished", err)
	}
	if err := s.Replace(ctx, first, second); !errors.Is(err, crl.ErrConflict) {
		t.Errorf("Replace of what is not there = %v, want ErrConflict", err)
	}
	for _, step := range []struct {
		prev, next, latest crl.Signed
		want               error
	}{
		{crl.Signed{}, first, first, nil},
		{crl.Signed{}, second, first, crl.ErrConflict},
		{crl.Signed{}, other, first, nil}, // a shard of its own
		{first, second, second, nil},
		{first, signed(issuerID, 1<<62+2), second, crl.ErrConflict},
	} {
		if err := s.Replace(ctx, step.prev, step.next); !errors.Is(err, step.want) {
			t.Errorf("Replace(%d, %d) = %v, want %v", step.prev.Number, step.next.Number, err, step.want)
		}
		if got, err := s.Latest(ctx, first.Shard, 0); err != nil || !reflect.DeepEqual(got, step.latest) {
			t.Errorf("Latest = number %d, %v; want number %d", got.Number, err, step.latest.Number)
		}
	}
	s.reopen(t)
	for _, want := range []crl.Signed{second, other} {
		if got, err := s.Latest(ctx, want.Shard, 0); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("after reopening, Latest = number %d, %v; want %d", got.Number, err, want.Number)
		}
	}
}

func testReplaceWinner(t *testing.T, s *store) {
	prev := crl.Signed{}
	for round := range uint64(3) {
		errs := together(2, func(i int) error {
			return s.Replace(t.Context(), prev, signed(issuerID, 10*(round+1)+uint64(i)))
		})
		won := winner(t, errs, func(err error) bool { return errors.Is(err, crl.ErrConflict) })
		var err error
		if prev, err = s.Latest(t.Context(), crl.Shard{Issuer: issuerID}, 0); err != nil || prev.Number != 10*(round+1)+uint64(won) {
			t.Fatalf("Latest = number %d, %v; publisher %d won", prev.Number, err, won)
		}
	}
}

// testShardsOfLists: the shards of an issuer, and issuers whose ids start alike, have lists of their own.
func testShardsOfLists(t *testing.T, s *store) {
	var all []crl.Signed
	for i, shard := range []crl.Shard{{Issuer: issuerID}, {Issuer: issuerID, Number: 1}, {Issuer: issuerID, Number: 1 << 31}, {Issuer: issuerID + "-1"}, {Issuer: "An Issuer/.."}} {
		list := signed(shard.Issuer, uint64(10+i))
		list.Shard = shard
		if err := s.Replace(t.Context(), crl.Signed{}, list); err != nil {
			t.Fatalf("Replace of the first list of %v: %v", shard, err)
		}
		all = append(all, list)
	}
	for range 2 {
		for _, want := range all {
			checkLatest(t, s, want, 0)
		}
		s.reopen(t)
	}
}

// testLatestHave: whoever has the newest list's text is not given it again.
func testLatestHave(t *testing.T, s *store) {
	first, second := signed(issuerID, 1), signed(issuerID, 2)
	if err := s.Replace(t.Context(), crl.Signed{}, first); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		without := first
		without.DER = nil
		checkLatest(t, s, without, 1)
		checkLatest(t, s, first, 99)
		s.reopen(t)
	}
	if err := s.Replace(t.Context(), first, second); err != nil {
		t.Fatal(err)
	}
	checkLatest(t, s, second, 1)
}

func checkLatest(t *testing.T, s *store, want crl.Signed, have uint64) {
	t.Helper()
	got, err := s.Latest(t.Context(), want.Shard, have)
	same := got.DER.Equal(want.DER)
	got.DER, want.DER = nil, nil
	if err != nil || !same || !reflect.DeepEqual(got, want) {
		t.Errorf("Latest(%v, %d) = %+v, %v, the text wanted: %t; want %+v", want.Shard, have, got, err, same, want)
	}
}

// testLatestWhileReplacing: who reads at any moment gets a list as it was published, with its text.
func testLatestWhileReplacing(t *testing.T, s *store) {
	var lists []crl.Signed
	for n := range uint64(30) {
		lists = append(lists, signed(issuerID, n+1))
	}
	if err := s.Replace(t.Context(), crl.Signed{}, lists[0]); err != nil {
		t.Fatal(err)
	}
	errs := together(3, func(i int) error {
		for k := 1; i == 0 && k < len(lists); k++ {
			if err := s.Replace(t.Context(), lists[k-1], lists[k]); err != nil {
				return err
			}
		}
		for last := uint64(0); i > 0 && last < uint64(len(lists)); {
			got, err := s.Latest(t.Context(), crl.Shard{Issuer: issuerID}, 0)
			if err != nil {
				return err
			}
			if got.Number < last || !got.DER.Equal(lists[got.Number-1].DER) {
				return fmt.Errorf("after list %d, list %d with %d octets of another text", last, got.Number, got.DER.Len())
			}
			last = got.Number
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// revocations reads all that Revoked yields for a shard.
func revocations(t *testing.T, s *store, shard crl.Shard, notBefore time.Time) []crl.Entry {
	t.Helper()
	out, err := entries(s.Revoked(t.Context(), shard, notBefore))
	if err != nil {
		t.Fatalf("Revoked: %v", err)
	}
	return out
}

func bySerial(a, b crl.Entry) int { return bytes.Compare(a.Serial, b.Serial) }

func entries(revoked iter.Seq2[crl.Entry, error]) ([]crl.Entry, error) {
	var all []crl.Entry
	for e, err := range revoked {
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

func testRevoked(t *testing.T, s *store) {
	if got := revocations(t, s, crl.Shard{Issuer: issuerID}, time.Time{}); len(got) != 0 {
		t.Fatalf("Revoked of an empty store = %v", got)
	}
	var want []crl.Entry
	for i := range 12 {
		r := record("alice", time.Duration(-i)*time.Second, func(r *ca.Record) { r.NotAfter = start.Add(time.Duration(i) * time.Hour) })
		if i == 4 {
			r.Issuer = issuerID + "0" // another one, whose id starts alike
		}
		if i == 8 {
			r.Shard = 1
		}
		insert(t, s, r)
		rev := ca.Revocation{Reason: ca.Reason(i % 7), At: start.Add(time.Duration(i) * time.Millisecond)} // 6 is a hold
		if i == 5 {
			continue // not revoked
		}
		revoke(t, s, r.Serial, &rev)
		if i == 7 {
			revoke(t, s, r.Serial, nil) // and released
		}
		if i == 4 || i == 7 || i == 8 {
			continue
		}
		want = append(want, crl.Entry{Serial: r.Serial[:], Reason: int(rev.Reason), At: rev.At, NotAfter: r.NotAfter})
	}
	slices.SortFunc(want, bySerial)
	for range 2 {
		for _, notBefore := range []time.Time{{}, start.Add(3 * time.Hour), start.Add(3*time.Hour + time.Millisecond), start.Add(99 * time.Hour)} {
			var some []crl.Entry
			for _, e := range want {
				if !e.NotAfter.Before(notBefore) {
					some = append(some, e)
				}
			}
			if got := revocations(t, s, crl.Shard{Issuer: issuerID}, notBefore); !reflect.DeepEqual(got, some) {
				t.Errorf("Revoked(%s) = %v, want %v", notBefore, got, some)
			}
		}
		s.reopen(t)
	}
	if got := revocations(t, s, crl.Shard{Issuer: "unknown"}, time.Time{}); len(got) != 0 {
		t.Errorf("Revoked of an unknown issuer = %v", got)
	}
}

// testRevokedWhileRevoking checks the promise that a CRL rests on: what was acknowledged before is seen.
func testRevokedWhileRevoking(t *testing.T, s *store) {
	errs := together(6, func(i int) error {
		for k := range 4 {
			r := record(subject(i), time.Duration(k)*time.Second)
			if err := s.Insert(t.Context(), r, nil, event(audit.Issue, "x")); err != nil {
				return err
			}
			if _, err := s.Decide(t.Context(), r.Serial, func(*ca.Record) (*ca.Revocation, audit.Event, error) {
				return &ca.Revocation{At: start}, event(audit.Revoke, "x"), nil
			}); err != nil {
				return err
			}
			seen, err := entries(s.Revoked(t.Context(), crl.Shard{Issuer: issuerID}, start))
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(seen, func(e crl.Entry) bool { return bytes.Equal(e.Serial, r.Serial[:]) }) {
				return errors.New("a revocation that was acknowledged is not seen")
			}
			if !slices.IsSortedFunc(seen, bySerial) {
				return errors.New("not in the order of serials")
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// testRevokedSlow checks that the reader of a sequence may write, and take its time, before it goes on.
func testRevokedSlow(t *testing.T, s *store) {
	for i := range 3 {
		r := record("alice", time.Duration(i)*time.Second)
		insert(t, s, r)
		revoke(t, s, r.Serial, &ca.Revocation{At: start})
	}
	n := 0
	for _, err := range s.Revoked(t.Context(), crl.Shard{Issuer: issuerID}, start) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n <= 3 {
			insert(t, s, record("bob", -time.Hour))
		}
	}
	if n != 3 {
		t.Fatalf("Revoked yielded %d entries, want 3", n)
	}
}

func testRevokedEnded(t *testing.T, s *store) {
	r := record("alice", 0)
	insert(t, s, r)
	revoke(t, s, r.Serial, &ca.Revocation{At: start})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := 0
	for _, err := range s.Revoked(ctx, crl.Shard{Issuer: issuerID}, start) {
		if n++; !errors.Is(err, context.Canceled) {
			t.Errorf("Revoked yielded %v, want context.Canceled", err)
		}
	}
	if n != 1 {
		t.Errorf("Revoked yielded %d times; an error is yielded once and ends it", n)
	}
}
