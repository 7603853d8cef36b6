package storetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
)

var certificateTests = map[string]func(*testing.T, *store){
	"InsertAndRead":             testInsertAndRead,
	"InsertSurvivesReopening":   testInsertSurvives,
	"InsertDuplicateSerial":     testInsertDuplicate,
	"InsertWithEndedContext":    testInsertEnded,
	"UnknownCertificate":        testUnknownCertificate,
	"DecideRevokesAndReleases":  testDecide,
	"DecideRefusal":             testDecideRefusal,
	"DecideHasOneWinner":        testDecideWinner,
	"RecordIsTheCallersOwnCopy": testOwnCopy,
	"ShardsCountInserts":        testShards,
}

func testInsertAndRead(t *testing.T, s *store) {
	full := record("alice", 1500*time.Millisecond, func(r *ca.Record) {
		r.Parent = record("alice", 0).Serial
		r.Shard = 1<<32 - 1
		r.Names = []string{"alice", "Alice.Example.com", "192.0.2.7", "spiffe://example.com/alice"}
		r.NotAfter = r.NotAfter.Add(300 * 24 * time.Hour)
	})
	bare := record("bob", 0, func(r *ca.Record) {
		r.Serial = ca.Serial(noise(16)) // one whose time says nothing
		r.Names, r.DER = nil, []byte{1}
	})
	insert(t, s, full, bare)
	for _, want := range []*ca.Record{full, bare} {
		checkRecord(t, s, want)
	}
}

func testInsertSurvives(t *testing.T, s *store) {
	rec := record("alice", 0)
	insert(t, s, rec)
	rev := &ca.Revocation{Reason: ca.KeyCompromise, At: start.Add(1234 * time.Millisecond)}
	revoke(t, s, rec.Serial, rev)
	s.reopen(t)
	want := *rec
	want.Revocation = rev
	checkRecord(t, s, &want)
}

// byThumbprint searches as a List does. It returns ca.ErrNotFound as reading by serial number would.
func (s *store) byThumbprint(t *testing.T, tp thumbprint.Cert) (*ca.Record, error) {
	t.Helper()
	page, err := s.List(t.Context(), ca.Query{Thumbprint: tp, Limit: 2})
	switch {
	case err != nil:
		return nil, err
	case len(page.Records) == 1:
		return page.Records[0], nil
	}
	return nil, fmt.Errorf("%w: %d found", ca.ErrNotFound, len(page.Records))
}

// checkRecord reads a record in each of the ways that there are and compares all of it.
func checkRecord(t *testing.T, s *store, want *ca.Record) {
	t.Helper()
	got, err := s.Certificate(t.Context(), want.Serial)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Certificate = %+v, %v; want %+v", got, err, want)
	}
	got, err = s.byThumbprint(t, want.Thumbprint)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("List by thumbprint = %+v, %v; want %+v", got, err, want)
	}
	checkRevoked(t, s, want.Thumbprint, want.Revocation != nil)
}

func testInsertDuplicate(t *testing.T, s *store) {
	first := record("alice", 0)
	insert(t, s, first)
	inv := putInvitation(t, s)
	second := record("mallory", 0, func(r *ca.Record) { r.Serial = first.Serial })
	before := acts(t, s)
	err := s.Insert(t.Context(), second, &ca.Spend{ID: inv.ID, Use: [32]byte{1}}, event(audit.Issue, "x"))
	if !errors.Is(err, ca.ErrDuplicate) {
		t.Fatalf("second Insert = %v, want ErrDuplicate", err)
	}
	checkRecord(t, s, first)
	if _, err := s.byThumbprint(t, second.Thumbprint); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("the refused certificate is found by its thumbprint: %v", err)
	}
	if got, err := s.Invitation(t.Context(), inv.ID); err != nil || got.Spent != nil {
		t.Errorf("the refused certificate used up its invitation: %+v, %v", got, err)
	}
	if acts(t, s) != before {
		t.Error("the refused certificate stands in the audit log")
	}
}

func testInsertEnded(t *testing.T, s *store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	rec := record("alice", 0)
	if err := s.Insert(ctx, rec, nil, event(audit.Issue, "x")); !errors.Is(err, context.Canceled) {
		t.Fatalf("Insert = %v, want context.Canceled", err)
	}
	if _, err := s.Certificate(t.Context(), rec.Serial); !errors.Is(err, ca.ErrNotFound) {
		t.Fatalf("Certificate = %v, want ErrNotFound", err)
	}
}

func testUnknownCertificate(t *testing.T, s *store) {
	insert(t, s, record("alice", 0))
	if _, err := s.Certificate(t.Context(), ca.Serial(noise(16))); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("Certificate = %v, want ErrNotFound", err)
	}
	if _, err := s.byThumbprint(t, thumbprint.Cert(noise(32))); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("List by thumbprint = %v, want ErrNotFound", err)
	}
	for _, tp := range []thumbprint.Cert{{}, thumbprint.Cert(noise(32))} {
		checkRevoked(t, s, tp, false)
	}
	_, err := s.Decide(t.Context(), ca.Serial(noise(16)), func(*ca.Record) (*ca.Revocation, audit.Event, error) {
		t.Error("decide was called without a record")
		return nil, audit.Event{}, nil
	})
	if !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("Decide = %v, want ErrNotFound", err)
	}
}

