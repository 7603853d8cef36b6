package tokenbind

import (
	"sync"
	"testing"
)

func (r *recent[V]) size() (n int) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.RLock()
		n += len(s.young) + len(s.old)
		s.mu.RUnlock()
	}
	return n
}

func TestRecentIsBounded(t *testing.T) {
	for limit, least := range map[int]int{-1: 0, 0: 0, 1: 0, 2: 1, 10: 5, 1000: 500, 4096: 1024} {
		r := newRecent[int](limit)
		for n := range 10_000 {
			r.put(replayKey(n), &n)
			if n%100 == 0 && r.size() > max(limit, 0) {
				t.Fatalf("limit %d: %d are kept", limit, r.size())
			}
		}
		if got := r.size(); got > max(limit, 0) || got < least {
			t.Errorf("limit %d: %d are kept", limit, got)
		}
	}
}

// What is used stays, however many others come; what is not used goes.
func TestRecentKeepsWhatIsUsed(t *testing.T) {
	r := newRecent[int](20)
	used, unused := 1, 2
	r.put(replayKey(-1), &used)
	r.put(replayKey(-2), &unused)
	for n := range 1000 {
		r.put(replayKey(n), &n)
		if v := r.get(replayKey(-1)); v != &used {
			t.Fatalf("after %d others: %v", n+1, v)
		}
		if v := r.get(replayKey(n)); v != &n {
			t.Fatalf("what came last is %v", v)
		}
	}
	if v := r.get(replayKey(-2)); v != nil {
		t.Errorf("unused: %v", *v)
	}
}

func TestRecentDrops(t *testing.T) {
	r := newRecent[int](4)
	for n := range 3 { // in both generations
		r.put(replayKey(n), &n)
	}
	for n := range 3 {
		if r.get(replayKey(n)) == nil {
			t.Errorf("%d was lost", n)
		}
		r.drop(replayKey(n))
		r.drop(replayKey(n + 100))
		if r.get(replayKey(n)) != nil {
			t.Errorf("%d is still there", n)
		}
	}
	if r.size() != 0 {
		t.Errorf("%d are kept", r.size())
	}
	again := 7
	r.put(replayKey(0), &again)
	other := 8
	r.put(replayKey(0), &other)
	if v := r.get(replayKey(0)); v != &other || r.size() != 1 {
		t.Errorf("%v, %d are kept", v, r.size())
	}
}

func TestRecentAtOnce(t *testing.T) {
	r := newRecent[int](50)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 3000 {
				n = (n*7 + g) % 200
				switch v := r.get(replayKey(n)); {
				case v == nil:
					r.put(replayKey(n), &n)
				case *v != n:
					t.Errorf("%d instead of %d", *v, n)
				case n%10 == 0:
					r.drop(replayKey(n))
				}
			}
		})
	}
	wg.Wait()
	if r.size() > 50 {
		t.Errorf("%d are kept", r.size())
	}
}
