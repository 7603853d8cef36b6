package tokenbind

import "sync"

// recent remembers values by a hash of what they were made from, those that were used last. Each shard keeps two
// generations: what is used again moves to the younger, and when that is full the older goes whole. So there is
// no list of uses and no clock to keep, no more than limit values are held, and the half of a shard that was used
// last is always there. It is safe for concurrent use; those who only look do not wait for each other.
type recent[V any] struct {
	generation int // values in one of a shard
	shards     []shard[V]
}

type shard[V any] struct {
	mu         sync.RWMutex // guards both
	young, old map[[32]byte]*V
	_          [24]byte // fills a cache line, so that no processor waits for another's shard
}

// newRecent remembers at most limit values, none if limit is below 2.
func newRecent[V any](limit int) *recent[V] {
	n := 16
	if limit < 1024 {
		n = 1
	}
	return &recent[V]{max(limit, 0) / n / 2, make([]shard[V], n)}
}

// shard is chosen by the hash, and so evenly.
func (r *recent[V]) shard(key [32]byte) *shard[V] { return &r.shards[int(key[0])%len(r.shards)] }

// get returns what is remembered, nil if nothing is. The value is shared: it is not to be changed.
func (r *recent[V]) get(key [32]byte) *V {
	s := r.shard(key)
	s.mu.RLock()
	v, young := s.young[key]
	_, old := s.old[key]
	s.mu.RUnlock()
	if young || !old {
		return v
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v = s.old[key]; v != nil { // still: or what was dropped would be back
		r.store(s, key, v)
	}
	return v
}

func (r *recent[V]) put(key [32]byte, v *V) {
	if r.generation == 0 {
		return
	}
	s := r.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	r.store(s, key, v)
}

// store puts a value among the young. The caller holds the shard's mutex.
func (r *recent[V]) store(s *shard[V], key [32]byte, v *V) {
	if _, found := s.young[key]; s.young == nil || !found && len(s.young) >= r.generation {
		s.young, s.old = map[[32]byte]*V{}, s.young
	}
	s.young[key] = v
}

func (r *recent[V]) drop(key [32]byte) {
	s := r.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.young, key)
	delete(s.old, key)
}
