package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
)

var pruneTests = map[string]func(*testing.T, *store){
	"PruneCertificates":              testPruneCertificates,
	"PruneAParent":                   testPruneParent,
	"PruneRevokedAfterOneMoreCRL":    testPruneRevoked,
	"PruneRevokedOfAShardThatIsOver": testPruneAbandoned,
	"PruneChanges":                   testPruneChanges,
	"PruneChangesOfNodesApart":       testPruneChangesApart,
	"PruneShards":                    testPruneShards,
	"PruneAgainstAModel":             testPruneModel,
}

var keep = ca.Retention{Certificates: 48 * time.Hour, Invitations: time.Hour}

func prune(t *testing.T, s *store, now time.Time, want ca.Pruned) {
	t.Helper()
	if got, err := s.Prune(t.Context(), now, keep, 100); got != want || err != nil {
		t.Fatalf("Prune(%s) = %+v, %v; want %+v", now.Sub(start), got, err, want)
	}
}

// expiring changes when a record ends.
func expiring(after time.Duration) func(*ca.Record) {
	return func(r *ca.Record) { r.NotAfter = r.IssuedAt.Add(after).Truncate(time.Second) }
}

func inShard(number uint32) func(*ca.Record) { return func(r *ca.Record) { r.Shard = number } }

// publish makes a list the newest of a shard.
func publish(t *testing.T, s *store, shard crl.Shard, at time.Time, lifetime time.Duration) {
	t.Helper()
	prev, err := s.Latest(t.Context(), shard, 0)
	if err != nil && !errors.Is(err, crl.ErrNotPublished) {
		t.Fatal(err)
	}
	next := crl.Signed{Shard: shard, Number: prev.Number + 1, ThisUpdate: at, NextUpdate: at.Add(lifetime), DER: crl.DER{noise(100)}}
	if err := s.Replace(t.Context(), prev, next); err != nil {
		t.Fatal(err)
	}
}

func checkGone(t *testing.T, s *store, r *ca.Record) {
	t.Helper()
	if _, err := s.Certificate(t.Context(), r.Serial); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("Certificate of what was pruned: %v, want ErrNotFound", err)
	}
	for _, q := range []ca.Query{
		{Limit: 100},
		{ClientID: r.ClientID, Limit: 100},
		{Thumbprint: r.Thumbprint, Limit: 100},
		{ExpiresAfter: r.NotAfter.Add(-time.Second), ExpiresBefore: r.NotAfter.Add(time.Second), Limit: 100},
		{Status: ca.Revoked, Now: start, Limit: 100},
	} {
		for _, got := range list(t, s, q) {
			if got.Serial == r.Serial {
				t.Errorf("List(%+v) has what was pruned", q)
			}
		}
	}
	checkRevoked(t, s, r.Thumbprint, false)
}

func testPruneCertificates(t *testing.T, s *store) {
	short, long, other := record("alice", 0), record("alice", time.Second, expiring(100*time.Hour)), record("bob", 2*time.Second)
	insert(t, s, short, long, other)
	last := other.NotAfter.Add(keep.Certificates)
	if n, err := s.Prune(t.Context(), last.Add(time.Hour), ca.Retention{}, 100); n != (ca.Pruned{}) || err != nil {
		t.Errorf("Prune of what is kept for ever = %+v, %v", n, err)
	}
	prune(t, s, short.NotAfter.Add(keep.Certificates), ca.Pruned{})
	before := acts(t, s)
	ctx := audit.WithActor(t.Context(), audit.Actor{Name: "pruner"})
	for i, want := range []int{1, 1, 0} {
		if n, err := s.Prune(ctx, last.Add(time.Second), keep, 1); n != (ca.Pruned{Certificates: want}) || err != nil {
			t.Errorf("step %d: Prune = %+v, %v; want %d", i, n, err, want)
		}
	}
	log := readAudit(t, s)[before:]
	if len(log) != 2 {
		t.Fatalf("%d audit entries for two steps", len(log))
	}
	if e := log[1]; e.Action != audit.Prune || e.Actor != "pruner" || e.Detail["certificates"] != "1" || e.Detail["revoked"] != "0" {
		t.Errorf("audit entry %+v", e)
	}
	for range 2 {
		checkGone(t, s, short)
		checkGone(t, s, other)
		checkRecord(t, s, long)
		if got := list(t, s, ca.Query{ClientID: "alice", Limit: 10}); len(got) != 1 || got[0].Serial != long.Serial {
			t.Errorf("%d certificates of alice, want the one that is left", len(got))
		}
		s.reopen(t)
	}
}

