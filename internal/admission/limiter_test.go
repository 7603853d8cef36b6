package admission

import (
	"net/netip"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	l := NewLimiter[string](60)
	now := time.Unix(1_800_000_000, 0)
	for i := range 60 {
		if _, ok := l.Take("a", now); !ok {
			t.Fatalf("refused at %d", i)
		}
	}
	if after, ok := l.Take("a", now); ok || after != time.Second {
		t.Errorf("the 61st: %v, again after %s", ok, after)
	}
	if after, ok := l.Left("a", now); ok || after != time.Second {
		t.Errorf("nothing is left: %v, again after %s", ok, after)
	}
	if _, ok := l.Take("b", now); !ok {
		t.Error("another key has no allowance of its own")
	}
	now = now.Add(time.Second)
	if _, ok := l.Left("a", now); !ok {
		t.Error("a second later nothing has come back")
	}
	if _, ok := l.Take("a", now); !ok {
		t.Error("asking whether something is left has used it up")
	}
	if _, ok := l.Take("a", now); ok {
		t.Error("two came back in a second")
	}
}

func TestLimiter_NilAllowsAll(t *testing.T) {
	l := NewLimiter[string](0)
	for range 1000 {
		if _, ok := l.Take("a", time.Now()); !ok {
			t.Fatal("refused")
		}
	}
	if _, ok := l.Left("a", time.Now()); !ok {
		t.Error("nothing left")
	}
}

// However many addresses a stranger has, no more than a bounded number is remembered.
func TestLimiter_MemoryIsBounded(t *testing.T) {
	l := NewLimiter[Address](10)
	for i := range maxLimited * 5 / 4 {
		l.Take(addressOf(netip.AddrFrom16([16]byte{0x20, 1, byte(i >> 16), byte(i >> 8), byte(i)})), time.Now())
	}
	if n := l.kept.Len(); n > maxLimited {
		t.Errorf("%d are remembered", n)
	}
}

func TestAddressOf(t *testing.T) {
	for _, same := range [][2]string{
		{"192.0.2.1", "192.0.2.1:443"},
		{"192.0.2.1", "::ffff:192.0.2.1"},
		{"[2001:db8:1:2::1]:443", "2001:db8:1:2:ffff:ffff:ffff:ffff"},
		{"fe80::1%eth0", "[fe80::2%eth1]:1"},
	} {
		if AddressOf(same[0]) != AddressOf(same[1]) {
			t.Errorf("%s and %s count apart", same[0], same[1])
		}
	}
	for _, other := range [][2]string{
		{"192.0.2.1", "192.0.2.2"},
		{"2001:db8:1:2::1", "2001:db8:1:3::1"},
		{"::c000:201", "192.0.2.1"},
		{"@", "192.0.2.1"},
	} {
		if AddressOf(other[0]) == AddressOf(other[1]) {
			t.Errorf("%s and %s count as one", other[0], other[1])
		}
	}
}
