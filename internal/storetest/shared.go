package storetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// These tests are races of many goroutines that start together. Whoever wins, nothing may be done twice and nothing
// lost, and what one engine acknowledged every other one on the same store sees.
var sharedTests = map[string]func(*testing.T, *cluster){
	"ActsAreSeenByAll":         testSeenByAll,
	"InvitationIsRedeemedOnce": testSharedInvitation,
	"SerialIsTakenOnce":        testSharedSerial,
	"DecideHasOneWinner":       testSharedDecide,
	"HoldsAndReleases":         testSharedHolds,
	"ReplaceHasOneWinner":      testSharedReplace,
	"ProofIsUsedOnce":          testSharedProofs,
	"PutClientHasOneWinner":    testSharedClient,
	"TokenIsRevokedOnce":       testSharedToken,
	"ShardsCountEveryInsert":   testSharedShards,
	"ChangesMissNone":          testSharedChanges,
	"AuditChain":               testSharedAudit,
}

// RunShared runs the races with so many engines that have one store open: several where the engine allows that, to
// which open is then called with the same directory, and one where it does not.
func RunShared(t *testing.T, open Open, engines int) {
	for name, test := range sharedTests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &cluster{store: store{open: open, dir: t.TempDir()}}
			for range engines {
				e := open(t, s.dir)
				t.Cleanup(func() {
					if err := e.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				})
				s.nodes = append(s.nodes, e)
			}
			s.Engine = s.nodes[0]
			test(t, s)
			verifyChain(t, &s.store)
		})
	}
}

// cluster is a store with all the engines that have it open. As a store, it is the first of these.
type cluster struct {
	store
	nodes []Engine
}

// node returns one of the engines, the same for the same i.
func (s *cluster) node(i int) *store { return &store{Engine: s.nodes[i%len(s.nodes)]} }

// racers is how many goroutines take part in a race, shared out to the nodes.
const racers = 12

// testSeenByAll: what was acknowledged is seen at once on every node, not only on the one that did it.
func testSeenByAll(t *testing.T, s *cluster) {
	ctx, shard := t.Context(), crl.Shard{Issuer: issuerID}
	for i := range s.nodes {
		here := s.node(i)
		rec, inv, jti := record(subject(i), 0), invitation(), newID()
		spend := &ca.Spend{ID: inv.ID, Use: [32]byte(noise(32))}
		prev, err := here.Latest(ctx, shard, 0)
		if err != nil && !errors.Is(err, crl.ErrNotPublished) {
			t.Fatal(err)
		}
		list := signed(issuerID, prev.Number+1)
		client, err := here.PutClient(ctx, authserver.Client{ID: subject(i)}, event(audit.ClientAdd, subject(i)))
		if err = errors.Join(
			err,
			here.PutInvitation(ctx, inv, event(audit.Invite, inv.ID)),
			here.Insert(ctx, rec, spend, event(audit.Issue, rec.Serial.String())),
			here.RevokeToken(ctx, jti, start.Add(time.Hour), event(audit.TokenRevoke, jti)),
			here.Use(ctx, spend.Use, time.Now().Add(time.Hour)),
			here.Replace(ctx, prev, list),
		); err != nil {
			t.Fatal(err)
		}
		inv.Spent = &enroll.Spent{Serial: rec.Serial, Use: spend.Use}
		kept, err := decide(ctx, here, rec.Serial, &ca.Revocation{At: start})
		if err != nil {
			t.Fatal(err)
		}
		for there := range s.nodes {
			n := s.node(there)
			checkRecord(t, n, kept)
			checkInvitation(t, n, inv)
			checkToken(t, n, jti, true)
			checkLatest(t, n, list, 0)
			if got, err := n.Client(ctx, client.ID); err != nil || !reflect.DeepEqual(got, client) {
				t.Errorf("Client = %+v, %v; want %+v", got, err, client)
			}
			if err := n.Use(ctx, spend.Use, time.Now().Add(time.Hour)); !errors.Is(err, tokenbind.ErrReplayed) {
				t.Errorf("Use = %v, want ErrReplayed", err)
			}
			if at := position(t, n); at != position(t, &s.store) || at == 0 || len(changes(t, n, shard, 0)) != i+1 {
				t.Errorf("node %d is at position %d, and another at %d", there, at, position(t, &s.store))
			}
			if acts(t, n) != acts(t, &s.store) {
				t.Errorf("node %d sees %d audit entries, and another %d", there, acts(t, n), acts(t, &s.store))
			}
		}
	}
}

