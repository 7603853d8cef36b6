package crl

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestServeValidators(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	c := publisherConfig(ca, m)
	c.Now = func() time.Time { return now }
	p := newPublisher(t, c)
	get := func(method string, header ...string) *http.Response {
		r := httptest.NewRequest(method, testURL, nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		p.Serve(w, r, testShard)
		return w.Result()
	}
	want := func(what string, r *http.Response, status int, body []byte) {
		t.Helper()
		got, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != status || (body != nil && !bytes.Equal(got, body)) {
			t.Errorf("%s: status %d, %d octets, err %v; want %d with %d", what, r.StatusCode, len(got), err, status, len(body))
		}
	}

	r := get("GET")
	want("before the first list", r, http.StatusServiceUnavailable, nil)
	if r.Header.Get("Retry-After") == "" || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("503 with header %v", r.Header)
	}
	w := httptest.NewRecorder()
	p.Serve(w, httptest.NewRequest("GET", "/", nil), Shard{Issuer: "other"})
	want("unknown shard", w.Result(), http.StatusNotFound, nil)

	first := publish(t, p)
	now = now.Add(10 * time.Minute)
	r = get("GET")
	want("GET", r, http.StatusOK, first.DER.Bytes())
	for name, value := range map[string]string{
		"Content-Type":   "application/pkix-crl",
		"Last-Modified":  "Thu, 01 Jan 2026 12:00:00 GMT",
		"Expires":        "Thu, 01 Jan 2026 13:00:00 GMT",
		"Cache-Control":  "public, max-age=3000, must-revalidate, no-transform",
		"Content-Length": strconv.Itoa(first.DER.Len()),
	} {
		if got := r.Header.Get(name); got != value {
			t.Errorf("%s: %s, want %s", name, got, value)
		}
	}
	etag, modified := r.Header.Get("ETag"), r.Header.Get("Last-Modified")
	if !strings.HasPrefix(etag, `"`) {
		t.Errorf("ETag %s is not strong", etag)
	}
	want("HEAD", get("HEAD"), http.StatusOK, []byte{})
	want("POST", get("POST"), http.StatusMethodNotAllowed, nil)
	want("same ETag", get("GET", "If-None-Match", etag), http.StatusNotModified, []byte{})
	want("another ETag", get("GET", "If-None-Match", `"1"`, "If-Modified-Since", modified), http.StatusOK, first.DER.Bytes())
	want("not modified since", get("GET", "If-Modified-Since", modified), http.StatusNotModified, []byte{})
	want("a part", get("GET", "Range", "bytes=0-9"), http.StatusPartialContent, first.DER.Bytes()[:10])

	m.revoke(1, 1)
	second := publish(t, p)
	r = get("GET", "If-None-Match", etag)
	want("a new list", r, http.StatusOK, second.DER.Bytes())
	if r.Header.Get("ETag") == etag {
		t.Error("two lists with one ETag")
	}
	modified = r.Header.Get("Last-Modified")
	want("not modified since, after a new second", get("GET", "If-Modified-Since", modified), http.StatusNotModified, nil)

	// A third list in the same second: who has the second must not be told that nothing changed.
	now = now.Add(500 * time.Millisecond)
	m.revoke(2, 1)
	third := publish(t, p)
	want("two lists in one second", get("GET", "If-Modified-Since", modified), http.StatusOK, third.DER.Bytes())

	// Nor who has a list from before the clock was set back.
	now = now.Add(-time.Hour)
	m.revoke(3, 1)
	fourth := publish(t, p)
	want("clock back", get("GET", "If-Modified-Since", modified), http.StatusOK, fourth.DER.Bytes())

	now = now.Add(3 * time.Hour)
	if got := get("GET").Header.Get("Cache-Control"); !strings.Contains(got, "max-age=0,") {
		t.Errorf("Cache-Control of a stale list: %s", got)
	}
}

// After a restart it is not known which lists came before the stored one.
func TestServeAfterRestart(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	s := publish(t, newPublisher(t, publisherConfig(ca, m)))
	p := newPublisher(t, publisherConfig(ca, m))
	if _, err := p.publish(t.Context(), p.shards[testShard], false); err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", testURL, nil)
	r.Header.Set("If-Modified-Since", s.ThisUpdate.Format(http.TimeFormat))
	w := httptest.NewRecorder()
	p.Serve(w, r, testShard)
	if w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), s.DER.Bytes()) {
		t.Errorf("status %d with %d octets, want the stored list", w.Code, w.Body.Len())
	}
}
