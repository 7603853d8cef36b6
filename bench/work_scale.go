package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/pkid/pkid/bench/model"
)

// starts of the daemon are measured, at most.
const starts = 5

// scale measures a store of many certificates against an empty one, and a start with it.
func (b *bench) scale(ctx context.Context) error {
	l, err := b.largeStore(ctx)
	if err != nil {
		return err
	}
	b.report.recordAt("large/octets", l.octetsEach, l.certificates, "with its index entries and its audit entry"+b.stepOctets)
	if err := b.startUp(ctx, l); err != nil {
		return err
	}
	full, err := l.serve(ctx)
	if err != nil {
		return err
	}
	defer full.stop()
	empty, err := b.startPKID(ctx, "pkid-empty")
	if err != nil {
		return err
	}
	defer empty.stop()
	issue := func(s *pkidServer) func(context.Context) (sample, error) {
		a := newAuthorities(b)
		a.pkid = s
		return a.issuers(connections)[0].round
	}
	const large, none = "large store", "empty store"
	got, err := alternate(ctx, "issue on a large store", b.sizes.rounds, []contender{{large, issue(full)}, {none, issue(empty)}})
	if err != nil {
		return err
	}
	b.report.recordAt("large/rate", got.over(large, none), l.certificates, "")
	b.report.rates("Issuing on a large store, 32 at once", fmt.Sprintf("The store was filled through its own methods with certificates of %s clients, %s of them revoked.",
		model.Count(l.certificates), model.Count(l.revoked)), got)
	return b.explain(ctx, "issue, large store", full.process, issue(full), "large/rate")
}

// startUp measures from the start of the process to its first answer and to the first CRL.
func (b *bench) startUp(ctx context.Context, l *large) error {
	var answered, listed []time.Duration
	var memory []int64
	for range min(starts, b.sizes.rounds) {
		s, err := l.serve(ctx)
		if err != nil {
			return err
		}
		answered = append(answered, s.answered)
		_, err = waitETag(ctx, l.url(s), "")
		listed = append(listed, time.Since(s.started))
		if err == nil {
			err = holds(ctx, l.url(s), l.list)
		}
		if err == nil {
			var n int64
			n, err = s.memory()
			memory = append(memory, n)
		}
		s.stop()
		if err != nil {
			return err
		}
	}
	first, list := median(answered), median(listed)
	log.Printf("  start: %s to the first answer, %s to the CRL, %d MB", tidy(first), tidy(list), median(memory)>>20)
	note := fmt.Sprintf("with %s revoked; the CRL after %s, %s anonymous memory then; the store's pages in the kernel's cache",
		model.Count(l.revoked), tidy(list), megabytes(median(memory)))
	if b.stepStart.took > 0 {
		note += fmt.Sprintf("; step-ca: %s and %s with %s revoked and no certificate", tidy(b.stepStart.took), megabytes(b.stepStart.memory), model.Count(l.revoked))
	}
	// It is demanded with a tenth of the certificates revoked, so fewer of these count as fewer of those.
	b.report.recordAt("start", first.Seconds(), min(l.certificates, 10*l.revoked), note)
	return nil
}

func megabytes(octets int64) string { return model.Octets.Text(float64(octets), 3) }

// holds makes sure that the list which was served is the large one, by its size.
func holds(ctx context.Context, url string, octets int) error {
	resp, err := get(ctx, url, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.ContentLength < int64(octets)*9/10 {
		return fmt.Errorf("the CRL has %d octets, want about %d: it is not the one with the revocations", resp.ContentLength, octets)
	}
	return nil
}