// testPruneParent: what renews a certificate that is gone is there, and says what it renewed.
func testPruneParent(t *testing.T, s *store) {
	parent := record("alice", 0)
	child := record("alice", time.Hour, expiring(100*time.Hour), func(r *ca.Record) { r.Parent = parent.Serial })
	insert(t, s, parent, child)
	prune(t, s, parent.NotAfter.Add(keep.Certificates+time.Second), ca.Pruned{Certificates: 1})
	checkGone(t, s, parent)
	checkRecord(t, s, child)
	got := list(t, s, ca.Query{ClientID: "alice", Renewal: true, After: parent.Serial, Limit: 10})
	if len(got) != 1 || got[0].Parent != parent.Serial {
		t.Errorf("renewals of alice: %v", got)
	}
}

// testPruneRevoked: a revoked certificate stays until a list was signed after it expired.
func testPruneRevoked(t *testing.T, s *store) {
	shard := crl.Shard{Issuer: issuerID}
	rec, later := record("alice", 0), record("alice", time.Second, expiring(1000*time.Hour)) // the shard goes on
	insert(t, s, rec, later)
	revoke(t, s, rec.Serial, &ca.Revocation{Reason: ca.KeyCompromise, At: start})
	now := rec.NotAfter.Add(keep.Certificates + time.Hour)
	prune(t, s, now, ca.Pruned{Changes: 1})
	for _, at := range []time.Time{rec.NotAfter.Add(-time.Hour), rec.NotAfter} {
		publish(t, s, shard, at, time.Hour)
		prune(t, s, now, ca.Pruned{})
		if n := len(revocations(t, s, shard, rec.NotAfter)); n != 1 {
			t.Fatalf("%d revocations to put on the next list, want 1", n)
		}
	}
	checkRevoked(t, s, rec.Thumbprint, true)
	publish(t, s, shard, rec.NotAfter.Add(time.Second), time.Hour)
	prune(t, s, now, ca.Pruned{Certificates: 1})
	log := readAudit(t, s)
	if e := log[len(log)-1]; e.Detail["revoked"] != "1" {
		t.Errorf("audit entry %+v", e)
	}
	checkGone(t, s, rec)
	if n := len(revocations(t, s, shard, time.Time{})); n != 0 {
		t.Errorf("%d revocations are left", n)
	}
}

// testPruneAbandoned: a shard whose certificates have all expired while the CA was away gets no list any more.
func testPruneAbandoned(t *testing.T, s *store) {
	shard := crl.Shard{Issuer: issuerID}
	rec := record("alice", 0)
	insert(t, s, rec)
	revoke(t, s, rec.Serial, &ca.Revocation{At: start})
	publish(t, s, shard, start, 100*time.Hour)
	over := rec.NotAfter.Add(keep.Certificates + time.Second)
	prune(t, s, over, ca.Pruned{Changes: 1}) // the list may still be looked at
	checkRevoked(t, s, rec.Thumbprint, true)
	prune(t, s, start.Add(100*time.Hour+keep.Certificates+time.Second), ca.Pruned{Certificates: 1})
	checkGone(t, s, rec)
}

// testPruneChangesApart: where a node's clock was behind, a change seems older than the one before it. It is kept for as
// long as that one, since what is kept has no gap.
func testPruneChangesApart(t *testing.T, s *store) {
	for _, at := range []time.Duration{0, time.Hour, 0, time.Hour} {
		r := record("alice", at, expiring(1000*time.Hour))
		insert(t, s, r)
		revoke(t, s, r.Serial, &ca.Revocation{At: start.Add(at)})
	}
	prune(t, s, start.Add(ca.KeepChanges+time.Minute), ca.Pruned{Changes: 1})
	if got := changes(t, s, crl.Shard{Issuer: issuerID}, 1); len(got) != 3 {
		t.Errorf("%d changes are left, want 3", len(got))
	}
	prune(t, s, start.Add(ca.KeepChanges+2*time.Hour), ca.Pruned{Changes: 3})
}

