package tokenbind

import (
	"context"
	"errors"
	"iter"
	"maps"
	"sync"
	"time"
)

// ErrReplayFull reports that a MemoryReplay remembers as much as it may. What it was asked to remember is
// refused, because forgetting something earlier would let that be used twice.
var ErrReplayFull = errors.New("too many proofs at once to remember them all")

// MemoryReplay is a Replay in the memory of one process. It knows nothing of other nodes and of what was
// before a restart.
type MemoryReplay struct {
	limit int
	now   func() time.Time

	mu      sync.Mutex // guards all below
	used    map[[32]byte]struct{}
	expires map[int64][][32]byte // by the Unix second in which they end; such a list only grows, until it goes whole
	swept   int64                // all seconds up to this one were forgotten
}

// NewMemoryReplay remembers at most limit uses at once, at some 150 octets each. A nil now is time.Now.
func NewMemoryReplay(limit int, now func() time.Time) *MemoryReplay {
	if now == nil {
		now = time.Now
	}
	return &MemoryReplay{limit: limit, now: now, used: map[[32]byte]struct{}{}, expires: map[int64][][32]byte{}}
}

// Use is that of Replay. When there is no room it returns ErrReplayFull. A use that ends before what was forgotten is
// refused, because it may be among that.
func (m *MemoryReplay) Use(_ context.Context, key [32]byte, until time.Time) error {
	now := m.now().Unix()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep(now - 1)
	second := until.Unix()                                   // forgotten when all of it has passed, so never early
	if _, found := m.used[key]; found || second <= m.swept { // or forgotten already, by a clock that then went back
		return ErrReplayed
	}
	if len(m.used) >= m.limit {
		return ErrReplayFull
	}
	m.used[key] = struct{}{}
	m.expires[second] = append(m.expires[second], key)
	return nil
}

// Len is how many uses are remembered, of those that have ended some for a while yet.
func (m *MemoryReplay) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.used)
}

// All returns what is remembered at the time of the call, and until when, rounded up to the second: what a
// process that stops hands to the next, which gives it to Use. Uses that come later are not in it, and do not
// disturb it. It may be walked more than once.
func (m *MemoryReplay) All() iter.Seq2[[32]byte, time.Time] {
	m.mu.Lock()
	m.sweep(m.now().Unix() - 1)
	expires := maps.Clone(m.expires) // the lists themselves only grow beyond the lengths that are copied here
	m.mu.Unlock()
	return func(yield func([32]byte, time.Time) bool) {
		for second, keys := range expires {
			for _, key := range keys {
				if !yield(key, time.Unix(second+1, 0)) {
					return
				}
			}
		}
	}
}

// clockSlack is how far, in seconds, the clock may go back without being taken for one that was ahead.
const clockSlack = 60

// sweep forgets what ended in or before the given second. Each use is forgotten once, so the cost per use
// is constant; after a long rest it walks what there is, not the seconds that passed.
func (m *MemoryReplay) sweep(to int64) {
	if to < m.swept-clockSlack { // the clock was ahead: or every use from now on would be kept until it is there again
		m.swept = to
	}
	if to <= m.swept {
		return
	}
	if to-m.swept > int64(len(m.expires)) {
		for second := range m.expires {
			if second <= to {
				m.forget(second)
			}
		}
	} else {
		for second := m.swept + 1; second <= to; second++ {
			m.forget(second)
		}
	}
	m.swept = to
}

func (m *MemoryReplay) forget(second int64) {
	for _, key := range m.expires[second] {
		delete(m.used, key)
	}
	delete(m.expires, second)
}
