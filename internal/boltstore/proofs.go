package boltstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/pkid/pkid/tokenbind"
)

// maxProofs bounds the DPoP proofs that are remembered at once, at some 150 octets each: for the few minutes that a
// proof can be used in, some thousands a second.
const maxProofs = 1 << 20

// Proofs is a tokenbind.Replay for DPoP proofs, which come with every request and count for minutes only, so that
// a write for each would cost more than it is worth. It remembers them in memory, and the store keeps them while it is
// closed. After a crash it does not know those from before: then Since says from when on it does, and the caller has
// to refuse a proof that may be older, by demanding a nonce that is younger (RFC 9449 section 8).
type Proofs struct {
	s      *Store
	memory *tokenbind.MemoryReplay
	since  time.Time

	mu     sync.RWMutex // guards all below; held for reading while something is added to memory
	kept   bool         // what the store has is what memory has
	closed bool
}

// Proofs returns what remembers DPoP proofs. There is one for a store.
func (s *Store) Proofs() *Proofs { return s.proofs }

// Since returns the instant from which on no proof is missing; zero if none is.
func (p *Proofs) Since() time.Time { return p.since }

// Use implements tokenbind.Replay. It is durable only once the store was closed. The first one waits until the store
// has durably forgotten what it kept, so that a crash cannot bring that back as if it were all.
func (p *Proofs) Use(ctx context.Context, key [32]byte, until time.Time) error {
	p.mu.RLock()
	for p.kept && !p.closed {
		p.mu.RUnlock()
		if err := p.forget(ctx); err != nil {
			return err
		}
		p.mu.RLock()
	}
	defer p.mu.RUnlock()
	if p.closed {
		return ErrClosed
	}
	return p.memory.Use(ctx, key, until)
}

func (p *Proofs) forget(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.kept || p.closed {
		return nil
	}
	if err := p.s.update(ctx, (*tx).dropProofs); err != nil {
		return fmt.Errorf("beginning to remember proofs: %w", err)
	}
	p.kept = false
	return nil
}

// close keeps what is in memory, if anything was added to it.
func (p *Proofs) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	if p.kept {
		return nil
	}
	err := p.s.update(context.Background(), func(t *tx) error { return t.storeProofs(p.memory.All(), p.since) })
	if err != nil {
		return fmt.Errorf("keeping the proofs that were used: %w", err)
	}
	return nil
}

// The proofs bucket is empty while a store is in use, and after a crash. Its first value is Proofs.since in ms, or
// the least integer; each of the others has some keys, and until when they count in s.
const (
	proofLen     = 32 + 8
	proofsInPart = 4096
)

func (t *tx) storeProofs(all iter.Seq2[[32]byte, time.Time], since time.Time) error {
	at := ordered(noInstant)
	if !since.IsZero() {
		at = ordered(since.UnixMilli())
	}
	if err := t.put(proofs, ordered(0), at); err != nil || all == nil {
		return err
	}
	var part []byte
	n := int64(1)
	for key, until := range all {
		part = append(append(part, key[:]...), ordered(until.Unix())...)
		if len(part) == proofsInPart*proofLen {
			if err := t.put(proofs, ordered(n), part); err != nil {
				return err
			}
			n, part = n+1, nil
		}
	}
	return t.put(proofs, ordered(n), part)
}

const noInstant = -1 << 63

func (t *tx) dropProofs() error {
	t.writes++
	if err := t.b.DeleteBucket(proofs.name); err != nil {
		return fmt.Errorf("emptying bucket %s: %w", proofs.name, err)
	}
	if _, err := t.b.CreateBucket(proofs.name); err != nil {
		return fmt.Errorf("emptying bucket %s: %w", proofs.name, err)
	}
	return nil
}

// loadProofs reads what storeProofs wrote, at the opening.
func (t *tx) loadProofs(s *Store) (*Proofs, error) {
	p := &Proofs{s: s, memory: tokenbind.NewMemoryReplay(maxProofs, s.now)}
	c := t.cursor(proofs)
	k, v := c.First()
	switch {
	case k == nil:
		p.since = s.now()
		return p, nil
	case len(v) != 8:
		return nil, fmt.Errorf("%w: it is damaged: the proofs that were used are not readable", ErrNotStore)
	}
	p.kept = true
	if ms := number(v); ms != noInstant {
		p.since = time.UnixMilli(ms)
	}
	for k, v = c.Next(); k != nil; k, v = c.Next() {
		for ; len(v) >= proofLen; v = v[proofLen:] {
			until := time.Unix(number(v[32:]), 0)
			err := p.memory.Use(context.Background(), [32]byte(v), until)
			if err != nil && !errors.Is(err, tokenbind.ErrReplayed) {
				return nil, fmt.Errorf("reading the proofs that were used: %w", err)
			}
		}
	}
	return p, nil
}
