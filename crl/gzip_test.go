package crl

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// ask sends a request to a publisher. The header is given as names and values in turn.
func ask(p *Publisher, method string, header ...string) *http.Response {
	r := httptest.NewRequest(method, testURL, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	p.Serve(w, r, testShard)
	return w.Result()
}

func bodyOf(t *testing.T, r *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func gunzip(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCompressedList(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		for n := range int64(10_000) {
			m.revoke(1+n, 1)
		}
		p := newPublisher(t, publisherConfig(ca, m))
		running(t, p.Run)
		synctest.Wait()
		list, _ := p.Current(testShard)

		first := ask(p, "GET", "Accept-Encoding", "gzip")
		plain := first.Header.Get("ETag")
		if got := bodyOf(t, first); first.Header.Get("Content-Encoding") != "" || first.Header.Get("Vary") != "Accept-Encoding" || !bytes.Equal(got, list.DER.Bytes()) {
			t.Errorf("before it is compressed: %d octets, %v", len(got), first.Header)
		}
		time.Sleep(calmGzip)
		synctest.Wait()
		r := ask(p, "GET", "Accept-Encoding", "gzip")
		body, tag := bodyOf(t, r), r.Header.Get("ETag")
		if r.Header.Get("Content-Encoding") != "gzip" || r.Header.Get("Vary") != "Accept-Encoding" || !bytes.Equal(gunzip(t, body), list.DER.Bytes()) ||
			r.Header.Get("Content-Length") != strconv.Itoa(len(body)) || r.Header.Get("Content-Type") != "application/pkix-crl" || len(body) >= list.DER.Len() {
			t.Errorf("compressed: %d octets, %v", len(body), r.Header)
		}
		if tag != plain[:len(plain)-1]+`-gzip"` {
			t.Errorf("ETags %s and %s", plain, tag)
		}
		for what, tt := range map[string]struct {
			method   string
			header   []string
			status   int
			encoding string
			tag      string
		}{
			"who does not ask":               {"GET", nil, 200, "", plain},
			"who asks":                       {"GET", []string{"Accept-Encoding", "br, GZIP;q=0.5"}, 200, "gzip", tag},
			"the head":                       {"HEAD", []string{"Accept-Encoding", "gzip"}, 200, "gzip", tag},
			"who has it compressed":          {"GET", []string{"Accept-Encoding", "gzip", "If-None-Match", tag}, 304, "", tag},
			"who has it as it is":            {"GET", []string{"Accept-Encoding", "gzip", "If-None-Match", plain}, 304, "", plain},
			"who has it, and does not ask":   {"GET", []string{"If-None-Match", plain}, 304, "", plain},
			"who has both":                   {"GET", []string{"Accept-Encoding", "gzip", "If-None-Match", tag + ", " + plain}, 304, "", plain},
			"compressed, and may not":        {"GET", []string{"If-None-Match", tag}, 200, "", plain},
			"who has another":                {"GET", []string{"Accept-Encoding", "gzip", "If-None-Match", `"1-2-gzip"`}, 200, "gzip", tag},
			"a range":                        {"GET", []string{"Accept-Encoding", "gzip", "Range", "bytes=5-9"}, 206, "", plain},
			"a range if it is the same":      {"GET", []string{"Accept-Encoding", "gzip", "Range", "bytes=5-9", "If-Range", plain}, 206, "", plain},
			"a range of the compressed one":  {"GET", []string{"Accept-Encoding", "gzip", "Range", "bytes=5-9", "If-Range", tag}, 200, "", plain},
			"a range beyond the end":         {"GET", []string{"Accept-Encoding", "gzip", "Range", "bytes=99999999-"}, 416, "", ""},
			"if it is another":               {"GET", []string{"Accept-Encoding", "gzip", "If-Match", `"1"`}, 412, "gzip", tag},
			"not modified since, compressed": {"GET", []string{"Accept-Encoding", "gzip", "If-Modified-Since", r.Header.Get("Last-Modified")}, 304, "", tag},
		} {
			r := ask(p, tt.method, tt.header...)
			got := bodyOf(t, r)
			if r.StatusCode != tt.status || r.Header.Get("Vary") != "Accept-Encoding" || (tt.tag != "" && r.Header.Get("ETag") != tt.tag) || r.Header.Get("Content-Encoding") != tt.encoding {
				t.Errorf("%s: %d, %v", what, r.StatusCode, r.Header)
			}
			switch {
			case tt.method == "HEAD" || tt.status == 304 || tt.status == 412:
				if len(got) > 0 {
					t.Errorf("%s: %d octets", what, len(got))
				}
			case tt.status == 206:
				if !bytes.Equal(got, list.DER.Bytes()[5:10]) {
					t.Errorf("%s: %x", what, got)
				}
			case tt.status == 200 && tt.encoding == "gzip":
				got = gunzip(t, got)
				fallthrough
			case tt.status == 200:
				if !bytes.Equal(got, list.DER.Bytes()) {
					t.Errorf("%s: %d octets", what, len(got))
				}
			}
		}
	})
}

// Compressing is not worth it for a list that does not stay, nor for a short one.
func TestWhatIsNotCompressed(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		p := newPublisher(t, publisherConfig(ca, m))
		running(t, p.Run)
		compressedAfter := func(wait time.Duration) bool {
			ask(p, "GET", "Accept-Encoding", "gzip")
			time.Sleep(wait)
			synctest.Wait()
			return p.shards[testShard].serving.Load().gzipped.Load() != nil
		}
		synctest.Wait()
		if compressedAfter(2 * calmGzip) {
			t.Error("a short list was compressed")
		}
		for n := range int64(1000) {
			m.revoke(1+n, 1)
		}
		p.Changed(testShard)
		synctest.Wait()
		for n := range int64(3) {
			if compressedAfter(calmGzip / 2) {
				t.Error("a list that did not stay was compressed")
			}
			m.revoke(2000+n, 1)
			p.Changed(testShard)
			synctest.Wait()
		}
		time.Sleep(2 * calmGzip)
		synctest.Wait()
		if p.shards[testShard].serving.Load().gzipped.Load() != nil {
			t.Error("a list was compressed that nobody asked for")
		}
		if !compressedAfter(2 * calmGzip) {
			t.Error("a list that stayed was not compressed")
		}
	})
	if z := compress(DER{[]byte("a"), []byte("b")}, func() bool { return false }); z != nil {
		t.Error("it was compressed to the end")
	}
}

