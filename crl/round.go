package crl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// served is a list in memory: what the store gave or was given, and its parsed form.
type served struct {
	Signed
	list *List
	// datable: no earlier list of the shard can have the same or a later thisUpdate, so that thisUpdate will
	// do as a validator (see Serve).
	datable bool
}

var errUnknownShard = errors.New("no such shard is published here")

// Publish signs a list of a shard now, whether or not it is due, and makes it the newest. If another node
// does the same in between, it starts over, and is content with the other's list if that says the same. It
// returns the newest list, once it is durable.
func (p *Publisher) Publish(ctx context.Context, shard Shard) (Signed, error) {
	s := p.shards[shard]
	if s == nil {
		return Signed{}, fmt.Errorf("publishing the CRL of %q: %w", shard.Issuer, errUnknownShard)
	}
	return p.publish(ctx, s, true)
}

// publish runs rounds until none is lost to another node. Without force, a list that says what a new one
// would say, and is not due, will do.
func (p *Publisher) publish(ctx context.Context, s *publication, force bool) (Signed, error) {
	asked, began := s.wakeUps(), p.now()
	next, err := p.round(ctx, s, force)
	for n := 1; errors.Is(err, ErrConflict) && n < maxRounds; n++ {
		next, err = p.round(ctx, s, false)
	}
	if err != nil {
		err = fmt.Errorf("publishing the CRL of %q: %w", s.Shard.Issuer, err)
	}
	s.finish(asked, began, err)
	return next, err
}

// round makes one attempt. The order of its steps is what lets several nodes publish without dropping each
// other's revocations: whoever replaces list n has read the revocations after list n was there, hence all
// of those that list n was made from.
func (p *Publisher) round(ctx context.Context, s *publication, force bool) (Signed, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()

	prev, err := p.latest(ctx, s)
	if err != nil {
		return Signed{}, err
	}
	now := p.now()
	held := s.serving.Load()
	expect := 0
	if held != nil {
		expect = held.list.Len()
	}
	entries, err := p.collect(ctx, s.Shard, keepSince(prev, now), expect)
	if err != nil {
		return Signed{}, err
	}
	if !force && held != nil && held.Number == prev.Number && !p.due(held.list, now) && slices.Equal(held.list.entries, entries) {
		return held.Signed, nil
	}
	next, list, err := p.sign(ctx, s, nextNumber(prev, held, now), entries, now)
	if err != nil {
		return Signed{}, err
	}
	if err := p.store.Replace(ctx, prev, next); err != nil {
		return Signed{}, fmt.Errorf("storing it: %w", err)
	}
	s.adopt(next, list)
	if p.onPublish != nil {
		p.onPublish(next)
	}
	return next, nil
}

// latest reads the newest list from the store, the zero Signed if there is none, and serves it from now on
// if it is newer than what is served. A list that does not verify (another key, another URL: the
// configuration changed) is not served; the round that follows replaces it.
func (p *Publisher) latest(ctx context.Context, s *publication) (Signed, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	latest, err := p.store.Latest(ctx, s.Shard, 0)
	if errors.Is(err, ErrNotPublished) {
		return Signed{}, nil
	}
	if err != nil {
		return Signed{}, fmt.Errorf("reading the newest one: %w", err)
	}
	s.saw(latest.ThisUpdate)
	if held := s.serving.Load(); held != nil && latest.Number <= held.Number {
		return latest, nil
	}
	list, err := ParseAndVerify(latest.DER.Bytes(), s.Issuer, s.URL, p.now())
	switch {
	case err != nil:
		p.log.Warn("the newest stored CRL is not usable", "shard", s.Shard.Issuer, "number", latest.Number, "error", err)
	case list.Number != latest.Number:
		p.log.Warn("the newest stored CRL bears another number", "shard", s.Shard.Issuer, "number", latest.Number, "bears", list.Number)
	default:
		s.adopt(latest, list)
	}
	return latest, nil
}

// keepSince is the earliest expiry of a certificate that belongs on the list after prev. What expired since
// prev stays for this one list (RFC 5280 section 3.3). A clock that was set back must not drop what is valid.
func keepSince(prev Signed, now time.Time) time.Time {
	if prev.Number == 0 || now.Before(prev.ThisUpdate) {
		return now
	}
	return prev.ThisUpdate
}

