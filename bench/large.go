package main

import (
	"context"
	"fmt"
	"log"
	"path/filepath"
	"time"

	"github.com/pkid/pkid/bench/model"
	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/boltstore"
)

// large is a data directory with many certificates, some of them revoked. It is made once per run, and what it costs
// is measured while it grows.
type large struct {
	b            *bench
	dir          string
	issuer       string // its id
	forger       *forger
	empty        int64 // octets of the store before the first certificate
	certificates int
	octetsEach   float64     // of the store, before anything was revoked
	revoked      int         // without those that were revoked to measure something
	left         []ca.Serial // some that are not revoked yet
	list         int         // octets of the CRL
}

const (
	fillStep     = 50_000
	reportFill   = 1_000_000
	spareSerials = 1000 // are kept for the revocations that are measured
)

// largeStore returns the large store, full and with a current CRL.
func (b *bench) largeStore(ctx context.Context) (*large, error) {
	if b.large != nil {
		return b.large, nil
	}
	l, err := b.newLarge(ctx)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := l.fill(ctx, start.Add(fillTime(time.Since(b.began)))); err != nil {
		return nil, err
	}
	if err := l.revoke(ctx, time.Now().Add(revokeAll)); err != nil {
		return nil, err
	}
	settle()
	b.large = l
	return l, nil
}

// newLarge makes an empty one.
func (b *bench) newLarge(ctx context.Context) (*large, error) {
	pk, err := b.startPKID(ctx, "pkid-large")
	if err != nil {
		return nil, err
	}
	certs, err := pk.enrolAll(ctx, 1)
	pk.stop()
	if err != nil {
		return nil, err
	}
	l := &large{b: b, dir: pk.dir}
	s, err := openSigning(ctx, l.dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.store.Close() }()
	l.issuer = s.shard.Issuer
	if l.forger, err = forge(certs[0].Leaf, l.issuer); err != nil {
		return nil, err
	}
	l.empty, err = boltOctets(l.path())
	return l, err
}

func (l *large) path() string { return filepath.Join(l.dir, "pkid.db") }

// fill puts certificates into the store, until there are enough of them or the deadline has passed. What it takes
// to measure between does not count against the deadline. There are always some more than are to be revoked.
func (l *large) fill(ctx context.Context, deadline time.Time) error {
	least := min(l.b.sizes.certificates, l.b.sizes.revoked+spareSerials+fillStep)
	for _, size := range parts(l.b.sizes.certificates, 1, 10, 30, 100) {
		if l.certificates >= size {
			continue // the daemon issued so many when it was measured
		}
		start, first := time.Now(), l.certificates
		if err := l.fillTo(ctx, size, least, deadline); err != nil {
			return err
		}
		took := time.Since(start)
		log.Printf("  %s certificates: %s for %s more, %.0f/s", model.Count(l.certificates), tidy(took), model.Count(l.certificates-first),
			float64(l.certificates-first)/took.Seconds())
		if l.certificates == first {
			break // the time is over
		}
		start = time.Now()
		if err := l.measureFilled(ctx); err != nil {
			return err
		}
		deadline = deadline.Add(time.Since(start))
	}
	if l.certificates < l.b.sizes.certificates {
		log.Printf("  no more time to fill the store: it has %s of %s certificates", model.Count(l.certificates), model.Count(l.b.sizes.certificates))
	}
	return nil
}

// parts are so many percent of a size.
func parts(size int, percent ...int) []int {
	var out []int
	for _, p := range percent {
		out = append(out, max(size*p/100, 1))
	}
	return out
}

func (l *large) fillTo(ctx context.Context, size, least int, deadline time.Time) error {
	store, err := boltstore.Open(l.path(), boltstore.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }() // again, after an error
	for l.certificates < size && (time.Now().Before(deadline) || l.certificates < least) {
		serials, err := l.forger.fill(ctx, store, l.certificates, min(fillStep, size-l.certificates))
		if err != nil {
			return err
		}
		l.certificates += len(serials)
		if l.certificates/reportFill > (l.certificates-len(serials))/reportFill {
			log.Printf("  %s certificates", model.Count(l.certificates))
		}
		want := l.b.sizes.revoked + spareSerials - len(l.left)
		l.left = append(l.left, serials[:min(max(want, 0), len(serials))]...)
	}
	return store.Close()
}

// revoke revokes certificates, until there are enough or the deadline has passed, and publishes lists between.
func (l *large) revoke(ctx context.Context, deadline time.Time) error {
	all := min(l.b.sizes.revoked, len(l.left)-min(spareSerials, len(l.left)/2))
	for _, size := range parts(all, 1, 3, 10, 30, 100) {
		if time.Now().After(deadline) {
			log.Printf("  no more time to revoke: %s of %s are", model.Count(l.revoked), model.Count(l.b.sizes.revoked))
			break
		}
		s, err := openSigning(ctx, l.dir)
		if err != nil {
			return err
		}
		err = l.revokeTo(ctx, s, size, deadline)
		if err == nil {
			err = l.measureList(ctx, s)
		}
		if closing := s.store.Close(); err == nil {
			err = closing
		}
		if err != nil {
			return fmt.Errorf("with %d revoked: %w", l.revoked, err)
		}
		if err := l.measureServing(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (l *large) revokeTo(ctx context.Context, s *signing, size int, deadline time.Time) error {
	start, first := time.Now(), l.revoked
	for l.revoked < size && (l.revoked == first || time.Now().Before(deadline)) {
		n := min(fillStep, size-l.revoked)
		if err := l.forger.revoke(ctx, s.store, l.left[:n]); err != nil {
			return err
		}
		l.left, l.revoked = l.left[n:], l.revoked+n
	}
	log.Printf("  %s revoked: %s for %s more", model.Count(l.revoked), tidy(time.Since(start)), model.Count(l.revoked-first))
	return nil
}

// spare takes a certificate that is not revoked.
func (l *large) spare() ca.Serial {
	s := l.left[0]
	l.left = l.left[1:]
	return s
}