func TestWantsGzip(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "gzip": true, "x-gzip": true, "GZip": true, "gzip, deflate, br": true, "deflate, gzip;q=1.0, *;q=0.5": true, "*": true,
		"br": false, "gzip;q=0": false, "gzip;q=0.000": false, "gzip;q=0, *": false, "*;q=0": false, "*;q=0, gzip": true, "identity": false,
		"gzip;q=0.5, identity": false, "gzip;q=0.5, identity;q=0.5": true, "gzip, identity;q=0": true, "identity;q=0.1, *": true,
		"gzip; q=0.3": true, "gzip ;Q=0.3": true, "gzip;q=": false, "gzip;q=2": false, "gzip;q=-1": false, "gzip;q=NaN": false, "gzip;level=9": false, "gzipped": false,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		if accept != "" {
			r.Header.Set("Accept-Encoding", accept)
		}
		if got := wantsGzip(r); got != want {
			t.Errorf("%q: %t", accept, got)
		}
	}
}

// Over a real connection, a list arrives as it is and says how long it is.
func TestServeOverAConnection(t *testing.T) {
	b := newBench(t)
	for _, r := range bigEntries(10_000) {
		e := r.entry()
		e.NotAfter = b.now.AddDate(1, 0, 0)
		b.m.put(e)
	}
	list := b.round(t)
	held := b.shards[testShard].serving.Load()
	z := compress(list.DER, func() bool { return true })
	held.gzipped.Store(&z)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.Serve(w, r, testShard) }))
	defer server.Close()
	for encoding, want := range map[string][]byte{"identity": list.DER.Bytes(), "gzip": z.Bytes()} {
		req, err := http.NewRequestWithContext(context.Background(), "GET", server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Encoding", encoding)
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got := bodyOf(t, resp)
		resp.Body.Close()
		if !bytes.Equal(got, want) || resp.ContentLength != int64(len(want)) {
			t.Errorf("%s: %d octets, Content-Length %d, want %d", encoding, len(got), resp.ContentLength, len(want))
		}
	}
}
