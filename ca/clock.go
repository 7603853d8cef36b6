package ca

import (
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

// CheckClock compares the clock with the instant of the newest thing that was recorded. Call it once before serving.
// The certificate with the highest serial number does not tell it: serial numbers of a CA that was taken over do not
// begin with the time.
func (a *Authority) CheckClock(newest time.Time) error {
	a.seen(newest)
	_, err := a.now()
	return err
}
