package crl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// served is a list in memory, as the store gave it or was given it.
type served struct {
	Signed
	pieces
	count int    // of its entries
	tag   string // differs for every list
	// datable: no earlier list of the shard can have the same or a later thisUpdate, so that thisUpdate will
	// do as a validator (see Serve).
	datable bool
	gzipped atomic.Pointer[DER] // nil until somebody asked for it and it is ready

	deltaURL string                 // that the list names
	delta    atomic.Pointer[served] // nil if there is none
}

func newServed(s Signed, in pieces, l *List, count int) *served {
	return &served{Signed: s, pieces: in, count: count, tag: fmt.Sprintf("%d-%x", l.Number, l.sum[:8]), deltaURL: l.DeltaURL}
}

var errUnknownShard = errors.New("no such shard is published here")

// Publish signs a list of a shard now, whether or not it is due, and makes it the newest. If another node
// does the same in between, it starts over, and is content with the other's list if that says the same. It
// returns the newest list, once its number is durable.
func (p *Publisher) Publish(ctx context.Context, shard Shard) (Signed, error) {
	s := p.find(shard)
	if s == nil {
		return Signed{}, fmt.Errorf("publishing the CRL of %q: %w", shard, errUnknownShard)
	}
	return p.publish(ctx, s, true)
}

// publish runs rounds until none is lost to another node. Without force, a list that says what a new one
// would say, and is not due, will do.
func (p *Publisher) publish(ctx context.Context, s *publication, force bool) (Signed, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return Signed{}, fmt.Errorf("publishing the CRL of %q: %w", s.Shard, ctx.Err())
	}
	asked, began := s.wakeUps(), p.now()
	next, err := p.round(ctx, s, force)
	for n := 1; errors.Is(err, ErrConflict) && n < maxRounds; n++ {
		next, err = p.round(ctx, s, false)
	}
	if err != nil {
		err = fmt.Errorf("publishing the CRL of %q: %w", s.Shard, err)
	}
	s.finish(asked, began, err)
	return next, err
}

// round makes one attempt. The order of its steps is what lets several nodes publish without dropping each
// other's revocations: whoever replaces list n has read the changes after list n was there, on top of all that came
// before them, hence all of those that list n was made from.
//
// All revocations are read, and not only what changed, before a list that is signed for another reason than that
// something changed, and once in rereadAfter. One such reason is a list of another node that says otherwise, as after
// it read everything and dropped what had expired: the two would go on contradicting each other.
func (p *Publisher) round(ctx context.Context, s *publication, force bool) (Signed, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()

	prev, err := p.latest(ctx, s)
	if err != nil {
		return Signed{}, err
	}
	now := p.now()
	held := s.serving.Load()
	due := held == nil || (p.due(held, now) || held.deltaURL != s.DeltaURL) && !s.ended(held)
	doubts := s.doubts.Load()
	if doubts != s.settled {
		s.view = nil
	}
	v, err := p.look(ctx, s.Shard, s.view, keepSince(prev, now), now, func(v *view) bool {
		age := now.Sub(v.read)
		nothingNew := due || v.entries == s.said && (force || !held.says(v.entries))
		return !nothingNew && 0 <= age && age < rereadAfter
	})
	if err != nil {
		return Signed{}, err
	}
	s.view, s.settled = v, doubts
	s.marks.follow(v)
	if !force && !due && held.Number == prev.Number && held.says(v.entries) {
		s.said = v.entries
		held = s.share(held, v.entries)
		p.complete(ctx, s, held)
		return held.Signed, nil
	}
	next, err := p.sign(ctx, s, nextNumber(prev, held, now), v.entries, now)
	if err != nil {
		return Signed{}, err
	}
	if delta := p.delta(ctx, s, next); delta != nil {
		next.Delta = delta.DER
		next.delta.Store(delta)
	}
	if err := p.store.Replace(ctx, prev, next.Signed); err != nil {
		return Signed{}, fmt.Errorf("storing it: %w", err)
	}
	s.adopt(next)
	s.said = v.entries
	if s.DeltaURL != "" {
		s.marks.signed(next.Number, next.count, due)
	}
	if p.onPublish != nil {
		p.onPublish(next.Signed)
	}
	return next.Signed, nil
}

// says reports whether these entries stand on the list.
func (s *served) says(e *entries) bool { return s.entries.Equal(e.parts()) }

// latest reads the newest list from the store, the zero Signed if there is none, and serves it from now on
// if it is newer than what is served. A list that does not verify (another key, another URL: the
// configuration changed), or that the store lost, is not served; the round that follows replaces it.
func (p *Publisher) latest(ctx context.Context, s *publication) (Signed, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	have := uint64(0)
	if held := s.serving.Load(); held != nil {
		have = held.Number
	}
	latest, err := p.store.Latest(ctx, s.Shard, have)
	if errors.Is(err, ErrNotPublished) {
		return Signed{}, nil
	}
	if err != nil {
		return Signed{}, fmt.Errorf("reading the newest one: %w", err)
	}
	s.saw(latest.ThisUpdate)
	if latest.Number <= have {
		return latest, nil
	}
	if next, err := p.read(latest, s); err != nil {
		p.log.Warn("the newest stored CRL is not usable", "shard", s.Shard.String(), "number", latest.Number, "error", err)
	} else {
		next.delta.Store(p.storedDelta(latest, s))
		s.adopt(next)
	}
	return latest, nil
}

