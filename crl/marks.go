package crl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// mark is a full list of this node, and what the log of changes told since it was made. The last change of each
// certificate counts, and stays although it may have been undone: a list in between may tell otherwise (RFC 5280
// section 5.2.4).
//
// That an expired certificate left the list is no change: a delta need not tell, and it would be most of what there is
// to tell.
type mark struct {
	number  uint64
	changes map[[maxSerial]byte]edit
}

// marks are the lists that a shard's deltas are made against, or none, where it is not known what changed since.
//
// There are two, so that who asked before the base moved can go on: deltas are made against the older one, and the
// newer one takes its place when it has become old itself. A client that asks but once from one move to the next never
// needs the full list again.
//
// A mark must be a list that this node signed, since it started. Whatever list comes after it, from any node, was made
// by who had read the changes after it was there (see round), and hence all those that this node had read when it made
// it. Of a list from elsewhere this node cannot say which changes it was made from. Nor is one from before the start a
// mark: if the store was restored from a backup, there are clients with later lists, and what these had that the store
// has forgotten, such as a release, no change takes back.
type marks struct{ older, newer mark }

// A mark is old when the newest list differs from it by more than one entry in markShare, within these bounds, and
// when a list becomes due. The fewer changes, the shorter the deltas, which are fetched at each change; the more, the
// longer may a client have been away before it must fetch the full list. At a million entries, 1,024 changes are 50 KB
// against 50 MB.
const (
	markShare  = 20
	minChanges = 64
	maxChanges = 1024
)

// follow notes what a view has otherwise than the one before it. When that is as much as half of a list, or not known,
// the marks are of no use any more.
func (m *marks) follow(v *view) {
	if m.older.number != 0 {
		for _, x := range v.news {
			m.older.changes[x.serial], m.newer.changes[x.serial] = x, x
		}
		if v.anew || len(m.older.changes) > max(v.entries.count/2, 4*minChanges) {
			*m = marks{}
		}
	}
	v.news, v.anew = nil, false
}

// signed says that this node signed a list of n entries from the view that it followed last.
func (m *marks) signed(number uint64, n int, due bool) {
	switch {
	case m.older.number == 0:
		*m = marks{newMark(number), newMark(number)}
	case due, len(m.newer.changes) > min(max(n/markShare, minChanges), maxChanges):
		*m = marks{m.newer, newMark(number)}
	}
}

func newMark(number uint64) mark { return mark{number, map[[maxSerial]byte]edit{}} }

// entries returns what a delta against the mark says.
func (m *mark) entries(thisUpdate time.Time) (*entries, error) {
	all := make([]revoked, 0, len(m.changes))
	for _, x := range m.changes {
		r := x.revoked
		if x.released {
			r.reason, r.at = removeFromCRL, thisUpdate.Unix()
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b revoked) int { return bytes.Compare(a.serial[:], b.serial[:]) })
	w := blockWriter{delta: true}
	for i := range all {
		if err := w.add(&all[i]); err != nil {
			return nil, err
		}
	}
	w.cut(nil)
	return w.finish(), nil
}

// delta has the delta list of a full one signed, if the shard has deltas. A revocation that stands on the full list
// does not wait for a delta that cannot be had: that is logged, and clients take the full list.
func (p *Publisher) delta(ctx context.Context, s *publication, full *served) *served {
	if s.DeltaURL == "" {
		return nil
	}
	base := s.marks.older
	if base.number == 0 {
		base = newMark(full.Number) // nothing differs from the list itself
	}
	delta, err := p.signDelta(ctx, s, full, &base)
	if err != nil {
		p.log.Error("no delta CRL; clients fetch the full list", "shard", s.Shard.String(), "number", full.Number, "error", err)
		return nil
	}
	return delta
}

func (p *Publisher) signDelta(ctx context.Context, s *publication, full *served, base *mark) (*served, error) {
	e, err := base.entries(full.ThisUpdate)
	if err != nil {
		return nil, err
	}
	list := Signed{Shard: s.Shard, Number: full.Number, ThisUpdate: full.ThisUpdate, NextUpdate: full.NextUpdate}
	delta, l, err := p.signList(ctx, s, list, deltaList, e, deltaIndicator(base.number))
	if err != nil {
		return nil, err
	}
	if l.base != base.number {
		return nil, errors.New("checking what was signed: it is a delta to another list")
	}
	return delta, nil
}

// complete gives the list that is served a delta, if it came without one: from a store that kept none, or because
// signing one failed. The view that was followed last says what the list says. Without a mark it is an empty one.
func (p *Publisher) complete(ctx context.Context, s *publication, held *served) {
	if s.DeltaURL == "" || held.delta.Load() != nil {
		return
	}
	if s.marks.older.number == 0 && p.follow > 0 {
		return // another node's list, perhaps, and that one serves a delta which reaches further back
	}
	if delta := p.delta(ctx, s, held); delta != nil {
		delta.datable = held.datable
		held.delta.Store(delta)
	}
}

// readDelta verifies the delta that the store kept with a list.
func (p *Publisher) readDelta(full Signed, s *publication) (*served, error) {
	l, in, err := verify(full.Delta, deltaList, s.Issuer, s.scope(), p.now())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrList, err)
	}
	if l.Number != full.Number || !l.ThisUpdate.Equal(full.ThisUpdate) {
		return nil, fmt.Errorf("it bears another number or date, %d of %s", l.Number, l.ThisUpdate.Format(time.RFC3339))
	}
	count, err := countEntries(in.entries.Bytes())
	if err != nil {
		return nil, err
	}
	full.NextUpdate, full.DER, full.Delta = l.NextUpdate, full.Delta, nil
	return newServed(full, in, l, count), nil
}

// storedDelta returns the delta that the store kept with a list; nil if there is none that is of use.
func (p *Publisher) storedDelta(full Signed, s *publication) *served {
	if s.DeltaURL == "" || full.Delta.Len() == 0 {
		return nil
	}
	delta, err := p.readDelta(full, s)
	if err != nil {
		p.log.Warn("the stored delta CRL is not usable", "shard", s.Shard.String(), "number", full.Number, "error", err)
		return nil
	}
	return delta
}