// testSharedInvitation: of many redeemers of one invitation one gets a certificate, and all others are told which.
func testSharedInvitation(t *testing.T, s *cluster) {
	for round := range 4 {
		inv := putInvitation(t, &s.store)
		var recs [racers]*ca.Record
		for i := range recs {
			recs[i] = record(subject(i), time.Duration(round)*time.Second)
		}
		errs := together(racers, func(i int) error {
			return s.node(i).Insert(t.Context(), recs[i], &ca.Spend{ID: inv.ID, Use: [32]byte{byte(i + 1)}}, event(audit.Issue, "x"))
		})
		won := winner(t, errs, func(err error) bool { return errors.As(err, new(*ca.SpentError)) })
		inv.Spent = &enroll.Spent{Serial: recs[won].Serial, Use: [32]byte{byte(won + 1)}}
		checkInvitation(t, &s.store, inv)
		for i, err := range errs {
			if spent := (*ca.SpentError)(nil); errors.As(err, &spent) && (spent.Serial != inv.Spent.Serial || spent.Use != inv.Spent.Use) {
				t.Errorf("a loser was told %+v, and the winner is %+v", spent, inv.Spent)
			}
			if _, err := s.node(i+1).Certificate(t.Context(), recs[i].Serial); i != won && !errors.Is(err, ca.ErrNotFound) {
				t.Errorf("the certificate of a loser was kept: %v", err)
			}
		}
	}
	if got := acts(t, &s.store); got != 2*4 {
		t.Errorf("%d audit entries, want one for each invitation and each certificate", got)
	}
}

// testSharedSerial: a serial number is given once, and to whom it was said.
func testSharedSerial(t *testing.T, s *cluster) {
	for round := range 4 {
		var recs [racers]*ca.Record
		serial := record("x", time.Duration(round)*time.Second).Serial
		for i := range recs {
			recs[i] = record(subject(i), 0, func(r *ca.Record) { r.Serial = serial })
		}
		errs := together(racers, func(i int) error {
			return s.node(i).Insert(t.Context(), recs[i], nil, event(audit.Issue, "x"))
		})
		won := winner(t, errs, func(err error) bool { return errors.Is(err, ca.ErrDuplicate) })
		for i := range s.nodes {
			checkRecord(t, s.node(i), recs[won])
		}
	}
	if got := acts(t, &s.store); got != 4 {
		t.Errorf("%d audit entries for 4 certificates", got)
	}
}

// decide sets a record's revocation; nil releases it.
func decide(ctx context.Context, s Engine, serial ca.Serial, rev *ca.Revocation) (*ca.Record, error) {
	return s.Decide(ctx, serial, func(*ca.Record) (*ca.Revocation, audit.Event, error) {
		return rev, event(audit.Revoke, serial.String()), nil
	})
}

// testSharedDecide: what decide is shown is what stands, so one that finds the certificate revoked was not the first.
func testSharedDecide(t *testing.T, s *cluster) {
	for range 4 {
		rec := record("alice", 0)
		insert(t, &s.store, rec)
		errs := together(racers, func(i int) error {
			_, err := s.node(i).Decide(t.Context(), rec.Serial, func(r *ca.Record) (*ca.Revocation, audit.Event, error) {
				if r.Revocation != nil {
					return nil, audit.Event{}, &ca.AlreadyRevokedError{Serial: r.Serial, Revocation: *r.Revocation}
				}
				return &ca.Revocation{Reason: ca.Superseded, At: start.Add(time.Duration(i) * time.Second)}, event(audit.Revoke, "x"), nil
			})
			return err
		})
		want := *rec
		want.Revocation = &ca.Revocation{Reason: ca.Superseded}
		want.Revocation.At = start.Add(time.Duration(winner(t, errs, func(err error) bool {
			return errors.As(err, new(*ca.AlreadyRevokedError))
		})) * time.Second)
		for i := range s.nodes {
			checkRecord(t, s.node(i), &want)
		}
	}
	if at, n := position(t, &s.store), len(changes(t, &s.store, crl.Shard{Issuer: issuerID}, 0)); at == 0 || n != 4 {
		t.Errorf("%d changes up to position %d, want 4", n, at)
	}
}

