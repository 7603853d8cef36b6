package crl

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math/big"
)

// overlay is what a list says otherwise than the full list whose entries it has.
type overlay struct {
	full    *List
	changes []revoked // sorted by serial; removeFromCRL takes an entry off
	count   int       // of entries on the list
}

// full returns the list as it was fetched, which l is or lies on.
func (l *List) full() *List {
	if l.overlay != nil {
		return l.overlay.full
	}
	return l
}

// find returns the entry of a serial number.
func (l *List) find(serial *big.Int) (revoked, bool) {
	if l.overlay != nil {
		if r, ok := find(l.overlay.changes, serial); ok {
			return r, r.reason != removeFromCRL
		}
	}
	return find(l.entries, serial)
}

// all yields the entries in the order of their serials.
func (l *List) all() iter.Seq[revoked] {
	return func(yield func(revoked) bool) {
		var changes []revoked
		if l.overlay != nil {
			changes = l.overlay.changes
		}
		merge(l.entries, changes, func(r revoked) bool { return r.reason == removeFromCRL || yield(r) })
	}
}

// merge yields what is in either of two sorted slices, and what the newer says of what is in both.
func merge(older, newer []revoked, yield func(revoked) bool) {
	for len(older)+len(newer) > 0 {
		order := 1
		switch {
		case len(newer) == 0:
			order = -1
		case len(older) > 0:
			order = bytes.Compare(older[0].serial[:], newer[0].serial[:])
		}
		next := &newer
		if order < 0 {
			next = &older
		}
		r := (*next)[0]
		*next = (*next)[1:]
		if order == 0 {
			older = older[1:]
		}
		if !yield(r) {
			return
		}
	}
}

var (
	errOtherScope = errors.New("a delta for another scope")
	errGap        = errors.New("a delta to a newer list than the one at hand")
	errTooLong    = errors.New("too many changes to be kept beside the full list")
)

// with returns the list that a delta makes of l, which may be one that a delta made (RFC 5280 section 5.2.4): it
// shares the full list's entries, and takes memory and time for the changes alone. It is l itself if the delta tells
// nothing newer.
func (l *List) with(delta *List) (*List, error) {
	full := l.full()
	switch {
	case !bytes.Equal(delta.scope, full.scope):
		return nil, fmt.Errorf("%w: %w", ErrList, errOtherScope)
	case delta.base > l.Number:
		return nil, fmt.Errorf("%w: %w: to number %d, after %d", ErrList, errGap, delta.base, l.Number)
	case delta.Number < l.Number:
		return nil, fmt.Errorf("%w: delta number %d after %d", ErrRollback, delta.Number, l.Number)
	case delta.Number == l.Number:
		return l, nil
	}
	changes := delta.entries
	if delta.base > full.Number { // it has not all that changed since the full list
		changes = make([]revoked, 0, len(l.overlay.changes)+len(delta.entries))
		merge(l.overlay.changes, delta.entries, func(r revoked) bool {
			changes = append(changes, r)
			return true
		})
	}
	if len(changes) > max(len(full.entries)/4, leastOverlay) {
		return nil, fmt.Errorf("%w: %d", errTooLong, len(changes))
	}
	next := *full
	next.Number, next.ThisUpdate, next.NextUpdate = delta.Number, delta.ThisUpdate, later(full.NextUpdate, delta.NextUpdate)
	next.overlay = &overlay{full: full, changes: changes, count: len(full.entries)}
	for i := range changes {
		_, was := findSerial(full.entries, &changes[i].serial)
		switch is := changes[i].reason != removeFromCRL; {
		case is && !was:
			next.overlay.count++
		case was && !is:
			next.overlay.count--
		}
	}
	return &next, nil
}

// leastOverlay is how many changes are kept beside even a short list.
const leastOverlay = 4096
