package ca

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrClock reports a clock that is behind what was recorded before, so that nothing is signed with dates
// that are wrong. It goes away once the clock is right.
var ErrClock = errors.New("the clock jumped back")

// clockSlack is how far the clock may fall behind its highest reading: NTP steps and restarts on another
// node stay below it.
const clockSlack = 5 * time.Minute

// now reads the clock and refuses a reading that is far behind an earlier one.
func (a *Authority) now() (time.Time, error) {
	t := a.clock()
	latest := a.seen(t)
	if behind := latest.Sub(t); behind > clockSlack {
		return t, fmt.Errorf("%w: it shows %s, and %s was seen before; set it right",
			ErrClock, t.UTC().Format(time.RFC3339), latest.UTC().Format(time.RFC3339))
	}
	return t, nil
}

// seen records a reading and returns the latest one so far.
func (a *Authority) seen(t time.Time) time.Time {
	for {
		latest := a.latest.Load()
		if t.UnixMilli() <= latest {
			return time.UnixMilli(latest)
		}
		if a.latest.CompareAndSwap(latest, t.UnixMilli()) {
			return t
		}
	}
}

// CheckClock compares the clock with the newest certificate in the store. Call it once before serving.
func (a *Authority) CheckClock(ctx context.Context) error {
	page, err := a.store.List(ctx, Query{Now: a.clock(), Limit: 1})
	if err != nil {
		return fmt.Errorf("reading the newest certificate: %w", err)
	}
	for _, rec := range page.Records {
		a.seen(rec.IssuedAt)
	}
	_, err = a.now()
	return err
}
