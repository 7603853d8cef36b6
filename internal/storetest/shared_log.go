package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// testSharedShards: the counts are those of all nodes together, and each Insert stands in them when it returns.
func testSharedShards(t *testing.T, s *cluster) {
	const each = 5
	errs := together(racers, func(i int) error {
		for k := range each {
			r := record(subject(i), time.Duration(k)*time.Second, func(r *ca.Record) { r.Shard = uint32(k % 2) })
			if err := s.node(i).Insert(t.Context(), r, nil, event(audit.Issue, r.Serial.String())); err != nil {
				return err
			}
			counts, err := s.node(i+1).Shards(t.Context(), issuerID)
			if err != nil {
				return err
			}
			if mine := uint64(k + 1); slices.IndexFunc(counts, func(c ca.ShardCount) bool { return c.Number == r.Shard }) < 0 || total(counts) < mine {
				return fmt.Errorf("after %d inserts of one alone, the counts are %v", mine, counts)
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for i := range s.nodes {
		counts, err := s.node(i).Shards(t.Context(), issuerID)
		if err != nil || len(counts) != 2 || counts[0].Certificates != racers*3 || counts[1].Certificates != racers*2 {
			t.Errorf("Shards = %v, %v; want %d and %d", counts, err, racers*3, racers*2)
		}
	}
}

func total(counts []ca.ShardCount) (n uint64) {
	for _, c := range counts {
		n += c.Certificates
	}
	return n
}

// testSharedChanges: while all nodes revoke, a reader on each goes from position to position. Positions must become
// visible in the order of their numbers: one that came late, below a position that was read already, would be missed,
// and a revoked certificate with it.
func testSharedChanges(t *testing.T, s *cluster) {
	const each = 6
	shard, finished := crl.Shard{Issuer: issuerID}, make(chan struct{})
	var writers sync.WaitGroup
	writers.Add(racers)
	go func() {
		writers.Wait()
		close(finished)
	}()
	errs := together(racers+len(s.nodes), func(i int) error {
		if i >= racers {
			return followUntil(t.Context(), s.node(i), shard, finished, racers*each)
		}
		defer writers.Done()
		for k := range each {
			r := record(subject(i), time.Duration(k)*time.Second)
			if err := s.node(i).Insert(t.Context(), r, nil, event(audit.Issue, "x")); err != nil {
				return err
			}
			if _, err := decide(t.Context(), s.node(i), r.Serial, &ca.Revocation{At: start}); err != nil {
				return err
			}
			if err := lastChange(t.Context(), s.node(i+1), shard, r.Serial, false); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// followUntil reads on from where it came to, until the writers have finished, and must have seen n changes then. As a
// publisher does, it takes for its next start the position that it read before.
func followUntil(ctx context.Context, s Engine, shard crl.Shard, finished <-chan struct{}, n int) error {
	seen := map[string]bool{}
	for after, last := uint64(0), false; !last; {
		select {
		case <-finished:
			last = true // but for once more
		default:
		}
		end, err := s.Position(ctx)
		if err != nil {
			return err
		}
		if end < after {
			return fmt.Errorf("the position went back from %d to %d", after, end)
		}
		for c, err := range s.Changes(ctx, shard, after) {
			if err != nil {
				return err
			}
			seen[string(c.Serial)] = true
		}
		after = end
	}
	if len(seen) != n {
		return fmt.Errorf("of %d changes only %d were seen", n, len(seen))
	}
	return nil
}

// testSharedAudit: acts of every kind, on all nodes at once, stand in one chain, which verifyChain reads afterwards.
func testSharedAudit(t *testing.T, s *cluster) {
	const each = 4
	errs := together(racers, func(i int) error {
		n := s.node(i)
		for k := range each {
			r, inv, jti := record(subject(i), time.Duration(k)*time.Second), invitation(), newID()
			client, err := n.PutClient(t.Context(), authserver.Client{ID: newID()}, event(audit.ClientAdd, "x"))
			if err != nil {
				return err
			}
			client.Disabled = true
			_, err = s.node(i+1).PutClient(t.Context(), *client, event(audit.ClientDisable, "x"))
			if err := errors.Join(
				err,
				n.PutInvitation(t.Context(), inv, event(audit.Invite, inv.ID)),
				n.Insert(t.Context(), r, &ca.Spend{ID: inv.ID, Use: [32]byte{1}}, event(audit.Issue, r.Serial.String())),
				n.RevokeToken(t.Context(), jti, start.Add(time.Hour), event(audit.TokenRevoke, jti)),
				n.Record(t.Context(), event("test", "x")),
			); err != nil {
				return err
			}
			if err := s.node(i+2).Insert(t.Context(), r, nil, event(audit.Issue, "again")); !errors.Is(err, ca.ErrDuplicate) {
				return fmt.Errorf("a duplicate was kept: %w", err)
			}
			if _, err := decide(t.Context(), n, r.Serial, &ca.Revocation{At: start}); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	serials := map[thumbprint.Cert]bool{}
	for _, e := range readAudit(t, &s.store) {
		serials[thumbprint.Cert(e.Hash)] = true
	}
	if want := racers * each * 7; len(serials) != want {
		t.Errorf("%d entries for %d acts", len(serials), want)
	}
}

// testSharedPrune: several nodes prune at once, in small steps, beside others that write. What is past its time is
// dropped once, and nothing else is.
func testSharedPrune(t *testing.T, s *cluster) {
	const each = 40
	shard := crl.Shard{Issuer: issuerID}
	lasting := record("lasting", 0, expiring(1000*time.Hour))
	insert(t, &s.store, lasting)
	for i := range each {
		r := record(subject(i), time.Duration(i)*time.Second)
		insert(t, &s.store, r)
		if i%4 == 0 {
			revoke(t, &s.store, r.Serial, &ca.Revocation{At: start})
		}
		revokeToken(t, &s.store, newID(), time.Duration(i+1)*time.Minute)
		putInvitation(t, &s.store)
		if err := s.Use(t.Context(), [32]byte{byte(i), 1}, start.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	now := lasting.IssuedAt.Add(24*time.Hour + keep.Certificates + time.Hour)
	publish(t, &s.store, shard, now.Add(-time.Hour), 100*time.Hour)
	want := ca.Pruned{Certificates: each, Invitations: each, Replays: each, Tokens: each, Changes: each / 4}
	before := acts(t, &s.store)
	var mu sync.Mutex // guards got
	var got ca.Pruned
	errs := together(racers, func(i int) error {
		if i%2 == 0 { // new ones, which stay
			for k := range 5 {
				r := record(subject(i), time.Duration(k)*time.Second, expiring(1000*time.Hour))
				if err := errors.Join(
					s.node(i).Insert(t.Context(), r, nil, event(audit.Issue, "x")),
					s.node(i).Use(t.Context(), [32]byte{byte(i), 2, byte(k)}, now.Add(time.Hour)),
				); err != nil {
					return err
				}
			}
			return nil
		}
		for {
			n, err := s.node(i).Prune(t.Context(), now, keep, 7)
			if err != nil {
				return err
			}
			mu.Lock()
			got = got.Add(n)
			all := got.Total() >= want.Total()
			mu.Unlock()
			if all {
				return nil
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("pruned %+v, want %+v", got, want)
	}
	checkRecord(t, &s.store, lasting)
	if n := len(list(t, &s.store, ca.Query{Limit: 1000})); n != 1+racers/2*5 {
		t.Errorf("%d certificates are left", n)
	}
	certificates := 0
	for _, e := range readAudit(t, &s.store)[before:] {
		n, _ := strconv.Atoi(e.Detail["certificates"])
		certificates += n
	}
	if certificates != each {
		t.Errorf("the audit log tells of %d certificates that were pruned, want %d", certificates, each)
	}
}

// testSharedArchive: several nodes drop the start of the log while others write its end. Each entry goes once, and what
// is left is a chain.
func testSharedArchive(t *testing.T, s *cluster) {
	log := fillAudit(t, &s.store, 60)
	var dropped atomic.Int64
	errs := together(racers, func(i int) error {
		for k := range 10 {
			if i%3 > 0 {
				if err := s.node(i).Record(t.Context(), event("test", fmt.Sprint(i, k))); err != nil {
					return err
				}
				continue
			}
			n, err := s.node(i).DropAudit(t.Context(), log[5*k+4].Head(), 3)
			if err != nil && !errors.Is(err, audit.ErrNoEntry) { // another one came first
				return err
			}
			dropped.Add(int64(n))
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	base, err := s.AuditBase(t.Context())
	if err != nil || base.Seq == 0 || base.Seq != uint64(dropped.Load()) {
		t.Errorf("%d entries were dropped, and the base is %d, %v", dropped.Load(), base.Seq, err)
	}
	if n := len(readAudit(t, &s.store)); n != 60+racers/3*2*10-int(base.Seq) {
		t.Errorf("%d entries are left after %d", n, base.Seq)
	}
}