func testPruneChanges(t *testing.T, s *store) {
	shard := crl.Shard{Issuer: issuerID}
	var at []uint64
	for i := range 6 {
		r := record("alice", time.Duration(i)*time.Second, expiring(1000*time.Hour))
		insert(t, s, r)
		revoke(t, s, r.Serial, &ca.Revocation{At: start.Add(time.Duration(i) * time.Hour)})
		at = append(at, position(t, s))
	}
	end := position(t, s)
	prune(t, s, start.Add(ca.KeepChanges), ca.Pruned{})
	prune(t, s, start.Add(ca.KeepChanges+2*time.Hour+time.Second), ca.Pruned{Changes: 3})
	for range 2 {
		if got := position(t, s); got != end {
			t.Errorf("Position = %d, want %d as before", got, end)
		}
		for i, after := range append([]uint64{0}, at...) { // at[0] is that of the first change
			n, dropped := 0, false
			for _, err := range s.Changes(t.Context(), shard, after) {
				if n++; err != nil {
					dropped = errors.Is(err, crl.ErrChangesDropped)
				}
			}
			if i < 3 && !dropped || i >= 3 && (dropped || n != 6-i) {
				t.Errorf("Changes after %d: %d, and ErrChangesDropped: %t", after, n, dropped)
			}
		}
		s.reopen(t)
	}
	prune(t, s, start.Add(2*ca.KeepChanges), ca.Pruned{Changes: 3})
	if got := position(t, s); got != end {
		t.Errorf("Position = %d, want %d as before", got, end)
	}
	if got := changes(t, s, shard, end); len(got) != 0 {
		t.Errorf("changes after the last one: %v", got)
	}
	r := record("bob", 0)
	insert(t, s, r)
	revoke(t, s, r.Serial, &ca.Revocation{At: start})
	if got := changes(t, s, shard, end); len(got) != 1 || got[0].Position <= end {
		t.Errorf("the next change: %v, want one after %d", got, end)
	}
}

func testPruneShards(t *testing.T, s *store) {
	var recs []*ca.Record
	for n := range uint32(4) {
		r := record("alice", time.Duration(n)*time.Second, inShard(n))
		if n == 1 {
			expiring(2000 * time.Hour)(r)
		}
		insert(t, s, r)
		publish(t, s, crl.Shard{Issuer: issuerID, Number: n}, r.NotAfter.Add(time.Second), 10*time.Hour)
		recs = append(recs, r)
	}
	foreign := record("alice", 0, func(r *ca.Record) { r.Issuer = issuerID + "0" })
	insert(t, s, foreign)
	now := recs[3].NotAfter.Add(keep.Certificates + 9*time.Hour)
	prune(t, s, now, ca.Pruned{Certificates: 4})            // their lists have not ended for long enough
	prune(t, s, now.Add(2*time.Hour), ca.Pruned{Shards: 2}) // 0 and 2: 1 is in use, and 3 has the highest number
	if _, err := s.Latest(t.Context(), crl.Shard{Issuer: issuerID}, 0); !errors.Is(err, crl.ErrNotPublished) {
		t.Errorf("Latest of a shard that is gone = %v, want ErrNotPublished", err)
	}
	s.reopen(t)
	counts, err := s.Shards(t.Context(), issuerID)
	if err != nil || len(counts) != 2 || counts[0].Number != 1 || counts[1].Number != 3 {
		t.Errorf("Shards = %+v, %v; want 1 and 3", counts, err)
	}
	if counts, err := s.Shards(t.Context(), foreign.Issuer); err != nil || len(counts) != 1 {
		t.Errorf("Shards of another issuer = %+v, %v", counts, err)
	}
	prune(t, s, now.Add(2*time.Hour), ca.Pruned{})
}
