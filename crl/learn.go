package crl

import (
	"context"
	"crypto/x509"
	"slices"
	"time"
)

const (
	// learnEvery is how often Learn is asked at the most: strangers can show certificates by unknown issuers at will.
	learnEvery = 5 * time.Second
	// learnAhead is how often Run asks, so that an issuer is known before it signs anything.
	learnAhead = time.Minute
	// maxIssuers bounds the issuers that are known.
	maxIssuers = 64
)

func notIssuer(c *x509.Certificate) bool { return c == nil || !c.IsCA || len(c.SubjectKeyId) == 0 }

func (k *Checker) keepLearning(ctx context.Context) {
	for sleep(ctx, learnAhead) {
		k.learnIssuers(ctx)
	}
}

// learnIssuers asks for the issuers again, and reports whether another look is worth while: this caller learned of one,
// or another caller may have, since this one looked.
func (k *Checker) learnIssuers(ctx context.Context) bool {
	if k.learn == nil {
		return false
	}
	select {
	case k.asking <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-k.asking }()
	if !k.asked.IsZero() && k.now().Sub(k.asked).Abs() < learnEvery {
		return true
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.timeout) // others wait for the answer too
	defer cancel()
	found, err := k.learn(ctx)
	k.asked = k.now()
	if err != nil {
		k.log.Error("asking for the CA's issuers", "error", err)
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	learned := false
	for _, c := range found {
		if notIssuer(c) || len(k.issuers) >= maxIssuers || slices.ContainsFunc(k.issuers, c.Equal) {
			continue
		}
		k.issuers = append(slices.Clip(k.issuers), c) // others read the slice that was there before
		learned = true
	}
	return learned
}
