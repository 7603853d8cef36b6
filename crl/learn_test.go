package crl

import (
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"testing"
	"time"
)

// A certificate by an issuer that came later is checked against that issuer's list, and those of strangers are refused
// as before, without a question for each.
func TestCheckLearnsOfIssuers(t *testing.T) {
	f := newFixture(t)
	next, stranger := newCA(t, "Issuing CA 2"), newCA(t, "Issuing CA")
	now := f.now
	var known []*x509.Certificate
	asked := 0
	f.c.Now = func() time.Time { return now }
	f.c.Learn = func(context.Context) ([]*x509.Certificate, error) {
		asked++
		if known == nil {
			return nil, errors.New("the CA is away")
		}
		return known, nil
	}
	k := newChecker(t, f.c)
	for range 10 {
		wantErr(t, k.Check(t.Context(), stranger.leaf(t, 1, testURL)), ErrUnknownIssuer, "")
	}
	if asked != 1 {
		t.Errorf("asked %d times for a stranger's certificates, want once", asked)
	}
	known = []*x509.Certificate{next.cert, f.ca.cert, nil, next.leaf(t, 9)}
	f.site.serve(next.list(t, 1, f.now, nil, 5))
	good, revoked := next.leaf(t, 1, testURL), next.leaf(t, 5, testURL)
	wantErr(t, k.Check(t.Context(), good), ErrUnknownIssuer, "") // it was asked just now
	now = now.Add(learnEvery)
	if err := k.Check(t.Context(), good); err != nil {
		t.Errorf("a certificate of the new issuer: %v", err)
	}
	wantRevoked(t, "of the new issuer", k, revoked)
	now = now.Add(learnEvery)
	wantErr(t, k.Check(t.Context(), stranger.leaf(t, 1, testURL)), ErrUnknownIssuer, "")
	if asked != 3 {
		t.Errorf("asked %d times in all, want 3", asked)
	}
}

// Many checks at once share one question.
func TestChecksLearnTogether(t *testing.T) {
	f := newFixture(t)
	next := newCA(t, "Issuing CA 2")
	f.site.serve(next.list(t, 1, f.now, nil))
	cert := next.leaf(t, 1, testURL)
	var checks sync.WaitGroup
	asked := 0
	f.c.Learn = func(context.Context) ([]*x509.Certificate, error) {
		asked++
		return []*x509.Certificate{next.cert}, nil
	}
	k := newChecker(t, f.c)
	for range 20 {
		checks.Go(func() {
			if err := k.Check(t.Context(), cert); err != nil {
				t.Error(err)
			}
		})
	}
	checks.Wait()
	if asked != 1 {
		t.Errorf("asked %d times, want once", asked)
	}
}
