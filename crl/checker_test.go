package crl

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// site is a CA's status listener that serves one list, and can fail.
type site struct {
	mu      sync.Mutex
	der     []byte
	trouble http.HandlerFunc // instead of serving; may be nil

	asked, full atomic.Int64 // requests, and those answered in full
}

func (s *site) serve(der []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.der, s.trouble = der, nil
}

func (s *site) fail(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = h
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	s.mu.Lock()
	der, trouble := s.der, s.trouble
	s.mu.Unlock()
	if trouble != nil {
		trouble(w, r)
		return
	}
	tag := fmt.Sprintf(`"%x"`, thumb(der))
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	s.full.Add(1)
	_, _ = w.Write(der)
}

func thumb(der []byte) []byte { return der[max(0, len(der)-8):] }

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// fixture is a CA, its site and a configuration of a Checker that asks it.
type fixture struct {
	ca   *testCA
	site *site
	now  time.Time
	c    CheckerConfig
}

func newFixture(t testing.TB) *fixture {
	f := &fixture{ca: newCA(t, "Issuing CA"), site: &site{}, now: testNow}
	f.c = CheckerConfig{
		Issuers: []*x509.Certificate{f.ca.cert}, HTTPClient: handled(f.site.ServeHTTP),
		Now: func() time.Time { return f.now }, Logger: slog.New(slog.DiscardHandler),
	}
	return f
}

func newChecker(t testing.TB, c CheckerConfig) *Checker {
	t.Helper()
	k, err := NewChecker(c)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestCheckRevokedHeldAndGood(t *testing.T) {
	f := newFixture(t)
	f.site.serve(f.ca.list(t, 7, f.now, func(l *x509.RevocationList) { l.RevokedCertificateEntries[1].ReasonCode = 6 }, 2, 3))
	var told []Info
	f.c.OnUpdate = func(i Info) { told = append(told, i) }
	k := newChecker(t, f.c)
	if err := k.Check(t.Context(), f.ca.leaf(t, 1, "ldap://x/y", testURL)); err != nil {
		t.Errorf("not on the list: %v", err)
	}
	for serial, reason := range map[int64]string{2: "keyCompromise", 3: "certificateHold"} {
		err := k.Check(t.Context(), f.ca.leaf(t, serial, testURL))
		revoked, ok := errors.AsType[*RevokedError](err)
		if !ok || revoked.Serial.Int64() != serial || ReasonName(revoked.Reason) != reason || !revoked.At.Equal(f.now) || revoked.CRLNumber != 7 {
			t.Errorf("%d: %v (%+v)", serial, err, revoked)
		} else if !strings.Contains(err.Error(), reason) {
			t.Errorf("%q does not name the reason", err)
		}
	}
	if n := f.site.asked.Load(); n != 1 {
		t.Errorf("fetched %d times for three checks", n)
	}
	if len(told) != 1 || told[0].Number != 7 || told[0].Entries != 2 || told[0].URL != testURL {
		t.Errorf("OnUpdate was told %+v", told)
	}
	if st := k.Status(); len(st) != 1 || st[0].Err != nil || !st[0].Heard.Equal(f.now) || st[0].Issuer != "CN=Issuing CA" {
		t.Errorf("status %+v", st)
	}
}

func TestCheckUnknownIssuer(t *testing.T) {
	f := newFixture(t)
	f.site.serve(f.ca.list(t, 1, f.now, nil))
	k := newChecker(t, f.c)
	for name, ca := range map[string]*testCA{
		"another CA":                 newCA(t, "Another CA"),
		"another CA of that name":    newCA(t, "Issuing CA"),
		"and of that key identifier": newCA(t, "Issuing CA", func(c *x509.Certificate) { c.SubjectKeyId = f.ca.cert.SubjectKeyId }),
	} {
		wantErr(t, fmt.Errorf("%s: %w", name, k.Check(t.Context(), ca.leaf(t, 1, testURL))), ErrUnknownIssuer, "")
	}
	if n := f.site.asked.Load(); n != 0 {
		t.Errorf("%d requests for certificates of strangers", n)
	}
	wantErr(t, k.Check(t.Context(), f.ca.leaf(t, 1)), ErrUnavailable, "distribution point")
	wantErr(t, k.Check(t.Context(), f.ca.leaf(t, 1, "ldap://x/y")), ErrUnavailable, "distribution point")
}

func TestCheckRefusesWithoutAList(t *testing.T) {
	f := newFixture(t)
	good := f.ca.list(t, 1, f.now, nil, 5)
	for name, tt := range map[string]struct {
		h    http.HandlerFunc
		want string
	}{
		"garbage":            {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, "refused"},
		"nothing":            {status(200), "refused"},
		"404":                {status(404), "404"},
		"503":                {status(503), "503"},
		"304 out of nowhere": {status(304), "304"},
		"cut short":          {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(good[:len(good)-1]) }, "refused"},
		"oversized":          {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat(good, 10)) }, "more than 1000 octets"},
		"oversized, and says so": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1001")
			_, _ = w.Write(make([]byte, 1001))
		}, "1001 octets"},
		"compressed": {func(w http.ResponseWriter, r *http.Request) {
			if got := r.Header.Get("Accept-Encoding"); got != "identity" {
				t.Errorf("Accept-Encoding: %s", got)
			}
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(good)
			_ = z.Close()
		}, "encoding"},
		"another shard's list": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(f.ca.list(t, 1, f.now, func(l *x509.RevocationList) { l.ExtraExtensions[0] = idpFor(t, testURL+"2") }))
		}, "list for"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		}, "redirect"},
	} {
		f.site.fail(tt.h)
		f.c.MaxSize = 1000
		k := newChecker(t, f.c)
		err := k.Check(t.Context(), f.ca.leaf(t, 1, testURL))
		wantErr(t, fmt.Errorf("%s: %w", name, err), ErrUnavailable, tt.want)
		if st := k.Status(); st[0].Err == nil || st[0].Number != 0 {
			t.Errorf("%s: status %+v", name, st)
		}
	}
}

