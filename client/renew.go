package client

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// ExpiredError reports an identity that can no longer renew itself, because its certificate has expired.
type ExpiredError struct {
	ClientID string
	At       time.Time
}

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("the certificate of %s expired at %s and cannot renew itself: "+
		"ask an operator for `pkictl invite %s` and enrol again into a new directory",
		e.ClientID, e.At.UTC().Format(time.RFC3339), e.ClientID)
}

// RenewOptions say how to renew.
type RenewOptions struct {
	Rekey bool // with a new key of the same type
}

// Renew replaces the identity's certificate, and with Rekey its key, over mTLS with the current one. The
// answer is checked before it replaces anything; a failure or a crash at any point leaves a working pair. Where the CA has
// a new root that the one before vouches for, the identity trusts both from then on.
// Errors: *ExpiredError, a *Problem with what the CA says.
func (id *Identity) Renew(ctx context.Context, opts RenewOptions) error {
	unlock, err := lockDir(ctx, id.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := errors.Join(id.applyNext(), id.read()); err != nil {
		return fmt.Errorf("reading the identity in %s: %w", id.dir, err)
	}
	old := id.Certificate()
	if time.Now().After(old.Leaf.NotAfter) {
		return &ExpiredError{ClientID: id.info.ClientID, At: old.Leaf.NotAfter}
	}
	key := old.PrivateKey.(crypto.Signer)
	if opts.Rekey {
		if key, err = NewKey(keyTypeOf(key.Public())); err != nil {
			return err
		}
	}
	csr, err := newCSR(key) // with the same key too: a CA behind a proxy has no other proof of it
	if err != nil {
		return err
	}
	body := CSR{CSR: string(csr)}
	hc := newHTTPClient(showing(old, id.Roots()))
	defer hc.CloseIdleConnections()
	var issued Certificate
	if err := call(ctx, hc, http.MethodPost, join(id.info.URLs.MTLS, "/v1/certificates/renew"), nil, body, &issued); err != nil {
		return fmt.Errorf("renewing at %s: %w", id.info.URLs.MTLS, err)
	}
	roots := id.TrustedRoots()
	next, err := checkIssued(&issued, roots, key)
	if err != nil {
		return err
	}
	if issued.ClientID != id.info.ClientID || !bytes.Equal(next.Leaf.RawSubject, old.Leaf.RawSubject) {
		return fmt.Errorf("the CA answered with a certificate of %q (%s), not of %q", issued.ClientID, next.Leaf.Subject, id.info.ClientID)
	}
	if roots, err = succession(roots, &issued); err != nil {
		return err
	}
	if err := id.trust(roots); err != nil {
		return err
	}
	return id.install(next)
}

// RenewalTime returns when a certificate should be renewed: after two thirds of its lifetime.
func RenewalTime(cert *x509.Certificate) time.Time {
	return cert.NotAfter.Add(-cert.NotAfter.Sub(cert.NotBefore) / 3)
}

// LoopOptions say how RenewLoop renews and whom it tells.
type LoopOptions struct {
	RenewOptions
	// After, if set, runs after each renewal, such as to reload a server. Its error is logged.
	After func(context.Context) error
	Log   *slog.Logger // nothing is logged if nil
}

// RenewLoop renews the identity at two thirds of each certificate's lifetime, give or take a twentieth, so
// that a fleet that was enrolled together does not come back together. After a failure it waits longer each
// time. It returns nil when ctx ends, and an *ExpiredError when there is nothing left to renew with.
func (id *Identity) RenewLoop(ctx context.Context, opts LoopOptions) error {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return (&loop{
		clientID: id.info.ClientID,
		leaf:     func() *x509.Certificate { return id.Certificate().Leaf },
		renew:    func(ctx context.Context) error { return id.Renew(ctx, opts.RenewOptions) },
		opts:     opts,
	}).run(ctx)
}

// loop is RenewLoop without the network, so that its waiting can be tested.
type loop struct {
	clientID string
	leaf     func() *x509.Certificate // the current one, also if another process renewed it
	renew    func(context.Context) error
	opts     LoopOptions
}

const (
	firstRetry  = 5 * time.Second
	longestWait = time.Hour        // between two failed attempts
	restAfter   = 30 * time.Second // the least time between two renewals, whatever the certificate says
	nap         = time.Minute      // the longest sleep: timers stand still while a machine is suspended
)

func (l *loop) run(ctx context.Context) error {
	var rest time.Time // no attempt before
	for ctx.Err() == nil {
		leaf := l.leaf()
		if time.Now().After(leaf.NotAfter) {
			return &ExpiredError{ClientID: l.clientID, At: leaf.NotAfter}
		}
		due := RenewalTime(leaf).Add(spread(leaf.NotAfter.Sub(leaf.NotBefore) / 20))
		if due.Before(rest) {
			due = rest
		}
		l.opts.Log.Info("waiting to renew", "client", l.clientID, "not_after", leaf.NotAfter, "renewal", due.Round(time.Second))
		if !l.waitUntil(ctx, due, leaf) {
			continue // the context ended, or another process renewed
		}
		if err := l.attempt(ctx); err != nil {
			return err
		}
		rest = time.Now().Add(max(restAfter, time.Until(l.leaf().NotAfter)/4))
	}
	return nil
}

// waitUntil sleeps until due and reports whether leaf is then still the current certificate.
func (l *loop) waitUntil(ctx context.Context, due time.Time, leaf *x509.Certificate) bool {
	for {
		left := time.Until(due.Round(0)) // wall clock
		if left <= 0 {
			return ctx.Err() == nil
		}
		if sleep(ctx, min(left, nap)) != nil || !l.leaf().Equal(leaf) {
			return false
		}
	}
}

// attempt renews, again and again if it must, until it succeeds, ctx ends or the certificate has expired.
func (l *loop) attempt(ctx context.Context) error {
	for wait := firstRetry; ctx.Err() == nil; wait = min(2*wait, longestWait) {
		notAfter := l.leaf().NotAfter
		if time.Now().After(notAfter) {
			return &ExpiredError{ClientID: l.clientID, At: notAfter}
		}
		err := l.renew(ctx)
		if err == nil {
			l.renewed(ctx)
			return nil
		}
		if ctx.Err() != nil {
			continue // to the end of the loop: that is no failure
		}
		// Half of what is left, at the most: the last attempts come before the end.
		pause := jitter(min(wait, max(time.Until(notAfter)/2, firstRetry)), 0.3)
		l.opts.Log.Warn("renewal failed", "client", l.clientID, "error", err, "not_after", notAfter, "retry_in", pause.Round(time.Second))
		_ = sleep(ctx, pause) // its only error is that of ctx, which the loop looks at
	}
	return nil
}

// renewed tells of a success.
func (l *loop) renewed(ctx context.Context) {
	l.opts.Log.Info("renewed", "client", l.clientID, "not_after", l.leaf().NotAfter)
	if l.opts.After != nil {
		if err := l.opts.After(ctx); err != nil {
			l.opts.Log.Error("the command after renewal failed", "client", l.clientID, "error", err)
		}
	}
}
