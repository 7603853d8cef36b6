// Package recent remembers what was used last, within a bound: what is costly to find out, never changes for its
// key, and may be forgotten at any time.
package recent

import (
	"hash/maphash"
	"sync"
)

// Cache holds values by their keys. Each of its shards keeps two generations: what is used again moves to the
// younger, and when that is full the older goes whole. So there is no list of uses and no clock to keep. The half
// of a shard that was used last is always there. It is safe for concurrent use; those who only look do not wait
// for each other.
type Cache[K comparable, V any] struct {
	generation int // values in one of a shard
	seed       maphash.Seed
	shards     []shard[K, V]
}

type shard[K comparable, V any] struct {
	mu         sync.RWMutex // guards both
	young, old map[K]V
	_          [24]byte // fills a cache line, so that no processor waits for another's shard
}

// New makes a cache of at most limit values. Below 2, which is one for each generation, it holds none.
func New[K comparable, V any](limit int) *Cache[K, V] {
	n := 16
	if limit < 1024 {
		n = 1
	}
	return &Cache[K, V]{max(limit, 0) / n / 2, maphash.MakeSeed(), make([]shard[K, V], n)}
}

func (c *Cache[K, V]) shard(key K) *shard[K, V] {
	return &c.shards[maphash.Comparable(c.seed, key)%uint64(len(c.shards))]
}

// Get returns what is held for a key. All get the same value: what it points to is not to be changed.
func (c *Cache[K, V]) Get(key K) (V, bool) {
	s := c.shard(key)
	s.mu.RLock()
	v, young := s.young[key]
	old := false
	if !young {
		_, old = s.old[key]
	}
	s.mu.RUnlock()
	if young || !old {
		return v, young
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, young = s.young[key]; young { // by now: what is newer stays
		return v, true
	}
	if v, old = s.old[key]; old { // still: what was dropped does not come back
		s.put(key, v, c.generation)
	}
	return v, old
}

// Put holds a value, in place of what was held for the key.
func (c *Cache[K, V]) Put(key K, v V) {
	if c.generation == 0 {
		return
	}
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(key, v, c.generation)
}

// put makes a value one of the young, of which there are at most so many. The caller holds the mutex.
func (s *shard[K, V]) put(key K, v V, most int) {
	if _, found := s.young[key]; s.young == nil || !found && len(s.young) >= most {
		s.young, s.old = map[K]V{}, s.young
	}
	s.young[key] = v
}

// Drop forgets what is held for a key.
func (c *Cache[K, V]) Drop(key K) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.young, key)
	delete(s.old, key)
}

// Len is how many values are held. One that lies in both generations counts twice, as it does for the limit.
func (c *Cache[K, V]) Len() (n int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		n += len(s.young) + len(s.old)
		s.mu.RUnlock()
	}
	return n
}
