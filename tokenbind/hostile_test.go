package tokenbind

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"strings"
	"testing"
	"time"
)

// An inner object is given no room for the text after it, so that what a stranger sends is read in time and memory
// that grow with its length and not with its square. The room itself is tested, since a clock would test the
// machine.
func TestManyObjectsAreReadInLinearTime(t *testing.T) {
	text := func(n int) string { return `{"x":[` + strings.Repeat(`{"":{}},`, n) + `0]}` }
	for _, n := range []int{100, 3000} {
		r := &jsonReader{text: text(n), depth: 2}
		if got := r.members(); got != 0 {
			t.Errorf("an inner object in %d octets makes room for %d members", len(r.text), got)
		}
	}
	o, err := decodeObject([]byte(text(100)))
	if err != nil || len(o) != 1 {
		t.Errorf("%d members, %v", len(o), err)
	}
}

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

func TestKeysThatAreNoneAreRefused(t *testing.T) {
	for name, key := range noKeys() {
		for _, alg := range []string{"ES256", "EdDSA", "PS256"} {
			if err := keyFits(alg, key); err == nil {
				t.Errorf("%s fits %s", name, alg)
			}
		}
	}
}

func noKeys() map[string]any {
	return map[string]any{
		"a short Ed25519 key":        ed25519.PublicKey("short"),
		"an ECDSA key without curve": &ecdsa.PublicKey{},
		"an RSA key without modulus": &rsa.PublicKey{},
		"something that is no key":   "key",
	}
}
