package crl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// rereadAfter is how long a view may follow changes before all revocations are read again.
const rereadAfter = time.Hour

// view is what a publisher knows of a shard's revocations: all of them as they were at a position of the log of
// changes, but for what expired before a time. It never changes.
type view struct {
	entries  *entries
	position uint64
	since    time.Time // the earliest expiry
	read     time.Time // when everything was read

	news []edit // what it has otherwise than the view before it, for marks.follow to take
	anew bool   // what it has otherwise is not known
}

// after returns the view after changes.
func (v view) after(edits []edit, position uint64) (*view, error) {
	mine := slices.Clone(edits)
	v.news = slices.Clip(v.news)
	for i := range mine {
		expired := mine[i].notAfter.Before(v.since)
		if !expired || mine[i].released {
			v.news = append(v.news, mine[i])
		}
		mine[i].released = mine[i].released || expired
	}
	var err error
	v.entries, err = v.entries.with(mine)
	v.position = position
	return &v, err
}

// look returns a view that has every revocation in it which was durable when it was called: the old one with what
// changed since, or a new one if the old one is nil or will not do. A nil old will not do.
func (p *Publisher) look(ctx context.Context, shard Shard, old *view, keep, now time.Time, willDo func(*view) bool) (*view, error) {
	if old != nil {
		edits, position, err := p.changes(ctx, shard, old.position)
		if errors.Is(err, ErrChangesDropped) {
			p.log.Info("the store has dropped changes that were not followed yet: all revocations are read again", "shard", shard.String())
			return p.readAll(ctx, shard, nil, keep, now)
		}
		if err != nil {
			return nil, err
		}
		if position < old.position {
			p.log.Warn("the store's log of changes is shorter than it was: all revocations are read again", "shard", shard.String())
			old = nil
		} else if old, err = old.after(edits, position); err != nil {
			return nil, err
		}
	}
	if old != nil && willDo(old) {
		return old, nil
	}
	return p.readAll(ctx, shard, old, keep, now)
}

// changes reads what changed after a position, and the position up to which that is everything.
func (p *Publisher) changes(ctx context.Context, shard Shard, after uint64) ([]edit, uint64, error) {
	position, err := p.revocations.Position(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the revocations: %w", err)
	}
	var edits []edit
	for c, err := range p.revocations.Changes(ctx, shard, after) {
		if err != nil {
			return nil, 0, fmt.Errorf("reading what changed of the revocations: %w", err)
		}
		e, err := c.edit()
		if err != nil {
			return nil, 0, fmt.Errorf("reading what changed of the revocations: %w", err)
		}
		edits, position = append(edits, e), max(position, c.Position)
	}
	return edits, position, nil
}

func (c Change) edit() (edit, error) {
	r, err := c.compact()
	return edit{revoked: r, notAfter: c.NotAfter, released: c.Released}, err
}

// readAll reads every revocation of a certificate that expires at keep or later. The old view, if there is one,
// gives its blocks where they say the same. It should have said all the same: if it did not, that is logged.
//
// A change that comes while this reads may be in what is read or not. So the changes after the position at which it
// began are applied on top; to do that twice is harmless, since the last change of a certificate is what counts.
func (p *Publisher) readAll(ctx context.Context, shard Shard, old *view, keep, now time.Time) (*view, error) {
	fresh := view{since: keep}
	var reading rereading
	if old != nil {
		fresh, reading.old = *old, old.entries.blocks
	} else {
		var err error
		if fresh.position, err = p.revocations.Position(ctx); err != nil {
			return nil, fmt.Errorf("reading the revocations: %w", err)
		}
	}
	var turned []edit // what expired since the old view was read, or is valid again by a clock that was set back
	from := keep
	if fresh.since.Before(keep) {
		from = fresh.since
	}
	var last revoked
	for e, err := range p.revocations.Revoked(ctx, shard, from) {
		if err != nil {
			return nil, fmt.Errorf("reading the revocations: %w", err)
		}
		r, err := e.compact()
		if err != nil {
			return nil, fmt.Errorf("reading the revocations: %w", err)
		}
		known, kept := !e.NotAfter.Before(fresh.since), !e.NotAfter.Before(keep)
		if known != kept || compareSerials(r, last) <= 0 {
			turned = append(turned, edit{revoked: r, notAfter: e.NotAfter, released: !kept})
		}
		if known && compareSerials(r, last) > 0 {
			if err := reading.add(&r); err != nil {
				return nil, err
			}
			last = r
		}
	}
	fresh.entries = reading.finish()
	edits, position, err := p.changes(ctx, shard, fresh.position)
	if err != nil {
		return nil, err
	}
	fresh.anew = true
	if old != nil {
		same, err := p.compare(shard, *old, fresh, edits)
		if err != nil {
			return nil, err
		}
		fresh.anew = !same
	}
	for _, x := range turned {
		if !x.released {
			fresh.news = append(fresh.news, x)
		}
	}
	fresh.since, fresh.read = keep, now
	if fresh.entries, err = fresh.entries.with(turned); err != nil {
		return nil, err
	}
	return fresh.after(edits, position)
}

// compare logs what a view that followed the changes got wrong, which a full reading has found, and reports whether
// that is nothing. Both lack the changes that came since.
func (p *Publisher) compare(shard Shard, followed, read view, edits []edit) (same bool, err error) {
	a, err := read.after(edits, 0)
	if err != nil {
		return false, err
	}
	b, err := followed.after(edits, 0)
	if err != nil {
		return false, err
	}
	lacks, extra, other := difference(a.entries, b.entries)
	if lacks+extra+other > 0 {
		p.log.Error("the CRL did not say what the store says; the store's word counts from now on",
			"shard", shard.String(), "lacked", lacks, "had_too_many", extra, "said_otherwise", other)
	}
	return lacks+extra+other == 0, nil
}
