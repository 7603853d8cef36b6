package crl

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// away counts the requests that it does not answer.
type away struct{ asked atomic.Int64 }

func (a *away) RoundTrip(*http.Request) (*http.Response, error) {
	a.asked.Add(1)
	return nil, errors.New("away")
}

// TestChecker_Pace: who hears of revocations in another way has the CRL polled less often, and at once when that ends.
func TestChecker_Pace(t *testing.T) {
	issuer := newCA(t, "CA").cert
	synctest.Test(t, func(t *testing.T) {
		a := &away{}
		k, err := NewChecker(CheckerConfig{
			Issuers: []*x509.Certificate{issuer}, Points: []Point{{Issuer: issuer, URL: testURL}},
			HTTPClient: &http.Client{Transport: a}, Interval: time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = k.Run(ctx) })
		defer running.Wait()
		defer cancel()
		polls := func(d time.Duration) int64 {
			before := a.asked.Load()
			time.Sleep(d)
			synctest.Wait()
			return a.asked.Load() - before
		}
		if n := polls(20 * time.Second); n < 18 || n > 23 {
			t.Errorf("%d polls in 20 s", n)
		}
		k.Pace(10 * time.Second)
		polls(2 * time.Second)
		if n := polls(time.Minute); n < 5 || n > 7 {
			t.Errorf("%d polls in a minute at a pace of 10 s", n)
		}
		polls(2 * time.Second)
		k.Pace(0)
		synctest.Wait()
		if n := polls(time.Second / 2); n != 0 && n != 1 {
			t.Errorf("%d polls in half a second", n)
		}
		if n := polls(10 * time.Second); n < 9 || n > 12 {
			t.Errorf("%d polls in 10 s, at the own pace again", n)
		}
	})
}

// TestChecker_PollsWhatWasOnDisk: a list from disk may be hours old. Where the first certificate is checked against it, it
// does not wait for the next poll until it is asked for anew.
func TestChecker_PollsWhatWasOnDisk(t *testing.T) {
	f := newFixture(t)
	f.c.Dir, f.c.Interval = t.TempDir(), time.Hour
	f.site.serve(f.ca.list(t, 10, f.now, nil))
	cert := f.ca.leaf(t, 5, testURL)
	if err := newChecker(t, f.c).Check(t.Context(), cert); err != nil {
		t.Fatal(err)
	}
	f.site.serve(f.ca.list(t, 11, f.now, nil, 5)) // revoked while nobody looked
	k := newChecker(t, f.c)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = k.Run(ctx) })
	defer running.Wait()
	defer cancel()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		err := k.Check(t.Context(), cert)
		if _, revoked := errors.AsType[*RevokedError](err); revoked {
			return
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("a list from disk is not asked for anew: %v", err)
		}
	}
}

// serving answers with a list.
type serving []byte

func (s serving) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: int64(len(s)), Body: io.NopCloser(bytes.NewReader(s))}, nil
}

// TestChecker_Lists: what a list at hand has is told by issuer and serial number, and nothing is before there is a list.
func TestChecker_Lists(t *testing.T) {
	ca := newCA(t, "CA")
	k, err := NewChecker(CheckerConfig{
		Issuers: []*x509.Certificate{ca.cert}, Points: []Point{{Issuer: ca.cert, URL: testURL}},
		HTTPClient: &http.Client{Transport: serving(ca.list(t, 1, time.Now(), nil, 7))},
	})
	if err != nil {
		t.Fatal(err)
	}
	wants := func(want bool, id []byte, serial int64) {
		t.Helper()
		if got := k.Lists(id, big.NewInt(serial)); got != want {
			t.Errorf("Lists(%x, %d) = %t", id, serial, got)
		}
	}
	id := ca.cert.SubjectKeyId
	wants(false, id, 7)
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	wants(true, id, 7)
	wants(false, id, 8)
	wants(false, id, 0)
	wants(false, id, -7)
	wants(false, []byte("other"), 7)
	wants(false, nil, 7)
	if k.Lists(id, new(big.Int).Lsh(big.NewInt(1), 200)) {
		t.Error("a serial number that no list can hold is on one")
	}
}
