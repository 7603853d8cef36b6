package crl

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// shardedCA publishes two shards through a Publisher whose store keeps each shard's revocations apart.
type shardedCA struct {
	*testCA
	p      *Publisher
	shards []PublishedShard
}

func newShardedCA(t *testing.T) *shardedCA {
	t.Helper()
	ca := newCA(t, "Issuing CA")
	s := &shardedCA{testCA: ca, shards: []PublishedShard{shardAt(ca, 0), shardAt(ca, 1)}}
	c := publisherConfig(ca, nil)
	c.Shards = s.shards
	m := newMemory()
	m.revoke(7, 1) // on both lists: memory does not tell shards apart, and which list was asked shows all the same
	c.Store, c.Revocations = m, m
	s.p = newPublisher(t, c)
	for _, shard := range s.shards {
		if _, err := s.p.Publish(t.Context(), shard.Shard); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// serve answers for the shard at the request's URL, or for the one that swapped says instead.
func (s *shardedCA) serve(swapped map[string]int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n, ok := swapped[r.URL.String()]
		for i, shard := range s.shards {
			if !ok && shard.URL == r.URL.String() {
				n, ok = i, true
			}
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		s.p.Serve(w, r, s.shards[n].Shard)
	}
}

// Each certificate is checked against the list of its own shard, and that of another is refused in its place, although
// the same key signed it: it says nothing about the certificate.
func TestCheckerWantsTheShardOfTheCertificate(t *testing.T) {
	s := newShardedCA(t)
	zero, one := s.shards[0].URL, s.shards[1].URL
	newChecker := func(swapped map[string]int) *Checker {
		f := newFixture(t)
		f.c.Issuers, f.c.HTTPClient, f.c.Now = []*x509.Certificate{s.cert}, handled(s.serve(swapped)), time.Now
		return newChecker(t, f.c)
	}
	k := newChecker(nil)
	for _, url := range []string{zero, one} {
		if err := k.Check(t.Context(), s.leaf(t, 8, url)); err != nil {
			t.Errorf("good certificate of %s: %v", url, err)
		}
		var revoked *RevokedError
		if err := k.Check(t.Context(), s.leaf(t, 7, url)); !errors.As(err, &revoked) {
			t.Errorf("revoked certificate of %s: %v", url, err)
		}
	}
	if n := len(k.Status()); n != 2 {
		t.Errorf("%d lists, want those of both shards", n)
	}
	k = newChecker(map[string]int{one: 0, zero: 1})
	for _, url := range []string{zero, one} {
		err := k.Check(t.Context(), s.leaf(t, 8, url))
		wantErr(t, err, ErrUnavailable, "it is the list for")
		wantErr(t, err, ErrList, url)
	}
}

// A checker that has met as many shards as it remembers goes on: it forgets the one that was not used for longest. What
// the configuration names stays.
func TestDistributionPointsAreBounded(t *testing.T) {
	f := newFixture(t)
	f.c.Points = []Point{{Issuer: f.ca.cert, URL: testURL}}
	f.site.fail(status(503))
	k := newChecker(t, f.c)
	point := func(n int) string { return fmt.Sprintf("%s?%d", testURL, n) }
	for n := range maxSources + 9 {
		f.now = f.now.Add(time.Second)
		if err := k.Check(t.Context(), f.ca.leaf(t, 1, point(n))); err == nil || strings.Contains(err.Error(), "more than") {
			t.Fatalf("point %d: %v", n, err)
		}
	}
	known := map[string]bool{}
	for _, i := range k.Status() {
		known[i.URL] = true
	}
	if len(known) != maxSources || !known[testURL] || known[point(0)] || known[point(9)] || !known[point(10)] || !known[point(maxSources+8)] {
		t.Errorf("%d points; the configured one %v, the first %v, the last %v", len(known), known[testURL], known[point(0)], known[point(maxSources+8)])
	}
	if n := len(k.resolved); n > maxSources {
		t.Errorf("%d certificates lead to points, more than there are", n)
	}
	for n := range maxSources {
		f.c.Points = append(f.c.Points, Point{Issuer: f.ca.cert, URL: point(n)})
	}
	if _, err := NewChecker(f.c); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("too many points in the configuration: %v", err)
	}
}

// The list of a shard that has ended is asked for no more once it has run out and nobody needs it, and not before.
func TestEndedShardIsForgotten(t *testing.T) {
	f := newFixture(t)
	f.c.Dir = t.TempDir()
	f.site.serve(f.ca.list(t, 7, f.now, nil, 2))
	k := newChecker(t, f.c)
	leaf := f.ca.leaf(t, 1, testURL)
	if err := k.Check(t.Context(), leaf); err != nil {
		t.Fatal(err)
	}
	f.site.fail(status(404))
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{59 * time.Minute, 1}, {2 * time.Minute, 0}} { // the list is good for an hour
		f.now = f.now.Add(step.after)
		k.forget(f.now)
		if n := len(k.Status()); n != step.want {
			t.Errorf("%d points after %s more, want %d", n, step.after, step.want)
		}
	}
	if files, err := os.ReadDir(f.c.Dir); err != nil || len(files) != 0 {
		t.Errorf("%d files are left, %v", len(files), err)
	}
	f.site.serve(f.ca.list(t, 8, f.now, nil, 1))
	var revoked *RevokedError
	if err := k.Check(t.Context(), leaf); !errors.As(err, &revoked) {
		t.Errorf("a list that came back: %v", err)
	}
	f.now = f.now.Add(30 * time.Hour)
	_ = k.Check(context.Background(), leaf) // somebody still asks
	k.forget(f.now)
	if n := len(k.Status()); n != 1 {
		t.Error("a list that somebody asks for was forgotten")
	}
}

