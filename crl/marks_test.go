package crl

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"
)

// What a node cannot know of a list that another node signed, it does not say.
func TestDeltaOfAnotherNodesList(t *testing.T) {
	ca, m, now := newCA(t, "Issuing CA"), newMemory(), testNow
	c := deltaConfig(ca, m, &now)
	publish(t, newPublisher(t, c))
	kept := m.newest[testShard]
	for _, delta := range []DER{nil, {[]byte("garbage")}, {kept.DER.Bytes()}, kept.Delta} {
		kept.Delta = delta
		m.newest[testShard] = kept
		c.Follow = time.Second
		p := newPublisher(t, c)
		if _, err := p.publish(t.Context(), p.find(testShard), false); err != nil {
			t.Fatal(err)
		}
		want := http.StatusServiceUnavailable
		if delta.Equal(m.history[0].Delta) {
			want = http.StatusOK
		}
		w := httptest.NewRecorder()
		if p.ServeDelta(w, httptest.NewRequest("GET", "/", nil), testShard); w.Code != want || m.newest[testShard].Number != kept.Number {
			t.Errorf("with a stored delta of %d octets: status %d, want %d", delta.Len(), w.Code, want)
		}
	}
}

// A certificate that had expired when it was revoked is on neither list.
func TestDeltaLeavesOutWhatHasExpired(t *testing.T) {
	f := newDeltaSite(t)
	f.publish(t)
	f.m.revoke(5, 1, f.now.Add(-time.Minute))
	f.m.revoke(6, 1)
	if d := parsedDelta(t, f.ca, f.publish(t)); d.Len() != 1 {
		t.Errorf("the delta has %d entries", d.Len())
	}
}

// Serving a delta differs from serving a list in how long a cache may keep it.
func TestServeDelta(t *testing.T) {
	f := newDeltaSite(t)
	get := func(p *Publisher, header ...string) *http.Response {
		r := httptest.NewRequest(http.MethodGet, testDeltaURL, nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Add(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		p.ServeDelta(w, r, testShard)
		return w.Result()
	}
	if r := get(f.p); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("before the first list: %d", r.StatusCode)
	}
	if r := get(newPublisher(t, publisherConfig(f.ca, f.m))); r.StatusCode != http.StatusNotFound {
		t.Errorf("without deltas: %d", r.StatusCode)
	}
	for range 40 {
		f.m.revoke(1+rand.Int64N(1<<40), 1)
	}
	f.publish(t)
	f.now = f.now.Add(time.Second)
	for range 40 {
		f.m.revoke(1+rand.Int64N(1<<40), 1)
	}
	s := f.publish(t)
	r := get(f.p)
	if got := bodyOf(t, r); !slices.Equal(got, s.Delta.Bytes()) {
		t.Errorf("%d octets, want the delta of %d", len(got), s.Delta.Len())
	}
	for name, want := range map[string]string{
		"Content-Type": "application/pkix-crl", "Cache-Control": "public, max-age=1, must-revalidate, no-transform",
		"Last-Modified": f.now.Format(http.TimeFormat), "Expires": f.now.Add(time.Second).Format(http.TimeFormat),
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	for _, header := range [][]string{{"If-None-Match", r.Header.Get("ETag")}, {"If-Modified-Since", r.Header.Get("Last-Modified")}} {
		if again := get(f.p, header...); again.StatusCode != http.StatusNotModified {
			t.Errorf("%s: status %d", header[0], again.StatusCode)
		}
	}

	running(t, f.p.Run)
	eventually(t, func() bool { return get(f.p, "Accept-Encoding", "gzip").Header.Get("Content-Encoding") == "gzip" })
	held := f.p.find(testShard).serving.Load().delta.Load()
	if got := gunzip(t, bodyOf(t, get(f.p, "Accept-Encoding", "gzip"))); !slices.Equal(got, held.DER.Bytes()) {
		t.Errorf("%d octets from gzip, want %d", len(got), held.DER.Len())
	}
}

func TestDeltaURLIsChecked(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	for _, location := range []string{testURL, "ldap://status.test/x", "/crl/a1-delta.crl", "http://status.test/a b"} {
		c := publisherConfig(ca, m)
		c.Shards[0].DeltaURL = location
		if _, err := NewPublisher(c); err == nil {
			t.Errorf("accepted %q", location)
		}
	}
}

// When deltas are switched on or off, the list is signed again at the start, so that clients hear of it.
func TestDeltasAreSwitched(t *testing.T) {
	f := newDeltaSite(t)
	k := newChecker(t, f.c)
	last := uint64(0)
	for _, location := range []string{"", testDeltaURL, "", testDeltaURL, testDeltaURL + "?2"} {
		c := deltaConfig(f.ca, f.m, &f.now)
		c.Shards[0].DeltaURL = location
		f.p = newPublisher(t, c)
		for range 2 { // the second one finds nothing to do
			if _, err := f.p.publish(t.Context(), f.p.find(testShard), false); err != nil {
				t.Fatal(err)
			}
		}
		s := f.m.newest[testShard]
		if l := parsed(t, f.ca, s); l.DeltaURL != location || l.Number == last || (s.Delta == nil) != (location == "") {
			t.Errorf("with the delta at %q: list %d names %q, after list %d", location, l.Number, l.DeltaURL, last)
		}
		last = s.Number
		f.refresh(t, k)
		f.wantNumber(t, "switched", k, s)
	}
	if n := len(f.m.history); n != 5 {
		t.Errorf("%d lists, want 5", n)
	}
}

// A delta made after a start may differ from the one of the same second that the process before it served: thisUpdate
// does not tell them apart.
func TestDeltaAfterAStartHasNoDate(t *testing.T) {
	f := newDeltaSite(t)
	f.publish(t)
	f.now = f.now.Add(time.Second)
	f.m.revoke(5, 1)
	kept := f.publish(t)
	kept.Delta = nil // a store for one node keeps none
	f.m.newest[testShard] = kept
	f.p = newPublisher(t, deltaConfig(f.ca, f.m, &f.now))
	if s, err := f.p.publish(t.Context(), f.p.find(testShard), false); err != nil || s.Number != kept.Number {
		t.Fatalf("list %d, %v; want the one that is there", s.Number, err)
	}
	r := httptest.NewRequest(http.MethodGet, testDeltaURL, nil)
	r.Header.Set("If-Modified-Since", kept.ThisUpdate.Format(http.TimeFormat))
	w := httptest.NewRecorder()
	if f.p.ServeDelta(w, r, testShard); w.Code != http.StatusOK {
		t.Errorf("status %d, want 200", w.Code)
	}
}
