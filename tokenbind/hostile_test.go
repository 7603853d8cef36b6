package tokenbind

import (
	"testing"
	"time"
)

func TestInvariant7_MemoryGivenByHandForgetsAtARestart(t *testing.T) {
	k := newResourceKit(t)
	r := k.dpopRequest(t, k.dpopToken(t), ProofOptions{})
	for range 2 { // two processes, one after the other
		k.clock.Add(time.Second)
		v := k.verifier(t, func(c *Config) { c.Replay = NewMemoryReplay(5_000_000, k.clock.Now) })
		if _, err := v.Verify(r); err == nil {
			t.Error("a proof from before the start was taken without a nonce")
		}
	}
}

// A clock that was ahead, and was set right, does not fill the memory until it is there again.
func TestReplayAfterTheClockWasAhead(t *testing.T) {
	c := newClock(testStart.Add(24 * time.Hour))
	m := NewMemoryReplay(100, c.Now)
	if err := m.Use(t.Context(), [32]byte{31: 9}, c.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	c.Add(-24 * time.Hour)
	for i := range 1000 {
		key := [32]byte{byte(i), byte(i >> 8)}
		if err := m.Use(t.Context(), key, c.Now().Add(80*time.Second)); err != nil {
			t.Fatalf("use %d, one a minute: %v", i, err)
		}
		if err := m.Use(t.Context(), key, c.Now().Add(80*time.Second)); err == nil {
			t.Fatalf("use %d was taken twice", i)
		}
		c.Add(time.Minute)
	}
}