// The polls of many lists on one host take turns on connections that stay.
func TestPollsShareConnections(t *testing.T) {
	ca, opened, lists := newCA(t, "Issuing CA"), atomic.Int64{}, map[string][]byte{}
	site := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Millisecond)
		_, _ = w.Write(lists[r.URL.Path])
	}))
	site.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	site.Start()
	defer site.Close()
	f := newFixture(t)
	f.c.Issuers, f.c.HTTPClient, f.c.Now = []*x509.Certificate{ca.cert}, nil, nil
	for i := range 2 * maxConns {
		path := fmt.Sprintf("/%d.crl", i)
		idp := idpFor(t, site.URL+path)
		lists[path] = ca.list(t, 1, time.Now(), func(l *x509.RevocationList) { l.ExtraExtensions[0] = idp })
		f.c.Points = append(f.c.Points, Point{Issuer: ca.cert, URL: site.URL + path})
	}
	k := newChecker(t, f.c)
	for range 4 {
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := opened.Load(); n > maxConns {
		t.Errorf("%d connections for %d polls, want at most %d", n, 4*2*maxConns, maxConns)
	}
}

// A list that is said to be long takes memory as it comes.
func TestClaimedLengthTakesNoMemory(t *testing.T) {
	for size, want := range map[int64]int{-1: 1 << 10, 1 << 10: 1 << 11, 200 << 20: maxClaim + 1<<10} {
		b, err := readBounded(strings.NewReader("short"), size, defaultMaxSize)
		if err != nil || string(b) != "short" || cap(b) > want {
			t.Errorf("said to be %d: %q, %v, with room for %d", size, b, err, cap(b))
		}
	}
	long := bytes.Repeat([]byte("x"), maxClaim+maxClaim/2)
	if b, err := readBounded(bytes.NewReader(long), int64(len(long)), defaultMaxSize); err != nil || !bytes.Equal(b, long) {
		t.Errorf("a long list: %d octets, %v", len(b), err)
	}
}

// A list that is believed although it is stale is not forgotten: an older one could take its place.
func TestStaleListThatIsBelievedIsNotForgotten(t *testing.T) {
	f := newFixture(t)
	f.c.InsecureAllowStale = true
	f.site.serve(f.ca.list(t, 7, f.now, nil, 2))
	k := newChecker(t, f.c)
	if err := k.Check(t.Context(), f.ca.leaf(t, 1, testURL)); err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(30 * time.Hour)
	k.forget(f.now)
	if n := len(k.Status()); n != 1 {
		t.Errorf("%d points, want the one there was", n)
	}
}