// testSharedHolds: holds and releases of one certificate from all sides alternate in the log, as each one that was
// decided found what the one before had left.
func testSharedHolds(t *testing.T, s *cluster) {
	rec := record("alice", 0)
	insert(t, &s.store, rec)
	const each = 4
	errs := together(racers, func(i int) error {
		for range each {
			if _, err := s.node(i).Decide(t.Context(), rec.Serial, func(r *ca.Record) (*ca.Revocation, audit.Event, error) {
				if r.Revocation != nil {
					return nil, event(audit.Release, "x"), nil
				}
				return &ca.Revocation{Reason: ca.CertificateHold, At: start}, event(audit.Hold, "x"), nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	all := changes(t, &s.store, crl.Shard{Issuer: issuerID}, 0)
	if len(all) != racers*each {
		t.Errorf("%d changes, want %d", len(all), racers*each)
	}
	for i, c := range all {
		if c.Released != (i%2 == 1) {
			t.Fatalf("change %d: released %t twice in a row", i, c.Released)
		}
	}
	checkRecord(t, &s.store, rec) // an even number of them: it is released
}

// testSharedReplace: of several publishers that saw the same list one replaces it, and numbers grow for every reader.
func testSharedReplace(t *testing.T, s *cluster) {
	prev := crl.Signed{}
	for round := range uint64(6) {
		var lists [racers]crl.Signed
		for i := range lists {
			lists[i] = signed(issuerID, 100*(round+1)+uint64(i))
		}
		errs := together(racers, func(i int) error { return s.node(i).Replace(t.Context(), prev, lists[i]) })
		won := winner(t, errs, func(err error) bool { return errors.Is(err, crl.ErrConflict) })
		for i := range s.nodes {
			checkLatest(t, s.node(i), lists[won], prev.Number)
		}
		prev = lists[won]
	}
}

// testSharedProofs: everybody tries every key, in an order of their own, and each key is accepted from one of them.
func testSharedProofs(t *testing.T, s *cluster) {
	const keys = 60
	until := time.Now().Add(time.Hour)
	var mu sync.Mutex // guards wins
	var wins [keys]int
	errs := together(2*racers, func(i int) error {
		for k := range keys {
			k = (k*7 + i*11) % keys
			err := s.node(i).Use(t.Context(), [32]byte{byte(k + 1)}, until)
			switch {
			case err == nil:
				mu.Lock()
				wins[k]++
				mu.Unlock()
			case !errors.Is(err, tokenbind.ErrReplayed):
				return err
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for k, n := range wins {
		if n != 1 {
			t.Errorf("key %d was accepted %d times", k, n)
		}
	}
}

// testSharedClient: a new record and each change of it come from one of those who try, and from no other.
func testSharedClient(t *testing.T, s *cluster) {
	c := &authserver.Client{ID: "alice"}
	for version := range uint64(5) {
		var kept [racers]*authserver.Client
		errs := together(racers, func(i int) (err error) {
			mine := *c
			mine.Subject = subject(i)
			kept[i], err = s.node(i).PutClient(t.Context(), mine, event(audit.ClientChange, c.ID))
			return err
		})
		c = kept[winner(t, errs, func(err error) bool { return errors.Is(err, authserver.ErrConflict) })]
		if c.Version != version+1 {
			t.Errorf("the version is %d, want %d", c.Version, version+1)
		}
		for i := range s.nodes {
			if got, err := s.node(i).Client(t.Context(), c.ID); err != nil || !reflect.DeepEqual(got, c) {
				t.Errorf("Client = %+v, %v; want %+v", got, err, c)
			}
		}
	}
	if got := acts(t, &s.store); got != 5 {
		t.Errorf("%d audit entries for 5 changes", got)
	}
}

// testSharedToken: revoking a token that is revoked is no error and no act, whoever was first.
func testSharedToken(t *testing.T, s *cluster) {
	errs := together(racers, func(i int) error {
		if err := s.node(i).RevokeToken(t.Context(), "jti", start.Add(time.Hour), event(audit.TokenRevoke, "jti")); err != nil {
			return err
		}
		if found, err := s.node(i+1).TokenRevoked(t.Context(), "jti"); err != nil || !found {
			return fmt.Errorf("the token is revoked here, and at the next node: %t, %w", found, err)
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if got := acts(t, &s.store); got != 1 {
		t.Errorf("%d audit entries for one revoked token", got)
	}
}

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
		n += uint64(c.Certificates)
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
