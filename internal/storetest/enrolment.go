package storetest

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
)

var enrolmentTests = map[string]func(*testing.T, *store){
	"InvitationRoundTrip":         testInvitation,
	"InvitationUnknown":           testInvitationUnknown,
	"InvitationIsKeptOnce":        testInvitationTwice,
	"SpendUnknownInvitation":      testSpendUnknown,
	"SpendTwice":                  testSpendTwice,
	"SpendHasOneWinner":           testSpendWinner,
	"PruneDropsOldInvitations":    testPruneInvitations,
	"PruneSparesFreshInvitations": testPruneFresh,
}

func invitation() *enroll.Invitation {
	return &enroll.Invitation{
		ID: newID(), SecretHash: [32]byte(noise(32)), ClientID: "alice", Profile: "client",
		Names: ca.Names{
			CommonName: "alice", DNS: []string{"alice.example.com"}, IPs: []netip.Addr{netip.MustParseAddr("2001:db8::1")},
			URIs: []string{"spiffe://example.com/alice"}, Emails: []string{"alice@example.com"},
		},
		Lifetime: 12 * time.Hour, CreatedAt: start, ExpiresAt: start.Add(24*time.Hour + time.Millisecond),
	}
}

func putInvitation(t *testing.T, s *store) *enroll.Invitation {
	t.Helper()
	inv := invitation()
	if err := s.PutInvitation(t.Context(), inv, event(audit.Invite, inv.ID)); err != nil {
		t.Fatalf("PutInvitation: %v", err)
	}
	return inv
}

func checkInvitation(t *testing.T, s *store, want *enroll.Invitation) {
	t.Helper()
	if got, err := s.Invitation(t.Context(), want.ID); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Invitation = %+v, %v; want %+v", got, err, want)
	}
}

func testInvitation(t *testing.T, s *store) {
	full := putInvitation(t, s)
	bare := &enroll.Invitation{ID: newID(), Names: ca.Names{CommonName: "x"}, CreatedAt: start, ExpiresAt: start}
	if err := s.PutInvitation(t.Context(), bare, event(audit.Invite, bare.ID)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		checkInvitation(t, s, full)
		checkInvitation(t, s, bare)
		s.reopen(t)
	}
	if n := acts(t, s); n != 2 {
		t.Errorf("%d audit entries for two invitations", n)
	}
}

func testInvitationUnknown(t *testing.T, s *store) {
	for _, id := range []string{"", newID()} {
		if inv, err := s.Invitation(t.Context(), id); !errors.Is(err, enroll.ErrInvitation) {
			t.Errorf("Invitation(%q) = %+v, %v; want ErrInvitation", id, inv, err)
		}
	}
}

func testInvitationTwice(t *testing.T, s *store) {
	inv := putInvitation(t, s)
	again := *inv
	again.ClientID = "mallory"
	if err := s.PutInvitation(t.Context(), &again, event(audit.Invite, inv.ID)); err == nil {
		t.Error("an invitation was overwritten")
	}
	checkInvitation(t, s, inv)
}

func testSpendUnknown(t *testing.T, s *store) {
	rec := record("alice", 0)
	err := s.Insert(t.Context(), rec, &ca.Spend{ID: newID()}, event(audit.Issue, "x"))
	if !errors.Is(err, enroll.ErrInvitation) {
		t.Errorf("Insert = %v, want ErrInvitation", err)
	}
	if _, err := s.Certificate(t.Context(), rec.Serial); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("the certificate was kept: %v", err)
	}
	if n := acts(t, s); n != 0 {
		t.Errorf("%d audit entries for nothing", n)
	}
}

func testSpendTwice(t *testing.T, s *store) {
	inv := putInvitation(t, s)
	rec, use := record("alice", 0), [32]byte(noise(32))
	if err := s.Insert(t.Context(), rec, &ca.Spend{ID: inv.ID, Use: use}, event(audit.Issue, "x")); err != nil {
		t.Fatal(err)
	}
	inv.Spent = &enroll.Spent{Serial: rec.Serial, Use: use}
	for _, second := range [][32]byte{use, [32]byte(noise(32))} {
		s.reopen(t)
		other := record("alice", time.Second)
		err := s.Insert(t.Context(), other, &ca.Spend{ID: inv.ID, Use: second}, event(audit.Issue, "x"))
		var spent *ca.SpentError
		if !errors.As(err, &spent) || spent.Serial != rec.Serial || spent.Use != use || spent.ID != inv.ID {
			t.Errorf("second Insert = %#v, want a SpentError of the first", err)
		}
		if _, err := s.Certificate(t.Context(), other.Serial); !errors.Is(err, ca.ErrNotFound) {
			t.Errorf("the second certificate was kept: %v", err)
		}
		checkInvitation(t, s, inv)
	}
}

func testSpendWinner(t *testing.T, s *store) {
	for range 3 {
		inv := putInvitation(t, s)
		recs := []*ca.Record{record("alice", 0), record("alice", 0)}
		errs := together(2, func(i int) error {
			return s.Insert(t.Context(), recs[i], &ca.Spend{ID: inv.ID, Use: [32]byte{byte(i + 1)}}, event(audit.Issue, "x"))
		})
		var spent *ca.SpentError
		won := winner(t, errs, func(err error) bool { return errors.As(err, &spent) })
		if use := [32]byte{byte(won + 1)}; spent.Serial != recs[won].Serial || spent.Use != use {
			t.Errorf("the loser was told %+v; the winner is %s with %x", spent, recs[won].Serial, use)
		}
		inv.Spent = &enroll.Spent{Serial: spent.Serial, Use: spent.Use}
		checkInvitation(t, s, inv)
		if _, err := s.Certificate(t.Context(), recs[1-won].Serial); !errors.Is(err, ca.ErrNotFound) {
			t.Errorf("the loser's certificate was kept: %v", err)
		}
	}
}

func testPruneInvitations(t *testing.T, s *store) {
	spent, unspent := putInvitation(t, s), putInvitation(t, s)
	rec := record("alice", 0)
	if err := s.Insert(t.Context(), rec, &ca.Spend{ID: spent.ID, Use: [32]byte{1}}, event(audit.Issue, "x")); err != nil {
		t.Fatal(err)
	}
	keep := ca.Retention{Invitations: 30 * 24 * time.Hour}
	past := spent.ExpiresAt.Add(keep.Invitations + time.Second)
	if n, err := s.Prune(t.Context(), past, ca.Retention{}, 10); n != (ca.Pruned{}) || err != nil {
		t.Errorf("Prune of what is kept for ever = %+v, %v", n, err)
	}
	for i, want := range []int{1, 1, 0} {
		if n, err := s.Prune(t.Context(), past, keep, 1); n != (ca.Pruned{Invitations: want}) || err != nil {
			t.Errorf("step %d: Prune = %+v, %v; want %d", i, n, err, want)
		}
	}
	for _, inv := range []*enroll.Invitation{spent, unspent} {
		if _, err := s.Invitation(t.Context(), inv.ID); !errors.Is(err, enroll.ErrInvitation) {
			t.Errorf("Invitation = %v, want ErrInvitation", err)
		}
	}
	checkRecord(t, s, rec)
}

func testPruneFresh(t *testing.T, s *store) {
	inv := putInvitation(t, s)
	keep := ca.Retention{Invitations: 30 * 24 * time.Hour}
	if n, err := s.Prune(t.Context(), inv.ExpiresAt.Add(keep.Invitations-time.Second), keep, 100); n != (ca.Pruned{}) || err != nil {
		t.Errorf("Prune = %+v, %v; want nothing", n, err)
	}
	checkInvitation(t, s, inv)
}
