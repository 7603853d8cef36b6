package web

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/feed"
	"github.com/pkid/pkid/revocation"
)

// withFeed gives a fixture what the daemon gives its server.
func (f *fixture) withFeed() {
	f.c.Feed = feed.New(feed.Config{
		Log: f.store, Records: f.store.(*boltstore.Store), IssuerKeyID: func(string) []byte { return nil }, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(f.t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.c.Feed.Run(ctx) })
	f.t.Cleanup(func() { cancel(); running.Wait() })
}

// getStream asks for the stream, and returns the answer with its body open.
func (f *fixture) getStream(url string) *http.Response {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	f.t.Cleanup(cancel)
	req := must[*http.Request](f.t)(http.NewRequestWithContext(ctx, http.MethodGet, url+revocation.Path, nil))
	resp := must[*http.Response](f.t)(f.public.Client().Do(req))
	f.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func (f *fixture) revokeToken(jti string) {
	f.t.Helper()
	now := time.Now()
	if err := f.store.RevokeToken(f.t.Context(), jti, now.Add(time.Hour), audit.Event{Time: now, Action: audit.TokenRevoke, Subject: jti}); err != nil {
		f.t.Fatal(err)
	}
}

// TestStream_TellsAtOnce: a stream tells what a request has revoked, ends with the server's, and gives its place back.
func TestStream_TellsAtOnce(t *testing.T) {
	t.Parallel()
	limits := wide
	limits.Streams, limits.StreamsPerAddress = 2, 1
	f := newFixtureOver(t, must[*boltstore.Store](t)(boltstore.Open(t.TempDir()+"/pkid.db", boltstore.Options{Create: true})), limits)
	f.withFeed()
	f.do(request{url: f.public.URL + revocation.Path + "?since=what"}).problem(t, http.StatusBadRequest, "bad-request")

	resp := f.getStream(f.public.URL)
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != revocation.ContentType || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s, %q", resp.Status, got)
	}
	if resp.Header.Get("X-Accel-Buffering") != "no" {
		t.Error("a proxy may keep events until it has many")
	}
	lines := bufio.NewScanner(resp.Body)
	until := func(want string) {
		t.Helper()
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), want) {
				return
			}
		}
		t.Fatalf("no %s: %v", want, lines.Err())
	}
	until("event: reset")
	until("event: heartbeat")
	cert := f.certificate("orders", "client")
	serial := fmt.Sprintf("%032x", cert.Leaf.SerialNumber)
	f.operate("POST", "/v1/certificates/"+serial+"/revoke", `{}`)
	until("event: certificate")
	until(`data: {"x5t#S256":`)

	refused := f.do(request{url: f.public.URL + revocation.Path})
	refused.problem(t, http.StatusServiceUnavailable, "overloaded")
	if refused.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if got := f.getStream(f.mtls.URL); got.StatusCode != http.StatusOK {
		t.Errorf("the other listener's: %s", got.Status)
	}
	f.EndStreams()
	for lines.Scan() {
	}
	if err := lines.Err(); err != nil {
		t.Errorf("the stream's end: %v", err)
	}
	f.do(request{url: f.public.URL + revocation.Path}).problem(t, http.StatusServiceUnavailable, "stopping")
}

// TestStream_CutsSlowReaders: who does not take what comes is cut, and its place is another's.
func TestStream_CutsSlowReaders(t *testing.T) {
	t.Parallel()
	limits := wide
	limits.Streams = 1
	f := newFixtureOver(t, must[*boltstore.Store](t)(boltstore.Open(t.TempDir()+"/pkid.db", boltstore.Options{Create: true})), limits)
	f.withFeed()
	narrow := httptest.NewUnstartedServer(f.Public())
	narrow.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		_ = c.(*net.TCPConn).SetWriteBuffer(4 << 10)
		return ctx
	}
	narrow.Start()
	t.Cleanup(narrow.Close)
	conn := must[net.Conn](t)(new(net.Dialer).DialContext(t.Context(), "tcp", narrow.Listener.Addr().String()))
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", revocation.Path); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 64)
	if _, err := io.ReadFull(conn, first); err != nil || !strings.HasPrefix(string(first), "HTTP/1.1 200 ") {
		t.Fatalf("%q, %v", first, err)
	}
	var revoking sync.WaitGroup
	for worker := range 32 {
		revoking.Go(func() {
			for i := range 60 {
				f.revokeToken(fmt.Sprintf("%d-%d", worker, i))
			}
		})
	}
	revoking.Wait()
	f.c.Feed.Poke()
	for end := time.Now().Add(3 * requestTimeout); ; time.Sleep(100 * time.Millisecond) {
		if resp := f.getStream(f.public.URL); resp.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a reader that reads nothing keeps its place")
		}
	}
}