func testDecide(t *testing.T, s *store) {
	rec := record("alice", 0)
	insert(t, s, rec)
	for _, rev := range []*ca.Revocation{
		{Reason: ca.CertificateHold, At: start},
		nil,
		{Reason: ca.AACompromise, At: start.Add(time.Millisecond)},
	} {
		want := *rec
		want.Revocation = rev
		if got := revoke(t, s, rec.Serial, rev); !reflect.DeepEqual(got, &want) {
			t.Errorf("Decide = %+v, want %+v", got, &want)
		}
		checkRecord(t, s, &want)
	}
	s.reopen(t)
	checkRevoked(t, s, rec.Thumbprint, true)
}

func checkRevoked(t *testing.T, s *store, tp thumbprint.Cert, want bool) {
	t.Helper()
	if got, err := s.RevokedThumbprint(t.Context(), tp); err != nil || got != want {
		t.Errorf("RevokedThumbprint(%s) = %t, %v; want %t", tp, got, err, want)
	}
}

func testDecideRefusal(t *testing.T, s *store) {
	rec := record("alice", 0)
	insert(t, s, rec)
	before, refusal := acts(t, s), errors.New("refused")
	got, err := s.Decide(t.Context(), rec.Serial, func(*ca.Record) (*ca.Revocation, audit.Event, error) {
		return &ca.Revocation{Reason: ca.KeyCompromise, At: start}, event(audit.Revoke, "x"), refusal
	})
	if got != nil || err != refusal { //nolint:errorlint // the contract: returned as it is
		t.Fatalf("Decide = %v, %v; want nil and decide's own error", got, err)
	}
	checkRecord(t, s, rec)
	if acts(t, s) != before {
		t.Error("a refused revocation stands in the audit log")
	}
}

func testDecideWinner(t *testing.T, s *store) {
	rec := record("alice", 0)
	insert(t, s, rec)
	errs := together(8, func(i int) error {
		_, err := s.Decide(t.Context(), rec.Serial, func(r *ca.Record) (*ca.Revocation, audit.Event, error) {
			if r.Revocation != nil {
				return nil, audit.Event{}, &ca.AlreadyRevokedError{Serial: r.Serial, Revocation: *r.Revocation}
			}
			at := start.Add(time.Duration(i) * time.Second)
			return &ca.Revocation{Reason: ca.Superseded, At: at}, event(audit.Revoke, "x"), nil
		})
		return err
	})
	won := winner(t, errs, func(err error) bool { return errors.As(err, new(*ca.AlreadyRevokedError)) })
	got, err := s.Certificate(t.Context(), rec.Serial)
	if want := start.Add(time.Duration(won) * time.Second); err != nil || !got.Revocation.At.Equal(want) {
		t.Errorf("the record says %+v, %v; the winner wrote %s", got.Revocation, err, want)
	}
}

func testOwnCopy(t *testing.T, s *store) {
	rec := record("alice", 0)
	insert(t, s, rec)
	got, err := s.Certificate(t.Context(), rec.Serial)
	if err != nil {
		t.Fatal(err)
	}
	insert(t, s, record("bob", 0)) // the store moves on, and what was read stays
	clear(got.DER)
	checkRecord(t, s, rec)
}

// testShards: each Insert that was kept counts, and no other; revocation and expiry take nothing away.
func testShards(t *testing.T, s *store) {
	if got, err := s.Shards(t.Context(), issuerID); err != nil || len(got) != 0 {
		t.Fatalf("Shards of an empty store = %v, %v", got, err)
	}
	in := func(shard uint32, hours int) func(*ca.Record) {
		return func(r *ca.Record) {
			r.Shard, r.NotAfter = shard, start.Add(time.Duration(hours)*time.Hour).Truncate(time.Second)
		}
	}
	last := record("alice", 2, in(300, 5))
	insert(t, s, record("alice", 0, in(0, 3)), record("alice", 1, in(0, -30)), record("bob", 1, in(7, -9)), last)
	insert(t, s, record("alice", 0, func(r *ca.Record) { r.Issuer = "another" }))
	if err := s.Insert(t.Context(), last, nil, event(audit.Issue, "again")); !errors.Is(err, ca.ErrDuplicate) {
		t.Fatal(err)
	}
	revoke(t, s, last.Serial, &ca.Revocation{At: start})
	errs := together(20, func(i int) error {
		r := record(subject(i), time.Duration(i), in(uint32(i%2)*7, 1))
		return s.Insert(t.Context(), r, nil, event(audit.Issue, r.Serial.String()))
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	at := func(hours int) time.Time { return start.Add(time.Duration(hours) * time.Hour).Truncate(time.Second) }
	want := []ca.ShardCount{
		{Number: 0, Certificates: 12, NotAfter: at(3)}, {Number: 7, Certificates: 11, NotAfter: at(1)}, {Number: 300, Certificates: 1, NotAfter: at(5)},
	}
	for range 2 {
		if got, err := s.Shards(t.Context(), issuerID); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Shards = %v, %v; want %v", got, err, want)
		}
		s.reopen(t)
	}
}
