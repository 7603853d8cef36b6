package crl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"time"
)

// A Checker whose full list names a delta in FreshestCRL polls that one: a change among a million entries then costs
// kilobytes. Whatever is wrong with a delta, the full list is asked for in the same attempt, as if there were no deltas.

// renewRetry is how long after an attempt to renew the full list the next one comes.
const renewRetry = time.Minute

// renewal is when a full list is fetched again though deltas keep it up to date: in the last quarter of its time, not at
// the same moment in all servers that fetched it together. So what is kept on disk is good after a restart, what
// expired leaves the list, and what a delta got wrong does not stay.
func renewal(l *List) time.Time {
	lifetime := l.NextUpdate.Sub(l.ThisUpdate)
	return l.NextUpdate.Add(-rand.N(max(lifetime/4, 1)))
}

var errNoDelta = errors.New("the list names no delta")

// followDelta reports whether a delta made the list at hand the newest one.
func (k *Checker) followDelta(ctx context.Context, s *source) bool {
	err := k.fetchDelta(ctx, s)
	if errors.Is(err, errNoDelta) || err != nil && ctx.Err() != nil {
		return false
	}
	switch {
	case err != nil && s.noDelta != err.Error():
		k.log.Info("no delta CRL that does; the full one is fetched", "url", s.from, "error", err)
		s.noDelta = err.Error()
	case err == nil && s.noDelta != "":
		k.log.Info("the CRL's deltas do again", "url", s.from)
		s.noDelta = ""
	}
	if err == nil && k.now().After(s.renew) {
		s.renew = k.now().Add(renewRetry)
		if err := k.fetchFull(ctx, s); err != nil {
			k.log.Info("the full CRL is not renewed, its deltas are", "url", s.from, "error", err)
		}
	}
	return err == nil
}

// fetchDelta takes no more than half of the time, and leaves the rest for the full list.
func (k *Checker) fetchDelta(ctx context.Context, s *source) error {
	held := s.list.Load()
	if held == nil || held.DeltaURL == "" {
		return errNoDelta
	}
	from, err := s.deltaOf(held)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, k.timeout/2)
	defer cancel()
	der, seen, err := k.get(ctx, from, s.delta, s.delta != validators{})
	if err != nil || der == nil {
		return err
	}
	delta, err := parseDelta(der, s.issuer, s.url, k.now())
	if err != nil {
		return err
	}
	next, err := held.with(delta)
	if err != nil {
		return err
	}
	s.delta = seen
	if next == held {
		return nil
	}
	if delta.base <= held.full().Number {
		k.keep(s, deltaList, der)
	} else if k.dir != "" {
		s.renew = time.Time{} // the two on disk would not fit
	}
	k.use(s, next)
	return nil
}

// loadDelta lays the delta that was kept over the list that was kept, so that a certificate which a delta revoked is
// revoked after a restart. One that is older than the list is from before the list was renewed.
func (k *Checker) loadDelta(s *source, list *List) *List {
	file := k.file(s, deltaList)
	der, err := readFile(file, k.maxSize)
	if errors.Is(err, os.ErrNotExist) {
		return list
	}
	if err == nil {
		var delta, next *List
		if delta, err = parseDelta(der, s.issuer, s.url, k.now()); err == nil {
			if next, err = list.with(delta); err == nil {
				return next
			}
		}
	}
	if !errors.Is(err, ErrRollback) {
		k.log.Error("the delta CRL that was kept on disk is of no use", "url", s.from, "file", file, "error", err)
	}
	return list
}

// deltaOf returns where the delta is fetched to a list at hand. A list is signed, and yet must not send a server around
// its own network: unless Point says otherwise, it is only believed about paths on its own host.
func (s *source) deltaOf(l *List) (string, error) {
	if s.deltaFrom != "" {
		return s.deltaFrom, nil
	}
	own, err := url.Parse(cmp.Or(s.url, s.from))
	if err != nil {
		return "", err
	}
	delta, err := url.Parse(l.DeltaURL)
	if err != nil {
		return "", err
	}
	if own.Scheme != delta.Scheme || !strings.EqualFold(own.Host, delta.Host) {
		return "", fmt.Errorf("%w: its delta is on another host, %s", ErrList, delta.Host)
	}
	from, err := url.Parse(s.from)
	if err != nil {
		return "", err
	}
	delta.Scheme, delta.Host, delta.User = from.Scheme, from.Host, from.User
	return delta.String(), nil
}
