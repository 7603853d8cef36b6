package crlfile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrNotOne: there are several lists, and a file in DER holds one.
var ErrNotOne = errors.New("a file in DER holds one CRL")

// learn asks which lists there are, and keeps those that are gone as long as they are good: a server may still have
// certificates to check against them.
func (s *Sync) learn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, learnTime)
	defer cancel()
	points, err := s.Learn(ctx)
	if err != nil {
		return err
	}
	switch {
	case len(points) == 0:
		return errors.New("the CA has no CRL that is wanted here")
	case len(points) > maxPoints:
		return fmt.Errorf("the CA has %d CRLs; at most %d are kept in a file", len(points), maxPoints)
	case s.DER && len(points) > 1:
		return fmt.Errorf("%w, and there are %d: %s", ErrNotOne, len(points), names(points))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make([]*source, 0, len(points))
	for i := range points {
		at := slices.IndexFunc(s.sources, func(src *source) bool { return src.same(&points[i]) })
		if at < 0 {
			next = append(next, &source{Point: points[i]})
		} else {
			next = append(next, s.sources[at])
		}
	}
	for _, src := range s.sources {
		if !slices.Contains(next, src) && src.held != nil && !s.Now().After(src.held.next) && !s.DER && len(next) < maxPoints {
			next = append(next, src)
		}
	}
	s.sources = next
	return nil
}

func names(points []Point) string {
	var all []string
	for _, p := range points {
		all = append(all, p.Name)
	}
	return strings.Join(all, ", ")
}

// firstLearn asks until there is an answer, or ctx ends. The CA may be away when a server starts, and the file is there.
func (s *Sync) firstLearn(ctx context.Context) error {
	var failed repeated
	for ctx.Err() == nil {
		err := s.learn(ctx)
		if err == nil || errors.Is(err, ErrNotOne) {
			return err
		}
		if ctx.Err() == nil && failed.isNew(err) {
			s.Logger.Error("the CA does not say which CRLs there are; the file stays as it is", "file", s.file.name, "error", err)
		}
		sleep(ctx, learnEvery)
	}
	return nil
}

// lessons learns in the background, so that a CA that hangs keeps no list from being written.
func (s *Sync) lessons(ctx context.Context, parts *sync.WaitGroup) {
	if !s.learning.TryLock() {
		return
	}
	parts.Go(func() {
		defer s.learning.Unlock()
		if err := s.learn(ctx); ctx.Err() == nil && s.unlearned.isNew(err) {
			s.Logger.Error("the CA does not say which CRLs there are; those that are known are kept", "file", s.file.name, "error", err)
		}
	})
}

const (
	// warnAgain is how often it is told that a list runs out.
	warnAgain = time.Hour
	// warnAhead is how long before nextUpdate it is told at the earliest: the root's lists last for a year and more.
	warnAhead = 30 * 24 * time.Hour
)

// warn says in time that a list will run out. The CA signs another when half of a list's time is over, so that one with
// less than a quarter left should have been followed by another long ago.
func (s *Sync) warn() {
	now := s.Now()
	if now.Sub(s.warned).Abs() < warnAgain {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, src := range s.sources {
		if src.held == nil {
			continue
		}
		left := src.held.next.Sub(now)
		switch {
		case left < 0:
			s.Logger.Error("a CRL in the file has run out: servers refuse the certificates that it is about", "list", src.Name, "next_update", src.held.next, "error", src.err)
		case left < min(src.held.next.Sub(src.held.this)/4, warnAhead):
			s.Logger.Warn("a CRL in the file runs out, and the CA has no newer one", "list", src.Name, "next_update", src.held.next, "error", src.err)
		default:
			continue
		}
		s.warned = now
	}
}

// stale is an error if a list has run out.
func (s *Sync) stale() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, src := range s.sources {
		if src.held != nil && s.Now().After(src.held.next) {
			errs = append(errs, fmt.Errorf("%s: the CRL ran out at %s, and the CA has no newer one", src.Name, src.held.next.Format(time.RFC3339)))
		}
	}
	return errors.Join(errs...)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
