package crl

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// String is the issuer's id and, but for shard 0, the number.
func (s Shard) String() string {
	if s.Number == 0 {
		return s.Issuer
	}
	return s.Issuer + "-" + strconv.FormatUint(uint64(s.Number), 10)
}

func newPublication(s PublishedShard) (*publication, error) {
	if s.Issuer == nil || len(s.Issuer.SubjectKeyId) == 0 {
		return nil, fmt.Errorf("crl: shard %q: an issuer with a subject key identifier is required", s.Shard)
	}
	if _, err := algorithmOf(s.Issuer.PublicKey); err != nil {
		return nil, fmt.Errorf("crl: shard %q: %w", s.Shard, err)
	}
	if err := checkURL(s.URL); err != nil {
		return nil, fmt.Errorf("crl: shard %q: %w", s.Shard, err)
	}
	if s.Whole && s.Shard.Number != 0 {
		return nil, fmt.Errorf("crl: shard %q: a list that speaks of every certificate is the only one of its issuer, shard 0", s.Shard)
	}
	if s.DeltaURL != "" {
		if err := checkURL(s.DeltaURL); err != nil {
			return nil, fmt.Errorf("crl: shard %q: delta: %w", s.Shard, err)
		}
		if s.DeltaURL == s.URL {
			return nil, fmt.Errorf("crl: shard %q: the delta is at the URL of the full list", s.Shard)
		}
	}
	return &publication{PublishedShard: s, wake: make(chan struct{}, 1), others: make(chan struct{}, 1), turn: make(chan struct{}, 1), compress: make(chan *served, 1)}, nil
}

// find returns a shard that is published here, or nil.
func (p *Publisher) find(shard Shard) *publication {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.shards[shard]
}

// published returns what is published here, the shards of an issuer in the order of their numbers.
func (p *Publisher) published() []*publication {
	p.mu.RLock()
	defer p.mu.RUnlock()
	all := make([]*publication, 0, len(p.shards))
	for _, s := range p.shards {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *publication) int {
		return cmp.Or(cmp.Compare(a.Shard.Issuer, b.Shard.Issuer), cmp.Compare(a.Shard.Number, b.Shard.Number))
	})
	return all
}

// Shards returns the shards that are published here, those of an issuer in the order of their numbers.
func (p *Publisher) Shards() []Shard {
	var all []Shard
	for _, s := range p.published() {
		all = append(all, s.Shard)
	}
	return all
}

// Add publishes one more shard from now on. When it returns nil, the newest list of that shard, the first one if there
// was none, is durable and served: certificates may name it. An error means that nothing was added. To add a shard that
// is published here is no error, and ends its retirement.
func (p *Publisher) Add(ctx context.Context, shard PublishedShard) error {
	s := p.find(shard.Shard)
	if s == nil {
		var err error
		if s, err = newPublication(shard); err != nil {
			return err
		}
	}
	s.retire(time.Time{})
	if held := s.serving.Load(); held == nil || p.now().After(held.NextUpdate) {
		if _, err := p.publish(ctx, s, false); err != nil {
			return err
		}
	}
	p.join(s)
	return nil
}

// join makes Run tend to a shard too. Another Add of it, or its retirement, may have come in between.
func (p *Publisher) join(s *publication) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shards[s.Shard] != nil {
		return
	}
	p.shards[s.Shard] = s
	if p.start != nil {
		p.start(s)
	}
}

// Retire says that the last certificate of a shard has expired, and when. The shard gets one more list, which still
// has its revoked certificates (RFC 5280 section 3.3 wants each to stand on a list that was issued when it had expired).
// That one is served until its nextUpdate, for who is late or archives lists, and then the shard is not published any
// more: a list that must not be relied on would only hide that there is none. Add ends the retirement.
func (p *Publisher) Retire(shard Shard, expired time.Time) {
	if s := p.find(shard); s != nil {
		s.retire(expired)
	}
}

func (s *publication) retire(expired time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expired = expired
}

// ended reports whether a list is the last one that is signed of its shard because it is due.
func (s *publication) ended(held *served) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return held != nil && !s.expired.IsZero() && held.ThisUpdate.After(s.expired)
}

// leave takes a shard away whose last list has reached its nextUpdate, and reports whether it did.
func (p *Publisher) leave(s *publication) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	held := s.serving.Load()
	if !s.ended(held) || !p.now().After(held.NextUpdate) {
		return false
	}
	delete(p.shards, s.Shard)
	return true
}

// keep tends to one shard until ctx ends or the shard is not published any more.
func (p *Publisher) keep(ctx context.Context, s *publication) {
	ctx, cancel := context.WithCancel(ctx)
	var others sync.WaitGroup
	others.Go(func() { p.compressAsked(ctx, s) })
	if p.follow > 0 {
		others.Go(func() { p.followOthers(ctx, s) })
	}
	p.tend(ctx, s)
	cancel()
	others.Wait()
}
