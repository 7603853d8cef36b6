package storetest

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/tokenbind/authserver"
)

var auditTests = map[string]func(*testing.T, *store){
	"AuditRoundTrip":               testAudit,
	"AuditPages":                   testAuditPages,
	"AuditOfConcurrentWriters":     testAuditConcurrent,
	"AuditOfTextThatIsNotUTF8":     testAuditText,
	"AuditContinuesAfterReopening": testAuditReopen,
}

func testAudit(t *testing.T, s *store) {
	if head, err := s.AuditHead(t.Context()); err != nil || head != (audit.Head{}) {
		t.Fatalf("AuditHead of an empty store = %v, %v", head, err)
	}
	ev := event(audit.Initialise, "pkid")
	ev.Time = start.Add(1234567 * time.Microsecond)
	if err := s.Record(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
	want := audit.Seal(audit.Head{}, ev)
	s.reopen(t)
	got, err := s.Audit(t.Context(), 0, 10)
	if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("Audit = %+v, %v; want %+v", got, err, want)
	}
}

func testAuditPages(t *testing.T, s *store) {
	for i := range 5 {
		if err := s.Record(t.Context(), event("test", subject(i))); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		after uint64
		limit int
		first uint64
		want  int
	}{{0, 2, 1, 2}, {2, 2, 3, 2}, {4, 2, 5, 1}, {5, 2, 0, 0}, {99, 2, 0, 0}, {1<<64 - 1, 2, 0, 0}, {0, 100, 1, 5}, {0, 0, 0, 0}} {
		got, err := s.Audit(t.Context(), c.after, c.limit)
		if err != nil || len(got) != c.want || len(got) > 0 && got[0].Seq != c.first {
			t.Errorf("Audit(%d, %d) = %v, %v; want %d entries from %d", c.after, c.limit, got, err, c.want, c.first)
		}
	}
}

// testAuditConcurrent has every kind of act at once, some of them refused: the log has one entry for each that
// was acknowledged, and Run verifies the chain.
func testAuditConcurrent(t *testing.T, s *store) {
	const workers, rounds = 12, 5
	errs := together(workers, func(i int) error {
		for k := range rounds {
			r := record(subject(i), time.Duration(k)*time.Second)
			inv := invitation()
			if err := errors.Join(
				s.PutInvitation(t.Context(), inv, event(audit.Invite, inv.ID)),
				s.Insert(t.Context(), r, &ca.Spend{ID: inv.ID, Use: [32]byte{1}}, event(audit.Issue, r.Serial.String())),
				s.RevokeToken(t.Context(), newID(), start.Add(time.Hour), event(audit.TokenRevoke, "x")),
				s.Record(t.Context(), event("test", "x")),
			); err != nil {
				return err
			}
			if err := s.Insert(t.Context(), r, nil, event(audit.Issue, "again")); !errors.Is(err, ca.ErrDuplicate) {
				return errors.Join(errors.New("a duplicate was kept"), err)
			}
			if _, err := s.Decide(t.Context(), r.Serial, func(*ca.Record) (*ca.Revocation, audit.Event, error) {
				return &ca.Revocation{At: start}, event(audit.Revoke, r.Serial.String()), nil
			}); err != nil {
				return err
			}
			if _, err := s.PutClient(t.Context(), authserver.Client{ID: newID()}, event(audit.ClientAdd, "x")); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if got, want := len(readAudit(t, s)), workers*rounds*6; got != want {
		t.Errorf("%d entries for %d acts", got, want)
	}
}

// testAuditText: what a caller sent may stand in an event, and must not break the chain when it is read back.
func testAuditText(t *testing.T, s *store) {
	ev := event("test", "bad \xff\xc3 text\x00\u2028<&>")
	ev.Detail = map[string]string{"\xfe": "\xfd", "ok": "\ufffd"}
	if err := s.Record(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
	if err := s.Record(t.Context(), event("test", "after")); err != nil {
		t.Fatal(err)
	}
}

func testAuditReopen(t *testing.T, s *store) {
	for i := range 3 {
		if err := s.Record(t.Context(), event("test", subject(i))); err != nil {
			t.Fatal(err)
		}
		s.reopen(t)
	}
	if n := len(readAudit(t, s)); n != 3 {
		t.Errorf("%d entries, want 3", n)
	}
}