func TestRedirectIsFollowedIfTheClientSaysSo(t *testing.T) {
	f := newFixture(t)
	good := f.ca.list(t, 1, f.now, nil)
	f.c.HTTPClient = handled(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host == "status.test" {
			http.Redirect(w, r, "http://elsewhere.test/", http.StatusFound)
			return
		}
		_, _ = w.Write(good)
	})
	f.c.HTTPClient.CheckRedirect = func(*http.Request, []*http.Request) error { return nil }
	if err := newChecker(t, f.c).Check(t.Context(), f.ca.leaf(t, 1, testURL)); err != nil {
		t.Error(err)
	}
}

func TestCheckStale(t *testing.T) {
	f := newFixture(t)
	f.site.serve(f.ca.list(t, 1, f.now, nil, 5))
	k := newChecker(t, f.c)
	f.c.InsecureAllowStale = true
	lax := newChecker(t, f.c)
	good, bad := f.ca.leaf(t, 1, testURL), f.ca.leaf(t, 5, testURL)
	for _, k := range []*Checker{k, lax} {
		if err := k.Check(t.Context(), good); err != nil {
			t.Fatal(err)
		}
	}
	f.site.fail(status(503))
	f.now = f.now.Add(time.Hour)
	if err := k.Check(t.Context(), good); err != nil {
		t.Errorf("at nextUpdate: %v", err)
	}
	f.now = f.now.Add(time.Second)
	wantErr(t, k.Check(t.Context(), good), ErrStale, "503")
	if err := lax.Check(t.Context(), good); err != nil {
		t.Errorf("with InsecureAllowStale: %v", err)
	}
	for _, k := range []*Checker{k, lax} {
		if _, ok := errors.AsType[*RevokedError](k.Check(t.Context(), bad)); !ok {
			t.Error("a revoked certificate on a stale list is not told to be revoked")
		}
	}
	f.site.serve(f.ca.list(t, 2, f.now, nil, 5))
	time.Sleep(time.Millisecond) // past Interval, below
	k.interval = time.Nanosecond
	if err := k.Check(t.Context(), good); err != nil {
		t.Errorf("with a new list to be had: %v", err)
	}
}

