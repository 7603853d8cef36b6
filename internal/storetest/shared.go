package storetest

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
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
	"PutKeyHasOneWinner":       testSharedKey,
	"PruneDropsEachThingOnce":  testSharedPrune,
	"DropAuditBesideWriters":   testSharedArchive,
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
