package boltstore

import (
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkid/pkid/tokenbind"
)

func useProof(t *testing.T, s *Store, key byte, want error) {
	t.Helper()
	if err := s.Proofs().Use(t.Context(), [32]byte{key}, time.Now().Add(time.Hour)); !errors.Is(err, want) {
		t.Errorf("Use(%d) = %v, want %v", key, err, want)
	}
}

func checkSince(t *testing.T, s *Store, from, to time.Time) {
	t.Helper()
	if since := s.Proofs().Since(); since.Before(from) || since.After(to) {
		t.Errorf("Since = %s, want it from %s to %s", since, from, to)
	}
}

// TestProofsOutliveAClosedStore: what was used is refused after a restart, and the store says that it knows all.
func TestProofsOutliveAClosedStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	checkSince(t, s, time.Time{}, time.Time{})
	useProof(t, s, 1, nil)
	useProof(t, s, 1, tokenbind.ErrReplayed)
	for i := range 3 {
		closeStore(t, s)
		s = openTest(t, path)
		checkSince(t, s, time.Time{}, time.Time{})
		if i == 1 {
			continue // opened, and nothing used
		}
		useProof(t, s, 1, tokenbind.ErrReplayed)
		useProof(t, s, byte(2+i), nil)
	}
	closeStore(t, s)
	useProof(t, s, 9, ErrClosed)
}

// TestProofsAfterACrash: what was in memory is gone, and the store says from when on it knows all, until it knows of
// nothing from before.
func TestProofsAfterACrash(t *testing.T) {
	dir := t.TempDir()
	path, crashed := filepath.Join(dir, "pkid.db"), filepath.Join(dir, "crashed.db")
	s := openTest(t, path)
	useProof(t, s, 1, nil)
	closeStore(t, s)

	s = openTest(t, path)
	copyFile(t, path, crashed) // nothing was used yet, so nothing is missing
	again := openTest(t, crashed)
	checkSince(t, again, time.Time{}, time.Time{})
	useProof(t, again, 1, tokenbind.ErrReplayed)
	closeStore(t, again)

	useProof(t, s, 2, nil)
	copyFile(t, path, crashed)
	before := time.Now()
	again = openTest(t, crashed)
	after := time.Now()
	checkSince(t, again, before, after)
	useProof(t, again, 1, nil) // which is why
	closeStore(t, again)

	again = openTest(t, crashed)
	checkSince(t, again, before.Truncate(time.Millisecond), after.Add(time.Millisecond))
	useProof(t, again, 1, tokenbind.ErrReplayed)
}

// TestProofsThatCannotBeForgotten: while nothing can be written, a proof is refused rather than taken on the word of a
// memory that a crash would bring back.
func TestProofsThatCannotBeForgotten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	release := hold(t, s)
	s.inDoubt = ErrInDoubt // the writer, held, reads it after this
	release()
	for range 2 {
		useProof(t, s, 1, ErrInDoubt)
	}
	closeStore(t, s)
	s = openTest(t, path)
	checkSince(t, s, time.Time{}, time.Time{})
	useProof(t, s, 1, nil)
}

func TestProofUsedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	const proofs, callers = 5000, 8
	var won atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := range proofs {
				if s.Proofs().Use(t.Context(), [32]byte{byte(i), byte(i >> 8)}, time.Now().Add(time.Hour)) == nil {
					won.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if won.Load() != proofs {
		t.Errorf("%d uses of %d proofs", won.Load(), proofs)
	}
	closeStore(t, s)
	s = openTest(t, path)
	for i := range proofs {
		if err := s.Proofs().Use(t.Context(), [32]byte{byte(i), byte(i >> 8)}, time.Now().Add(time.Hour)); !errors.Is(err, tokenbind.ErrReplayed) {
			t.Fatalf("proof %d after reopening: %v", i, err)
		}
	}
}
