package authserver

import (
	"strconv"
	"sync"
	"testing"
)

// size is how many values are remembered, those that lie in both generations twice.
func (r *recent[K, V]) size() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.young) + len(r.old)
}

func TestRecent_ForgetsWhatWasNotUsed(t *testing.T) {
	const most = 8
	r := newRecent[int, string](most)
	if _, found := r.get(0); found {
		t.Error("a value that was never put is there")
	}
	for i := range 100 {
		r.put(i, strconv.Itoa(i))
		if v, found := r.get(0); !found || v != "0" {
			t.Fatalf("0 is %q, %t, though it is in use", v, found)
		}
		for last := range min(i, most/2-1) {
			if v, found := r.get(i - last); !found || v != strconv.Itoa(i-last) {
				t.Fatalf("%d is %q, %t, though it was among the last", i-last, v, found)
			}
		}
		if n := r.size(); n > most {
			t.Fatalf("%d values are kept, at most %d", n, most)
		}
	}
	if _, found := r.get(50); found {
		t.Error("a value that was not used for long is still there")
	}
	r.put(0, "again")
	if v, _ := r.get(0); v != "again" {
		t.Errorf("0 is %q after it was put again", v)
	}
}

func TestRecent_ManyAtOnce(t *testing.T) {
	const most = 16
	r := newRecent[int, int](most)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 2000 {
				key := (i*7 + g) % 40
				if v, found := r.get(key); found && v != key {
					t.Errorf("%d is %d", key, v)
				}
				r.put(key, key)
			}
		})
	}
	all.Wait()
	if n := r.size(); n > most {
		t.Errorf("%d values are kept, at most %d", n, most)
	}
}