// read verifies a list from the store.
func (p *Publisher) read(latest Signed, s *publication) (*served, error) {
	if latest.DER.Len() == 0 {
		return nil, errors.New("the store lost it")
	}
	l, in, err := verify(latest.DER, fullList, s.Issuer, s.scope(), p.now())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrList, err)
	}
	if l.Number != latest.Number {
		return nil, fmt.Errorf("it bears another number, %d", l.Number)
	}
	count, err := countEntries(in.entries.Bytes())
	if err != nil {
		return nil, err
	}
	return newServed(latest, in, l, count), nil
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
func (p *Publisher) due(l *served, now time.Time) bool {
	return !now.Before(l.NextUpdate.Add(-p.renewBefore)) || l.ThisUpdate.After(now.Add(maxSkew))
}

func (p *Publisher) untilDue(s *publication) time.Duration {
	held := s.serving.Load()
	if held == nil {
		return 0
	}
	due := held.NextUpdate.Add(-p.renewBefore)
	if s.ended(held) {
		due = held.NextUpdate
	}
	return max(due.Sub(p.now()), 0)
}

// sign has a full list signed.
func (p *Publisher) sign(ctx context.Context, s *publication, number uint64, e *entries, now time.Time) (*served, error) {
	thisUpdate := now.UTC().Truncate(time.Second) // what a CRL can say
	next := Signed{Shard: s.Shard, Number: number, ThisUpdate: thisUpdate, NextUpdate: thisUpdate.Add(p.lifetime)}
	var more [][]byte
	if s.DeltaURL != "" {
		more = append(more, freshestCRL(s.DeltaURL))
	}
	list, l, err := p.signList(ctx, s, next, fullList, e, more...)
	if err != nil {
		return nil, err
	}
	if l.DeltaURL != s.DeltaURL {
		return nil, errors.New("checking what was signed: it names another delta")
	}
	return list, nil
}

// signList has a list signed, and reads it back as a checker would, but for the entries, which were read back when they
// were written, and the signature, which the signer has checked.
func (p *Publisher) signList(ctx context.Context, s *publication, next Signed, k kind, e *entries, more ...[]byte) (*served, *List, error) {
	d, err := newDraft(s.PublishedShard, next.Number, next.ThisUpdate, next.NextUpdate, e, more...)
	if err != nil {
		return nil, nil, err
	}
	signature, err := p.signer.SignCRL(ctx, s.Shard.Issuer, d.tbs())
	if err != nil {
		return nil, nil, fmt.Errorf("signing it: %w", err)
	}
	next.DER = d.signed(signature)
	in, err := split(next.DER)
	if err != nil {
		return nil, nil, fmt.Errorf("checking what was signed: %w", err)
	}
	l, _, err := readBare(in.bare, k, s.Issuer, s.scope(), next.ThisUpdate)
	if err != nil {
		return nil, nil, fmt.Errorf("checking what was signed: %w", err)
	}
	list := newServed(next, in, l, e.count)
	if l.Number != next.Number || !l.ThisUpdate.Equal(next.ThisUpdate) || !l.NextUpdate.Equal(next.NextUpdate) || !list.says(e) {
		return nil, nil, errors.New("checking what was signed: it is not the list that was asked for")
	}
	return list, l, nil
}

// adopt serves a list, and its delta if there is one, from now on, unless what is served is newer. The caller has told saw of the list that the
// store held until then; one that the store itself held is thereby not datable, since its predecessor is not
// known.
func (s *publication) adopt(next *served) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held := s.serving.Load(); held == nil || held.Number < next.Number {
		next.datable = next.ThisUpdate.After(s.newest)
		if delta := next.delta.Load(); delta != nil {
			delta.datable = next.datable
		}
		s.serving.Store(next)
	}
	s.newest = later(s.newest, next.ThisUpdate)
}

// share lets a list that came from the store, in one part, have its entries in common with the view that says the
// same, so that they take memory once.
func (s *publication) share(held *served, e *entries) *served {
	if len(held.entries) == len(e.blocks) {
		return held
	}
	next := &served{Signed: held.Signed, count: held.count, tag: held.tag, datable: held.datable, deltaURL: held.deltaURL}
	next.delta.Store(held.delta.Load())
	next.front, next.entries, next.back = DER{slices.Concat(held.front...)}, e.parts(), DER{slices.Concat(held.back...)}
	next.DER = slices.Concat(next.front, next.entries, next.back)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serving.CompareAndSwap(held, next)
	return next
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