func TestRunSeesANewListAndSurvivesTheCA(t *testing.T) {
	f := newFixture(t)
	f.c.Points = []Point{{Issuer: f.ca.cert, URL: testURL}}
	cert := f.ca.leaf(t, 5, testURL)
	synctest.Test(t, func(t *testing.T) {
		f.site.serve(f.ca.list(t, 1, f.now, nil))
		k := newChecker(t, f.c)
		stop := running(t, k.Run)
		time.Sleep(10 * time.Second)
		if asked, full := f.site.asked.Load(), f.site.full.Load(); asked < 18 || asked > 23 || full != 1 {
			t.Errorf("%d requests in 10 s, %d of them answered in full; want about 20 and 1", asked, full)
		}
		f.site.fail(status(503))
		time.Sleep(time.Minute)
		if err := k.Check(t.Context(), cert); err != nil {
			t.Errorf("while the CA is away: %v", err)
		}
		if k.Status()[0].Err == nil {
			t.Error("Status does not tell that the CA is away")
		}
		f.site.serve(f.ca.list(t, 2, f.now, nil, 5))
		time.Sleep(time.Second)
		if _, ok := errors.AsType[*RevokedError](k.Check(t.Context(), cert)); !ok {
			t.Error("a second after the revocation was published, it is not known")
		}
		stop()
	})
}

