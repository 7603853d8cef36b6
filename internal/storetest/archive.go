package storetest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
)

var archiveTests = map[string]func(*testing.T, *store){
	"DropAuditInSmallSteps":          testDropAudit,
	"DropAuditOfWhatIsNotThere":      testDropAuditRefused,
	"DropAuditKeepsTheNewest":        testDropAuditAll,
	"DropAuditKeepsWhatIsIndexed":    testDropAuditIndex,
	"DropAuditBesideWritersOfTheLog": testDropAuditConcurrent,
}

// fillAudit seals n events and returns the log.
func fillAudit(t *testing.T, s *store, n int) []audit.Entry {
	t.Helper()
	for i := range n {
		if err := s.Record(t.Context(), event("test", subject(i))); err != nil {
			t.Fatal(err)
		}
	}
	return readAudit(t, s)
}

func checkDrop(t *testing.T, s *store, upTo audit.Head, limit, want int) {
	t.Helper()
	if n, err := s.DropAudit(t.Context(), upTo, limit); n != want || err != nil {
		t.Fatalf("DropAudit(%d, %d) = %d, %v; want %d", upTo.Seq, limit, n, err, want)
	}
}

func testDropAudit(t *testing.T, s *store) {
	log := fillAudit(t, s, 10)
	for i, want := range []int{3, 3, 1, 0} {
		checkDrop(t, s, log[6].Head(), 3, want)
		if got := base(t, s); got != log[min(3*(i+1), 7)-1].Head() {
			t.Errorf("step %d: AuditBase = %v", i, got)
		}
		s.reopen(t)
		verifyChain(t, s)
	}
	for _, after := range []uint64{0, 3, 6, 7} {
		if got, err := s.Audit(t.Context(), after, 1); err != nil || len(got) != 1 || got[0].Seq != 8 || got[0].Prev != log[6].Hash {
			t.Errorf("Audit(%d) = %+v, %v; want entry 8", after, got, err)
		}
	}
	if err := s.Record(t.Context(), event("test", "more")); err != nil {
		t.Fatal(err)
	}
	if n := len(readAudit(t, s)); n != 4 {
		t.Errorf("%d entries are left, want 4", n)
	}
}

func testDropAuditRefused(t *testing.T, s *store) {
	log := fillAudit(t, s, 5)
	checkDrop(t, s, audit.Head{}, 10, 0) // the base
	checkDrop(t, s, log[1].Head(), 10, 2)
	for name, upTo := range map[string]audit.Head{
		"another hash": {Seq: 3, Hash: audit.Hash{1}}, "a number and no hash": {Seq: 3}, "the future": {Seq: 6, Hash: log[4].Hash},
		"far": {Seq: 1<<64 - 1}, "dropped already": log[0].Head(), "nothing": {},
	} {
		if n, err := s.DropAudit(t.Context(), upTo, 10); n != 0 || !errors.Is(err, audit.ErrNoEntry) {
			t.Errorf("%s: DropAudit = %d, %v; want ErrNoEntry", name, n, err)
		}
	}
	if n := len(readAudit(t, s)); n != 3 {
		t.Errorf("%d entries are left, want 3", n)
	}
}

func testDropAuditAll(t *testing.T, s *store) {
	log := fillAudit(t, s, 5)
	checkDrop(t, s, log[4].Head(), 10, 4)
	checkDrop(t, s, log[4].Head(), 10, 0)
	s.reopen(t)
	if head, err := s.AuditHead(t.Context()); err != nil || head != log[4].Head() {
		t.Errorf("AuditHead = %v, %v; want %v", head, err, log[4].Head())
	}
}

// testDropAuditIndex: an engine that finds certificates through their entries still finds them.
func testDropAuditIndex(t *testing.T, s *store) {
	var recs []*ca.Record
	for i := range 20 {
		recs = append(recs, record(subject(i%3), 0))
	}
	insert(t, s, recs[:10]...)
	log := readAudit(t, s)
	checkDrop(t, s, log[7].Head(), 5, 5)
	insert(t, s, recs[10:]...)
	checkDrop(t, s, log[7].Head(), 5, 3)
	for range 2 {
		for _, r := range recs {
			if got, err := s.byThumbprint(t, r.Thumbprint); err != nil || got.Serial != r.Serial {
				t.Errorf("by thumbprint: %v", err)
			}
		}
		if n := len(list(t, s, ca.Query{ClientID: subject(0), Limit: 100})); n != 7 {
			t.Errorf("%d certificates of a client, want 7", n)
		}
		s.reopen(t)
	}
}

func testDropAuditConcurrent(t *testing.T, s *store) {
	log := fillAudit(t, s, 40)
	errs := together(6, func(i int) error {
		for k := range 10 {
			if i == 0 {
				if _, err := s.DropAudit(t.Context(), log[4*k+3].Head(), 100); err != nil {
					return err
				}
			} else if err := s.Record(t.Context(), event("test", fmt.Sprint(i, k))); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if n := len(readAudit(t, s)); n != 50 {
		t.Errorf("%d entries, want 50", n)
	}
}
