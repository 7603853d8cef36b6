package admission

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// reasonOf is why Enter refused; empty if it did not.
func reasonOf(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	full, ok := errors.AsType[*FullError](err)
	if !ok {
		t.Fatalf("an error of another kind: %v", err)
	}
	if after := full.RetryAfter(); after < time.Second || after > 3*time.Second || after%time.Second != 0 {
		t.Errorf("to be tried again after %s", after)
	}
	return full.Reason
}

// The newest of those who wait is served first, and the oldest is refused when too many do.
func TestGate_NewestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(1, 2, time.Second)
		if err := g.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		type end struct{ name, reason string }
		ends := make(chan end, 3)
		for _, name := range []string{"first", "second", "third"} {
			go func() { ends <- end{name, reasonOf(t, g.Enter(t.Context()))} }()
			synctest.Wait()
		}
		if got := <-ends; got != (end{"first", QueueFull}) {
			t.Errorf("when the third came: %v", got)
		}
		if n := g.Waiting(); n != 2 {
			t.Errorf("%d wait", n)
		}
		g.Leave()
		if got := <-ends; got != (end{"third", ""}) {
			t.Errorf("when there was room: %v", got)
		}
		began := time.Now()
		if got := <-ends; got != (end{"second", Waited}) || time.Since(began) != time.Second {
			t.Errorf("after %s: %v", time.Since(began), got)
		}
		g.Leave()
		if err := g.Enter(t.Context()); err != nil {
			t.Errorf("with room again: %v", err)
		}
	})
}

func TestGate_ContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(1, 1, time.Minute)
		if err := g.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("its context ended: %v", err)
		}
		if g.Waiting() != 0 {
			t.Error("who is gone waits")
		}
	})
}

// Who gets the place in the moment in which it gives up has it, and so gives it back: else it would be lost.
func TestGate_PlaceIsNotLost(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	g := NewGate(1, 1, time.Minute)
	for range 50 {
		if err := g.Enter(t.Context()); err != nil {
			t.Fatalf("the place is lost: %v", err)
		}
		turn := make(chan bool, 1)
		place := g.waiting.PushBack(turn)
		g.Leave()
		if err := g.await(gone, place, turn); err != nil {
			t.Fatalf("it was its turn: %v", err)
		}
		g.Leave()
	}
}

func TestGate_NobodyMayWait(t *testing.T) {
	g := NewGate(1, 0, time.Minute)
	if err := g.Enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := reasonOf(t, g.Enter(t.Context())); got != QueueFull {
		t.Errorf("reason %q", got)
	}
}

// However they come and go, there are never more inside than allowed, and in the end all places are free.
func TestGate_KeepsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 3
		g := NewGate(most, 5, 2*time.Millisecond)
		var inside, entered atomic.Int64
		for i := range 200 {
			go func() {
				time.Sleep(time.Duration(i%17) * time.Millisecond)
				if g.Enter(t.Context()) != nil {
					return
				}
				if inside.Add(1) > most {
					t.Error("too many inside")
				}
				entered.Add(1)
				time.Sleep(time.Duration(i%3) * time.Millisecond)
				inside.Add(-1)
				g.Leave()
			}()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if g.free != most || g.Waiting() != 0 || entered.Load() < most {
			t.Errorf("%d places free, %d wait, %d were in", g.free, g.Waiting(), entered.Load())
		}
	})
}