func TestConcurrentFirstChecksShareOneFetch(t *testing.T) {
	f := newFixture(t)
	cert := f.ca.leaf(t, 1, testURL)
	synctest.Test(t, func(t *testing.T) {
		good := f.ca.list(t, 1, f.now, nil)
		f.site.fail(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			_, _ = w.Write(good)
		})
		k := newChecker(t, f.c)
		var checks sync.WaitGroup
		for range 100 {
			checks.Go(func() {
				if err := k.Check(t.Context(), cert); err != nil {
					t.Error(err)
				}
			})
		}
		checks.Wait()
		if n := f.site.asked.Load(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

func TestFailedFirstFetchIsSharedAndNotRepeatedAtOnce(t *testing.T) {
	f := newFixture(t)
	cert := f.ca.leaf(t, 1, testURL)
	synctest.Test(t, func(t *testing.T) {
		f.site.fail(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			w.WriteHeader(http.StatusBadGateway)
		})
		k := newChecker(t, f.c)
		start := time.Now()
		var checks sync.WaitGroup
		for range 100 {
			checks.Go(func() { wantErr(t, k.Check(t.Context(), cert), ErrUnavailable, "502") })
		}
		checks.Wait()
		wantErr(t, k.Check(t.Context(), cert), ErrUnavailable, "502")
		if n := f.site.asked.Load(); n != 1 || time.Since(start) != time.Second {
			t.Errorf("%d fetches in %s", n, time.Since(start))
		}
		time.Sleep(time.Second)
		wantErr(t, k.Check(t.Context(), cert), ErrUnavailable, "502")
		if n := f.site.asked.Load(); n != 2 {
			t.Errorf("%d fetches, want another one after the interval", n)
		}
	})
}

func TestCheckIsBoundedByContextAndTimeout(t *testing.T) {
	f := newFixture(t)
	cert := f.ca.leaf(t, 1, testURL)
	synctest.Test(t, func(t *testing.T) {
		f.c.HTTPClient = &http.Client{Transport: responder(func(r *http.Request) (*http.Response, error) {
			f.site.asked.Add(1)
			<-r.Context().Done() // a CA that never answers
			return nil, r.Context().Err()
		})}
		k := newChecker(t, f.c)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		wantErr(t, k.Check(ctx, cert), context.DeadlineExceeded, "")
		if d := time.Since(start); d != time.Second || k.Status()[0].Err != nil {
			t.Errorf("the caller's own deadline took %s, and is recorded as %v", d, k.Status()[0].Err)
		}
		wantErr(t, k.Check(t.Context(), cert), ErrUnavailable, "")
		if d := time.Since(start); d != time.Second+defaultFetch || k.Status()[0].Err == nil {
			t.Errorf("the second check ended after %s", d)
		}
	})
}

func TestPointIsFetchedElsewhere(t *testing.T) {
	f := newFixture(t)
	f.site.serve(f.ca.list(t, 1, f.now, nil, 5))
	var asked string
	f.c.HTTPClient = handled(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		if r.Header.Get("Cache-Control") != "no-cache" {
			t.Error("a cache on the way may answer")
		}
		f.site.ServeHTTP(w, r)
	})
	f.c.Points = []Point{{Issuer: f.ca.cert, URL: testURL, From: "http://mirror.test/a1"}}
	k := newChecker(t, f.c)
	if err := k.Refresh(t.Context()); err != nil || asked != "http://mirror.test/a1" {
		t.Errorf("asked %s, err %v", asked, err)
	}
	f.site.fail(status(503))
	if err := k.Check(t.Context(), f.ca.leaf(t, 1, testURL)); err != nil {
		t.Errorf("with the list fetched beforehand: %v", err)
	}
}

func TestCheckerConfigIsValidated(t *testing.T) {
	f := newFixture(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*CheckerConfig)
		want   string
	}{
		"no issuers":        {func(c *CheckerConfig) { c.Issuers = nil }, "required"},
		"nil issuer":        {func(c *CheckerConfig) { c.Issuers = []*x509.Certificate{nil} }, "CA certificate"},
		"a leaf as issuer":  {func(c *CheckerConfig) { c.Issuers = []*x509.Certificate{f.ca.leaf(t, 1)} }, "CA certificate"},
		"negative interval": {func(c *CheckerConfig) { c.Interval = -1 }, "negative"},
		"a file as Dir":     {func(c *CheckerConfig) { c.Dir = file }, "directory"},
		"point of a stranger": {func(c *CheckerConfig) {
			c.Points = []Point{{Issuer: newCA(t, "Issuing CA").cert, URL: testURL}}
		}, "not among"},
		"point without URL":   {func(c *CheckerConfig) { c.Points = []Point{{Issuer: f.ca.cert}} }, "absolute"},
		"point from anywhere": {func(c *CheckerConfig) { c.Points = []Point{{Issuer: f.ca.cert, URL: testURL, From: "file:///x"}} }, "absolute"},
	} {
		c := f.c
		tt.change(&c)
		if _, err := NewChecker(c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one that says %q", name, err, tt.want)
		}
	}
}

// Publisher and Checker together, over HTTP as it is.
func TestPublisherToChecker(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	p := newPublisher(t, publisherConfig(ca, m))
	running(t, p.Run)
	f := newFixture(t)
	f.c.Issuers, f.c.Now, f.c.Interval = []*x509.Certificate{ca.cert}, nil, 20*time.Millisecond
	f.c.HTTPClient = handled(func(w http.ResponseWriter, r *http.Request) { p.Serve(w, r, testShard) })
	f.c.Points = []Point{{Issuer: ca.cert, URL: testURL}}
	k := newChecker(t, f.c)
	running(t, k.Run)
	cert := ca.leaf(t, 5, testURL)
	eventually(t, func() bool { return k.Check(t.Context(), cert) == nil })

	m.revoke(5, 6)
	start := time.Now()
	p.Changed(testShard)
	eventually(t, func() bool { _, ok := errors.AsType[*RevokedError](k.Check(t.Context(), cert)); return ok })
	if d := time.Since(start); d > time.Second {
		t.Errorf("it took %s until a server refused a revoked certificate", d)
	}
}