// nextNumber grows, also when the store came back from an old backup and has forgotten later lists, and
// when the clock was set back; not both at once. It stays far below 2^64, and far below 20 octets.
func nextNumber(prev Signed, held *served, now time.Time) uint64 {
	n := max(prev.Number+1, uint64(max(now.UnixMilli(), 1)))
	if held != nil {
		n = max(n, held.Number+1)
	}
	return n
}

// due reports whether the list must be signed anew. One from the future, after the clock was set back, is of
// no use to a server whose clock is right.
func (p *Publisher) due(l *List, now time.Time) bool {
	return !now.Before(l.NextUpdate.Add(-p.renewBefore)) || l.ThisUpdate.After(now.Add(maxSkew))
}

func (p *Publisher) untilDue(s *publication) time.Duration {
	held := s.serving.Load()
	if held == nil {
		return 0
	}
	return max(held.list.NextUpdate.Add(-p.renewBefore).Sub(p.now()), 0)
}

// collect reads the revocations as they are to stand on the list, which is about as long as expected.
func (p *Publisher) collect(ctx context.Context, shard Shard, notBefore time.Time, expect int) ([]revoked, error) {
	entries := make([]revoked, 0, expect+expect/64)
	for e, err := range p.revocations.Revoked(ctx, shard, notBefore) {
		if err != nil {
			return nil, fmt.Errorf("reading the revocations: %w", err)
		}
		r, err := e.compact()
		if err != nil {
			return nil, fmt.Errorf("reading the revocations: %w", err)
		}
		entries = append(entries, r)
	}
	return sortEntries(entries), nil
}

// sign has a list signed, and reads it back as a checker would.
func (p *Publisher) sign(ctx context.Context, s *publication, number uint64, entries []revoked, now time.Time) (Signed, *List, error) {
	thisUpdate := now.UTC().Truncate(time.Second) // what a CRL can say
	nextUpdate := thisUpdate.Add(p.lifetime)
	d, err := newDraft(s.PublishedShard, number, thisUpdate, nextUpdate, entries)
	if err != nil {
		return Signed{}, nil, err
	}
	signature, err := p.signer.SignCRL(ctx, s.Shard.Issuer, [][]byte{d.tbs()})
	if err != nil {
		return Signed{}, nil, fmt.Errorf("signing it: %w", err)
	}
	der := d.signed(signature)
	list, err := ParseAndVerify(der, s.Issuer, s.URL, now)
	if err != nil {
		return Signed{}, nil, fmt.Errorf("checking what was signed: %w", err)
	}
	if list.Number != number || !list.ThisUpdate.Equal(thisUpdate) || !list.NextUpdate.Equal(nextUpdate) || !slices.Equal(list.entries, entries) {
		return Signed{}, nil, errors.New("checking what was signed: it is not the list that was asked for")
	}
	return Signed{Shard: s.Shard, Number: number, ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate, DER: DER{der}}, list, nil
}

// adopt serves a list from now on, unless what is served is newer. The caller has told saw of the list that the
// store held until then; one that the store itself held is thereby not datable, since its predecessor is not
// known.
func (s *publication) adopt(next Signed, list *List) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held := s.serving.Load(); held == nil || held.Number < next.Number {
		s.serving.Store(&served{Signed: next, list: list, datable: list.ThisUpdate.After(s.newest)})
	}
	s.newest = later(s.newest, list.ThisUpdate)
}

// saw notes a thisUpdate of a list that may have been served somewhere.
func (s *publication) saw(thisUpdate time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest = later(s.newest, thisUpdate)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// wakeUps returns how many there were: the round that begins now answers them.
func (s *publication) wakeUps() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// finish records how the round ended. Wake-ups that came during it are still to be answered.
func (s *publication) finish(asked uint64, began time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	if err != nil {
		return
	}
	s.answered = max(s.answered, asked)
	if s.answered == s.asked {
		s.pending = time.Time{}
	} else {
		s.pending = later(s.pending, began)
	}
}

func (s *publication) pendingSince() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending
}
