package boltstore

import (
	"errors"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pkid/pkid/tokenbind/authserver"
)

// TestClientIsNeverOld: whoever asks after a change was acknowledged is told of it, whatever is in memory.
func TestClientIsNeverOld(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	if _, err := s.PutClient(t.Context(), authserver.Client{ID: "alice"}, event("x")); err != nil {
		t.Fatal(err)
	}
	const versions = 200
	var acknowledged atomic.Uint64
	acknowledged.Store(1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for last := uint64(0); last < versions; {
				known := acknowledged.Load()
				c, err := s.Client(t.Context(), "alice")
				if err != nil || c.Version < known {
					t.Errorf("version %d (%v), when %d was acknowledged", c.Version, err, known)
					return
				}
				last = c.Version
			}
		})
	}
	for v := uint64(1); v < versions; v++ {
		c, err := s.PutClient(t.Context(), authserver.Client{ID: "alice", Version: v}, event("x"))
		if err != nil {
			t.Fatal(err)
		}
		acknowledged.Store(c.Version)
	}
	wg.Wait()
}

// TestClientReadBeforeAChange: what was read before a change must not be put into memory after it.
func TestClientReadBeforeAChange(t *testing.T) {
	k := known{records: map[string]*authserver.Client{}, changing: map[string]int{}}
	alice := &authserver.Client{ID: "alice"}
	gone := func(when string) uint64 {
		t.Helper()
		c, asOf := k.get("alice")
		if c != nil {
			t.Errorf("the old record is in memory %s", when)
		}
		return asOf
	}
	before := gone("before anything")
	k.keep(alice, before)
	done := k.change("alice")
	during := gone("during the change")
	for _, asOf := range []uint64{before, during} {
		k.keep(alice, asOf)
		gone("during the change, read before or during it")
	}
	other := k.change("alice")
	done()
	k.keep(alice, during)
	k.keep(alice, gone("after the first of two changes"))
	last := gone("during the second change")
	other()
	k.keep(alice, last)
	k.keep(alice, gone("after both"))
	if c, _ := k.get("alice"); c != alice || len(k.changing) != 0 {
		t.Errorf("after all: %v, %v", c, k.changing)
	}
}

func TestKnownClientsAreBounded(t *testing.T) {
	k := known{records: map[string]*authserver.Client{}, changing: map[string]int{}}
	for i := range maxKnown + 10 {
		k.keep(&authserver.Client{ID: strconv.Itoa(i)}, 0)
	}
	if c, _ := k.get(strconv.Itoa(maxKnown + 9)); c == nil || len(k.records) != maxKnown {
		t.Errorf("%d records, the newest is %v", len(k.records), c)
	}
}

// TestRefusedChangeOfAClient: the record in memory is not the one that was refused.
func TestRefusedChangeOfAClient(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	if _, err := s.PutClient(t.Context(), authserver.Client{ID: "alice", Subject: "first"}, event("x")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if c, err := s.Client(t.Context(), "alice"); err != nil || c.Subject != "first" {
			t.Fatalf("Client = %+v, %v", c, err)
		}
		_, err := s.PutClient(t.Context(), authserver.Client{ID: "alice", Subject: "second", Version: 7}, event("x"))
		if !errors.Is(err, authserver.ErrConflict) {
			t.Fatalf("PutClient = %v, want ErrConflict", err)
		}
	}
}
