package client

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever waits for another process gives up when its caller does.
func TestRenewEndsWithItsContextWhileAnotherHoldsTheLock(t *testing.T) {
	id := newFakeCA(t).identity()
	unlock := must(lockDir(t.Context(), id.Dir()))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := id.Renew(ctx, RenewOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	unlock()
	if err := id.Renew(t.Context(), RenewOptions{}); err != nil {
		t.Error(err)
	}
}

func TestLockIsNotWaitedForForever(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		unlock := must(lockDir(t.Context(), dir))
		defer unlock()
		start := time.Now()
		_, err := lockDir(t.Context(), dir)
		if err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(start); waited < lockPatience || waited > lockPatience+time.Second {
			t.Errorf("waited %v, want %v", waited, lockPatience)
		}
	})
}

func TestLockIsTakenWhenItIsFree(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		unlock := must(lockDir(t.Context(), dir))
		time.AfterFunc(lockPatience/2, unlock)
		second, err := lockDir(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		second()
	})
}

// Several processes that start at once with no key yet end up with one, which is in the file.
func TestLoadKeyAtOnce(t *testing.T) {
	for range 10 {
		name := filepath.Join(t.TempDir(), "dpop.key")
		var wg sync.WaitGroup
		keys := make([]any, 4)
		for i := range keys {
			wg.Go(func() {
				key, err := LoadKey(name, "P-256")
				if err != nil {
					t.Error(err)
					return
				}
				keys[i] = key.Public()
			})
		}
		wg.Wait()
		stored := must(LoadKey(name, "")).Public()
		for _, k := range keys {
			if k != nil && !samePublicKey(stored, k) {
				t.Error("a caller has a key that is not in the file")
			}
		}
	}
}
