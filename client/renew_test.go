package client

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// clockwork is a loop whose renewals happen in a synctest bubble.
type clockwork struct {
	loop
	cert     atomic.Pointer[x509.Certificate]
	lifetime time.Duration
	renewals []time.Time // attempts
	fail     func(n int) error
}

func newClockwork(lifetime time.Duration) *clockwork {
	c := &clockwork{lifetime: lifetime}
	c.issue()
	c.loop = loop{clientID: "x", leaf: func() *x509.Certificate { return c.cert.Load() }, renew: c.attempt, opts: LoopOptions{}}
	return c
}

func (c *clockwork) issue() {
	c.cert.Store(&x509.Certificate{Raw: []byte(time.Now().String()), NotBefore: time.Now(), NotAfter: time.Now().Add(c.lifetime)})
}

func (c *clockwork) attempt(context.Context) error {
	c.renewals = append(c.renewals, time.Now())
	if c.fail != nil {
		if err := c.fail(len(c.renewals)); err != nil {
			return err
		}
	}
	c.issue()
	return nil
}

func (c *clockwork) runQuietly(ctx context.Context) error {
	c.opts.Log = slog.New(slog.DiscardHandler)
	return c.run(ctx)
}

func TestRenewLoopAtTwoThirds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork(24 * time.Hour)
		hooks := 0
		c.opts.After = func(context.Context) error { hooks++; return errors.New("logged, not fatal") }
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 10*24*time.Hour)
		defer cancel()
		if err := c.runQuietly(ctx); err != nil {
			t.Fatalf("a clean stop is no error: %v", err)
		}
		last := start
		for _, at := range c.renewals {
			if d := at.Sub(last); d < 14*time.Hour+48*time.Minute || d > 17*time.Hour+13*time.Minute {
				t.Errorf("renewed after %s, want 16h give or take 72 minutes", d)
			}
			last = at
		}
		if n := len(c.renewals); n < 14 || n > 16 || hooks != n {
			t.Errorf("%d renewals, %d hooks", n, hooks)
		}
	})
}

func TestRenewLoopBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork(24 * time.Hour)
		c.fail = func(int) error { return errors.New("the CA is away") }
		err := c.runQuietly(t.Context())
		if e, ok := errors.AsType[*ExpiredError](err); !ok || !e.At.Equal(c.cert.Load().NotAfter) {
			t.Fatalf("got %v, want the certificate's expiry", err)
		}
		if n := len(c.renewals); n < 15 || n > 60 {
			t.Errorf("%d attempts in a third of a day", n)
		}
		for i, at := range c.renewals[1:] {
			if d := at.Sub(c.renewals[i]); d < 3*time.Second {
				t.Errorf("attempts %s apart", d)
			}
		}
		if late := time.Since(c.cert.Load().NotAfter); late > time.Minute {
			t.Errorf("noticed the expiry %s late", late)
		}
	})
}

// Nothing is said of a renewal that will never come.
func TestRenewLoopOfAnExpiredCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork(time.Hour)
		time.Sleep(2 * time.Hour)
		var log bytes.Buffer
		c.opts.Log = slog.New(slog.NewTextHandler(&log, nil))
		err := c.run(t.Context())
		if e, ok := errors.AsType[*ExpiredError](err); !ok || !e.At.Equal(c.cert.Load().NotAfter) {
			t.Errorf("got %v, want the certificate's expiry", err)
		}
		if log.Len() > 0 || len(c.renewals) > 0 {
			t.Errorf("%d attempts; logged %s", len(c.renewals), log.String())
		}
	})
}

// A server that always gives a certificate which is about to expire must not be asked without end.
func TestRenewLoopRestsBetweenRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork(time.Hour)
		c.fail = func(int) error {
			c.cert.Store(&x509.Certificate{Raw: []byte(time.Now().String()), NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(time.Minute)})
			return nil
		}
		c.renew = func(ctx context.Context) error { c.renewals = append(c.renewals, time.Now()); return c.fail(0) }
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
		defer cancel()
		if err := c.runQuietly(ctx); err != nil {
			t.Fatal(err)
		}
		for i, at := range c.renewals[1:] {
			if d := at.Sub(c.renewals[i]); d < restAfter-time.Second {
				t.Fatalf("renewals %s apart", d)
			}
		}
	})
}

func TestRenewLoopSeesOthersRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork(3 * time.Hour)
		go func() {
			time.Sleep(time.Hour)
			c.issue()
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Minute)
		defer cancel()
		if err := c.runQuietly(ctx); err != nil || len(c.renewals) != 0 {
			t.Errorf("%v after %d renewals; the next is due after three hours", err, len(c.renewals))
		}
	})
}
