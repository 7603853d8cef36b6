package tokenbind

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func newNonces(t *testing.T, key byte, purpose string, c *clock) *Nonces {
	t.Helper()
	n, err := NewNonces(bytes.Repeat([]byte{key}, 32), purpose, time.Minute, c.Now)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestE12_NoncesNeedTheKey(t *testing.T) {
	c := newClock(testStart)
	seen := map[string]bool{}
	for key := range byte(20) {
		seen[newNonces(t, key, "as", c).Current()] = true
	}
	n := newNonces(t, 1, "as", c)
	for range 20 {
		c.Add(time.Minute)
		seen[n.Current()] = true
	}
	if len(seen) != 40 {
		t.Errorf("%d different nonces of 40", len(seen))
	}
}

func TestE13_RecentlySupplied(t *testing.T) {
	c := newClock(testStart.Truncate(time.Minute))
	n, other := newNonces(t, 1, "as", c), newNonces(t, 1, "as", c) // two nodes
	nonce := n.Current()
	for _, bad := range []string{"", nonce + "x", nonce[1:], strings.ToLower(nonce), "=" + nonce} {
		if n.Valid(bad) {
			t.Errorf("%q is valid", bad)
		}
	}
	if soon := n.at(n.bucket() + 1); n.Valid(soon) {
		t.Error("one that nobody was given yet is valid")
	}
	for range 120 { // the current stretch and the next
		if !n.Valid(nonce) || !other.Valid(nonce) {
			t.Fatalf("not valid at %v", c.Now())
		}
		c.Add(time.Second)
	}
	if n.Valid(nonce) {
		t.Error("valid for more than two stretches")
	}
}

func TestE14_NonceSyntax(t *testing.T) {
	nonce := newNonces(t, 1, "as", newClock(testStart)).Current()
	for _, c := range nonce { // NQCHAR of RFC 6749 appendix A
		if c < 0x21 || c > 0x7e || c == '"' || c == '\\' {
			t.Errorf("%q is no NQCHAR", c)
		}
	}
	if len(nonce) < 22 {
		t.Errorf("%q is short", nonce)
	}
}

func TestF12_NoncesOfASAndRSApart(t *testing.T) {
	c := newClock(testStart)
	as, rs := newNonces(t, 1, "as", c), newNonces(t, 1, "rs", c)
	if rs.Valid(as.Current()) || as.Valid(rs.Current()) {
		t.Error("a nonce of one is valid at the other")
	}
}

func TestNewNoncesRefuses(t *testing.T) {
	for name, construct := range map[string]func() (*Nonces, error){
		"short key": func() (*Nonces, error) { return NewNonces([]byte("short"), "as", time.Minute, nil) },
		"purpose":   func() (*Nonces, error) { return NewNonces(bytes.Repeat([]byte{1}, 32), "", time.Minute, nil) },
		"lifetime":  func() (*Nonces, error) { return NewNonces(bytes.Repeat([]byte{1}, 32), "as", 0, nil) },
	} {
		if n, err := construct(); err == nil {
			t.Errorf("%s: got %v", name, n)
		}
	}
}

// A checker whose memory begins at Since takes no earlier proof, and lets a client in at its second try whether
// nonces are known, demanded or neither.
func TestProofCheckerSince(t *testing.T) {
	for name, set := range map[string]func(*proofKit){
		"no nonces":       func(*proofKit) {},
		"nonces known":    func(k *proofKit) { k.checker.Nonces = newNonces(t, 1, "as", k.clock) },
		"nonces demanded": func(k *proofKit) { k.checker.Nonces = newNonces(t, 1, "as", k.clock); k.request.RequireNonce = true },
	} {
		t.Run(name, func(t *testing.T) {
			k := newProofKit(t)
			set(k)
			k.checker.Since = testStart
			old := ""
			if k.checker.Nonces != nil {
				old = k.checker.Nonces.Current() // of an earlier process with the same key
			}
			withNonce := func(nonce string) string {
				return k.proof(t, func(_, c object) {
					if nonce != "" {
						c["nonce"] = nonce
					}
				})
			}
			for range 30 { // during the start and after it
				if late := k.clock.Now().Sub(testStart); late <= 10*time.Second {
					check := "restart"
					if old == "" && k.request.RequireNonce {
						check = "nonce"
					}
					refused := k.refuse(t, check, withNonce(old))
					if refused.Code != CodeUseNonce || refused.Nonce == "" {
						t.Fatalf("after %v: %+v", late, refused)
					}
					k.accept(t, withNonce(refused.Nonce))
				} else if k.request.RequireNonce {
					k.accept(t, withNonce(k.refuse(t, "nonce", withNonce("")).Nonce))
				} else {
					k.accept(t, withNonce(""))
				}
				k.clock.Add(5 * time.Second)
			}
			another := &ProofChecker{Replay: k.checker.Replay, Now: k.clock.Now, Since: testStart}
			another.begin()
			if another.fresh.Valid(k.checker.fresh.Current()) {
				t.Error("a nonce of another process shows nothing")
			}
		})
	}
}
