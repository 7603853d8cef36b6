package recent

import (
	"sync"
	"testing"
)

func TestCache_IsBounded(t *testing.T) {
	for limit, least := range map[int]int{-1: 0, 0: 0, 1: 0, 2: 1, 3: 1, 10: 5, 1000: 500, 4096: 1024} {
		c := New[int, int](limit)
		for n := range 10_000 {
			c.Put(n, n)
			if n%100 == 0 && c.Len() > max(limit, 0) {
				t.Fatalf("limit %d: %d are held", limit, c.Len())
			}
		}
		if got := c.Len(); got > max(limit, 0) || got < least {
			t.Errorf("limit %d: %d are held", limit, got)
		}
	}
}

// What is used stays, however many others come, as does the half that came last; what is not used goes.
func TestCache_KeepsWhatIsUsed(t *testing.T) {
	const limit, used, unused = 20, -1, -2
	c := New[int, int](limit)
	c.Put(used, used)
	c.Put(unused, unused)
	for n := range 1000 {
		c.Put(n, n)
		if v, found := c.Get(used); !found || v != used {
			t.Fatalf("after %d others: %d, %t", n+1, v, found)
		}
		for last := range min(n, limit/2-1) {
			if v, found := c.Get(n - last); !found || v != n-last {
				t.Fatalf("%d is %d, %t, though it was among the last", n-last, v, found)
			}
		}
		if got := c.Len(); got > limit {
			t.Fatalf("%d are held", got)
		}
	}
	if v, found := c.Get(unused); found || v != 0 {
		t.Errorf("unused: %d, %t", v, found)
	}
}

func TestCache_Drops(t *testing.T) {
	c := New[string, int](4)
	keys := []string{"a", "b", "c"} // in both generations
	for i, key := range keys {
		c.Put(key, i)
	}
	for i, key := range keys {
		if v, found := c.Get(key); !found || v != i {
			t.Errorf("%s is %d, %t", key, v, found)
		}
		c.Drop(key)
		c.Drop(key + "?")
		if _, found := c.Get(key); found {
			t.Errorf("%s is still there", key)
		}
	}
	if c.Len() != 0 {
		t.Errorf("%d are held", c.Len())
	}
}

// A key has the value that it was put with last, wherever the one before lies.
func TestCache_Replaces(t *testing.T) {
	c := New[string, int](4)
	c.Put("a", 1)
	c.Put("a", 2) // among the young
	if v, _ := c.Get("a"); v != 2 || c.Len() != 1 {
		t.Errorf("%d, %d are held", v, c.Len())
	}
	c.Put("b", 0)
	c.Put("c", 0)
	c.Put("a", 3) // among the old
	if v, _ := c.Get("a"); v != 3 {
		t.Errorf("%d after it was put among the old", v)
	}
}

func TestCache_ManyAtOnce(t *testing.T) {
	const limit = 50
	c := New[int, int](limit)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 3000 {
				n = (n*7 + g) % 200
				switch v, found := c.Get(n); {
				case !found:
					c.Put(n, n)
				case v != n:
					t.Errorf("%d instead of %d", v, n)
				case n%10 == 0:
					c.Drop(n)
				}
			}
		})
	}
	wg.Wait()
	if c.Len() > limit {
		t.Errorf("%d are held", c.Len())
	}
}
