package main

import (
	"context"
	"fmt"
	"log"
	"time"
)

// starts of the daemon are measured, at most.
const starts = 5

// scale measures a store of many certificates against an empty one, and a start with it.
func (b *bench) scale(ctx context.Context) error {
	l, err := b.largeStore(ctx)
	if err != nil {
		return err
	}
	size := fmt.Sprintf("store of %s certificates", count(l.certificates))
	b.report.within(size+": octets for each", "", fmt.Sprintf("%.0f", l.bytesPer), "900", l.bytesPer <= 900, "with its audit entry")
	if err := b.startUp(ctx, l); err != nil {
		return err
	}
	full, err := b.servePKID(ctx, "pkid-large", l.dir)
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
	got, err := alternate(ctx, "issue on a large store", min(b.sizes.rounds, 3), []contender{{size, issue(full)}, {"empty store", issue(empty)}})
	if err != nil {
		return err
	}
	b.report.atLeast(size+": issuance rate", "empty store", got[0].rate()/got[1].rate(), 0.8, "")
	b.report.rates("Issuing on a large store, 32 at once", fmt.Sprintf("The store was filled through its own methods with certificates of %s clients.", count(l.certificates)), got)
	return nil
}

// startUp measures from the start of the process to its first answer and to the first CRL.
func (b *bench) startUp(ctx context.Context, l *large) error {
	var answered, listed []time.Duration
	var memory []int64
	for range min(starts, b.sizes.rounds) {
		s, err := b.servePKID(ctx, "pkid-large", l.dir)
		if err != nil {
			return err
		}
		answered = append(answered, time.Since(s.started))
		_, err = waitETag(ctx, "http://"+s.status+"/crl/"+l.issuer+".crl", "")
		listed = append(listed, time.Since(s.started))
		if err == nil {
			err = holds(ctx, "http://"+s.status+"/crl/"+l.issuer+".crl", l.list)
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
	work := fmt.Sprintf("start with %s certificates and %s revoked", count(l.certificates), count(l.revoked))
	b.report.within(work+": to the first answer", "", tidy(first).String(), "1s", first <= time.Second, fmt.Sprintf("the store's pages in the kernel's cache; the CRL after %s; %d MB anonymous then", tidy(list), median(memory)>>20))
	return nil
}

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
