package tokenbind

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"
)

func replayKey(n int) [32]byte {
	return sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

func TestMemoryReplay(t *testing.T) {
	c := newClock(testStart.Add(300 * time.Millisecond))
	m := NewMemoryReplay(2, c.Now)
	until := c.Now().Add(1500 * time.Millisecond)
	use := func(n int, until time.Time) error { return m.Use(t.Context(), replayKey(n), until) }

	if err := use(1, until); err != nil {
		t.Fatal(err)
	}
	if err := use(1, until.Add(time.Hour)); !errors.Is(err, ErrReplayed) {
		t.Errorf("got %v", err)
	}
	if err := use(2, until); err != nil {
		t.Error(err)
	}
	if err := use(3, until); !errors.Is(err, ErrReplayFull) {
		t.Errorf("got %v", err)
	}
	if err := use(1, until); !errors.Is(err, ErrReplayed) {
		t.Errorf("full, it forgot: %v", err)
	}
	c.Add(1500 * time.Millisecond) // the instant itself still counts
	if err := use(1, until); !errors.Is(err, ErrReplayed) {
		t.Errorf("got %v", err)
	}
	c.Add(2 * time.Second)
	for n := range 2 {
		if err := use(n, c.Now().Add(time.Second)); err != nil {
			t.Errorf("room was not made: %v", err)
		}
	}
}

// Forgotten is what ended, whether the clock crept or leapt, and nothing else.
func TestMemoryReplayForgets(t *testing.T) {
	for _, step := range []time.Duration{time.Second, 7 * time.Second, 24 * time.Hour} {
		c := newClock(testStart)
		m := NewMemoryReplay(1000, c.Now)
		for n := range 200 {
			if err := m.Use(t.Context(), replayKey(n), c.Now().Add(30*time.Second)); err != nil {
				t.Fatal(err)
			}
			c.Add(step)
			if n%10 == 0 {
				if err := m.Use(t.Context(), replayKey(n), c.Now()); step < 30*time.Second != errors.Is(err, ErrReplayed) {
					t.Errorf("step %v: %v", step, err)
				}
			}
		}
		if len(m.used) > 40 || len(m.expires) > 40 {
			t.Errorf("step %v: %d uses in %d seconds are kept", step, len(m.used), len(m.expires))
		}
	}
}

func TestMemoryReplayClockGoesBack(t *testing.T) {
	c := newClock(testStart)
	m := NewMemoryReplay(10, c.Now)
	for _, jump := range []time.Duration{0, -time.Hour, 30 * time.Minute} {
		c.Add(jump)
		for n := range 2 {
			err := m.Use(t.Context(), replayKey(n), testStart.Add(time.Minute))
			if first := jump == 0; first != (err == nil) {
				t.Errorf("after %v: %v", jump, err)
			}
		}
	}
}

// A use that was forgotten while the clock was a little ahead does not count again when the clock is right.
func TestMemoryReplayClockWasAhead(t *testing.T) {
	c := newClock(testStart)
	m := NewMemoryReplay(10, c.Now)
	until := testStart.Add(30 * time.Second)
	if err := m.Use(t.Context(), replayKey(0), until); err != nil {
		t.Fatal(err)
	}
	c.Add(50 * time.Second)
	if err := m.Use(t.Context(), replayKey(1), c.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	c.Add(-50 * time.Second)
	if err := m.Use(t.Context(), replayKey(0), until); !errors.Is(err, ErrReplayed) {
		t.Errorf("used twice: %v", err)
	}
	if err := m.Use(t.Context(), replayKey(2), testStart.Add(80*time.Second)); err != nil {
		t.Errorf("a new one: %v", err)
	}
}

// What All gives makes another memory that knows the same, for no shorter a time.
func TestMemoryReplayAll(t *testing.T) {
	c := newClock(testStart.Add(300 * time.Millisecond))
	m, next := NewMemoryReplay(100, c.Now), NewMemoryReplay(100, c.Now)
	ends := map[[32]byte]time.Time{}
	for n := range 50 {
		end := c.Now().Add(time.Duration(n) * 370 * time.Millisecond)
		if ends[replayKey(n)] = end; m.Use(t.Context(), replayKey(n), end) != nil {
			t.Fatal("not taken")
		}
	}
	all := m.All()
	for key, until := range all {
		if late := until.Sub(ends[key]); late <= 0 || late > time.Second || until.Nanosecond() != 0 {
			t.Errorf("%v became %v", ends[key], until)
		}
		if err := next.Use(t.Context(), key, until); err != nil {
			t.Error(err)
		}
	}
	for n := range 50 {
		if err := next.Use(t.Context(), replayKey(n), c.Now()); !errors.Is(err, ErrReplayed) {
			t.Errorf("use %d was lost: %v", n, err)
		}
	}
	c.Add(10 * time.Second)
	for key := range m.All() {
		if end := ends[key]; end.Before(c.Now().Add(-time.Second)) {
			t.Errorf("a use until %v at %v", end, c.Now())
		}
	}
	if got := len(maps.Collect(all)); got != 50 {
		t.Errorf("a second walk gives %d", got)
	}
	for range all {
		break // a walk may be given up
	}
}

func TestMemoryReplayAllWhileUsed(t *testing.T) {
	m := NewMemoryReplay(100_000, nil)
	until := time.Now().Add(time.Minute)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for n := range 2000 {
				if err := m.Use(t.Context(), replayKey(g*2000+n), until); err != nil {
					t.Error(err)
				}
			}
		})
	}
	before := 0
	for range 50 {
		all := m.All()
		now := len(maps.Collect(all))
		if now < before || now != len(maps.Collect(all)) {
			t.Errorf("%d uses after %d", now, before)
		}
		before = now
	}
	wg.Wait()
	if got := len(maps.Collect(m.All())); got != 8000 {
		t.Errorf("%d uses", got)
	}
}

func TestE27_AfterManyOthers(t *testing.T) {
	k := newProofKit(t)
	m := NewMemoryReplay(200_000, k.clock.Now)
	k.checker.Replay = m
	proof := k.proof(t)
	k.accept(t, proof)
	for n := range 150_000 {
		if err := m.Use(t.Context(), replayKey(n), testStart.Add(70*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	k.refuse(t, "replay", proof)
}

func BenchmarkMemoryReplay(b *testing.B) {
	c := newClock(testStart)
	m := NewMemoryReplay(b.N+1, c.Now)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%1000 == 0 {
			c.Add(time.Second)
		}
		if err := m.Use(b.Context(), replayKey(n), c.Now().Add(90*time.Second)); err != nil && !errors.Is(err, ErrReplayFull) {
			b.Fatal(err)
		}
	}
}
