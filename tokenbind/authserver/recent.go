package authserver

import "sync"

// recent is a bounded memory of values by their keys. It has two generations: when the younger is full, the older is
// forgotten, but for what was asked for meanwhile. Its methods may be called at once.
type recent[K comparable, V any] struct {
	most int // of one generation

	mu         sync.RWMutex // guards the maps
	young, old map[K]V
}

// newRecent remembers at most that many values, and the last half of that many in any case.
func newRecent[K comparable, V any](most int) *recent[K, V] {
	return &recent[K, V]{most: most / 2, young: map[K]V{}}
}

func (r *recent[K, V]) get(key K) (V, bool) {
	r.mu.RLock()
	v, found := r.young[key]
	if found {
		r.mu.RUnlock()
		return v, true
	}
	v, found = r.old[key]
	r.mu.RUnlock()
	if found {
		r.put(key, v)
	}
	return v, found
}

// put remembers v. While others put the same key, any of them may win.
func (r *recent[K, V]) put(key K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.young[key]; !known && len(r.young) >= r.most {
		r.young, r.old = map[K]V{}, r.young
	}
	r.young[key] = v
}
