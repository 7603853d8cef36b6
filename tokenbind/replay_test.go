package tokenbind

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"runtime"
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

// A million others in its window make nobody forget a proof, from its first second to its last, the clocks' tolerance
// included; nor is one of the others forgotten.
func TestE27_AfterManyOthers(t *testing.T) {
	const others, window = 1_000_000, 80 // seconds in which a proof of a clock that is 10 s ahead is taken
	k := newProofKit(t)
	m := NewMemoryReplay(others+1, k.clock.Now)
	k.checker.Replay = m
	proof := k.proof(t, func(_, c object) { c["iat"] = testStart.Add(10 * time.Second).Unix() })
	k.accept(t, proof)
	ctx := t.Context()
	key := func(n int) (key [32]byte) { // as good as a hash for a map, and made in no time
		binary.BigEndian.PutUint64(key[:], uint64(n))
		return key
	}
	for second := range window {
		until := k.clock.Now().Add(90 * time.Second)
		for n := second * others / window; n < (second+1)*others/window; n++ {
			if err := m.Use(ctx, key(n), until); err != nil {
				t.Fatal(n, err)
			}
		}
		k.refuse(t, "replay", proof)
		k.clock.Add(time.Second)
	}
	k.refuse(t, "replay", proof) // in the last second that it is taken at all
	if len(m.used) != others+1 {
		t.Errorf("%d uses are remembered", len(m.used))
	}
	for n := 0; n < others; n += 10 {
		if err := m.Use(ctx, key(n), k.clock.Now().Add(90*time.Second)); !errors.Is(err, ErrReplayed) {
			t.Fatalf("use %d of %d: %v", n, others, err)
		}
	}
	k.clock.Add(time.Second)
	k.refuse(t, "iat", proof)
	k.clock.Add(2 * time.Minute) // then all of it is forgotten
	if err := m.Use(ctx, key(others), k.clock.Now().Add(time.Minute)); err != nil || len(m.used) != 1 {
		t.Errorf("%d uses are kept, %v", len(m.used), err)
	}
}

// While the memory is full nothing in it is forgotten, and what is new is refused until there is room.
func TestE27_FullMemoryForgetsNothing(t *testing.T) {
	const room = 10_000
	c := newClock(testStart)
	m := NewMemoryReplay(room, c.Now)
	for n := range 2 * room {
		if err := m.Use(t.Context(), replayKey(n), c.Now().Add(time.Minute)); n < room != (err == nil) || n >= room && !errors.Is(err, ErrReplayFull) {
			t.Fatal(n, err)
		}
	}
	for n := range room {
		if err := m.Use(t.Context(), replayKey(n), c.Now().Add(time.Minute)); !errors.Is(err, ErrReplayed) {
			t.Fatal(n, err)
		}
	}
}

// BenchmarkReplayMemory has a million proofs remembered at once, and tells what one takes.
func BenchmarkReplayMemory(b *testing.B) {
	const proofs = 1_000_000
	c := newClock(testStart)
	var octets uint64
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		m := NewMemoryReplay(proofs, c.Now)
		for n := range proofs {
			until := testStart.Add(time.Duration(n) * 80 * time.Second / proofs)
			if err := m.Use(b.Context(), replayKey(n), until.Add(time.Minute)); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(m)
		octets = after.HeapAlloc - before.HeapAlloc
	}
	b.ReportMetric(float64(octets)/proofs, "B/proof")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/proofs, "ns/proof")
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
