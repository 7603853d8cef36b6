package crl

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// deltaSite is a publisher with deltas, and a client of its status listener.
type deltaSite struct {
	ca  *testCA
	m   *memory
	now time.Time
	p   *Publisher
	c   CheckerConfig

	trouble map[string]http.HandlerFunc // by path, instead of serving
	asked   []string                    // URLs
	octets  map[string]int              // of answers, by path
}

const fullPath, deltaPath = "/crl/a1.crl", "/crl/a1-delta.crl"

func newDeltaSite(t testing.TB) *deltaSite {
	t.Helper()
	f := &deltaSite{ca: newCA(t, "Issuing CA"), m: newMemory(), now: testNow, trouble: map[string]http.HandlerFunc{}, octets: map[string]int{}}
	f.p = newPublisher(t, deltaConfig(f.ca, f.m, &f.now))
	f.c = CheckerConfig{
		Issuers: []*x509.Certificate{f.ca.cert}, Points: []Point{{Issuer: f.ca.cert, URL: testURL}},
		Now: func() time.Time { return f.now }, Logger: slog.New(slog.DiscardHandler),
		HTTPClient: &http.Client{Transport: responder(func(r *http.Request) (*http.Response, error) {
			f.asked = append(f.asked, r.URL.String())
			w := httptest.NewRecorder()
			switch trouble := f.trouble[r.URL.Path]; {
			case trouble != nil:
				trouble(w, r)
			case r.URL.Path == fullPath:
				f.p.Serve(w, r, testShard)
			case r.URL.Path == deltaPath:
				f.p.ServeDelta(w, r, testShard)
			default:
				w.WriteHeader(http.StatusNotFound)
			}
			f.octets[r.URL.Path] += w.Body.Len()
			return w.Result(), r.Context().Err()
		})},
	}
	return f
}

func (f *deltaSite) publish(t testing.TB) Signed {
	t.Helper()
	return publish(t, f.p)
}

// refresh has a checker ask once, and returns the URLs that it asked.
func (f *deltaSite) refresh(t testing.TB, k *Checker) []string {
	t.Helper()
	f.asked = nil
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f.asked
}

func (f *deltaSite) wantNumber(t testing.TB, what string, k *Checker, s Signed) {
	t.Helper()
	got := k.Status()[0]
	if l := parsed(t, f.ca, s); got.Number != s.Number || !got.NextUpdate.Equal(s.NextUpdate) || got.Entries != l.Len() {
		t.Errorf("%s: number %d with %d entries until %s, want %d with %d until %s", what, got.Number, got.Entries, got.NextUpdate, s.Number, l.Len(), s.NextUpdate)
	}
}

func wantRevoked(t testing.TB, what string, k *Checker, cert *x509.Certificate) {
	t.Helper()
	if err, ok := errors.AsType[*RevokedError](k.Check(t.Context(), cert)); !ok {
		t.Errorf("%s: it is not revoked: %v", what, err)
	}
}

// A change on a long list costs a short answer, and no change none.
func TestCheckerFollowsDeltas(t *testing.T) {
	f := newDeltaSite(t)
	for i := range int64(20_000) {
		f.m.revoke(1000+i, 1)
	}
	f.publish(t)
	k := newChecker(t, f.c)
	if asked := f.refresh(t, k); !slices.Equal(asked, []string{testURL}) {
		t.Errorf("at first it asked for %q", asked)
	}
	cert := f.ca.leaf(t, 5, testURL)
	if err := k.Check(t.Context(), cert); err != nil {
		t.Fatal(err)
	}
	full := f.octets[fullPath]

	for i := range int64(50) {
		f.m.revoke(100_000+i, 1)
		switch i {
		case 10:
			f.m.revoke(5, 6)
		case 30:
			f.m.release(5)
		}
		s := f.publish(t)
		before := f.octets[deltaPath]
		if asked := f.refresh(t, k); !slices.Equal(asked, []string{testDeltaURL}) {
			t.Fatalf("after a change it asked for %q", asked)
		}
		if n := f.octets[deltaPath] - before; n > 600+int(i+2)*maxEntry {
			t.Errorf("after %d changes, a delta of %d octets", i+1, n)
		}
		f.wantNumber(t, "after a change", k, s)
		if err := k.Check(t.Context(), cert); (err != nil) != (10 <= i && i < 30) {
			t.Errorf("after %d changes: %v", i, err)
		}
	}
	if n := f.octets[deltaPath]; f.octets[fullPath] != full || 5*n > full {
		t.Errorf("50 changes cost %d octets of deltas and %d of full lists; one full list has %d", n, f.octets[fullPath]-full, full)
	}
	before := f.octets[deltaPath]
	if f.refresh(t, k); f.octets[deltaPath] != before {
		t.Errorf("no change costs %d octets", f.octets[deltaPath]-before)
	}
}

// Whatever is wrong with a delta, the same attempt asks for the full list.
func TestDeltaThatDoesNotDo(t *testing.T) {
	sending := func(der []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(der) }
	}
	for name, spoil := range map[string]func(t *testing.T, f *deltaSite){
		"404":         func(_ *testing.T, f *deltaSite) { f.trouble[deltaPath] = status(404) },
		"503":         func(_ *testing.T, f *deltaSite) { f.trouble[deltaPath] = status(503) },
		"304 unasked": func(_ *testing.T, f *deltaSite) { f.trouble[deltaPath] = status(304) },
		"empty":       func(_ *testing.T, f *deltaSite) { f.trouble[deltaPath] = sending(nil) },
		"garbage":     func(_ *testing.T, f *deltaSite) { f.trouble[deltaPath] = sending([]byte("<html>")) },
		"a full list": func(t *testing.T, f *deltaSite) { f.trouble[deltaPath] = sending(f.m.newest[testShard].DER.Bytes()) },
		"by another CA": func(t *testing.T, f *deltaSite) {
			f.trouble[deltaPath] = sending(newCA(t, "Issuing CA").delta(t, 1, 1<<62, f.now, nil, 1))
		},
		"older": func(t *testing.T, f *deltaSite) { f.trouble[deltaPath] = sending(f.ca.delta(t, 1, 2, f.now, nil, 1)) },
		"too long": func(t *testing.T, f *deltaSite) {
			f.trouble[deltaPath] = sending(slices.Concat(f.m.newest[testShard].Delta.Bytes(), make([]byte, f.c.MaxSize)))
		},
		"to a list that is not at hand": func(t *testing.T, f *deltaSite) {
			for i := range int64(500) {
				f.m.revoke(1000+i, 1)
			}
			f.publish(t)
		},
		"redirected": func(_ *testing.T, f *deltaSite) {
			f.trouble[deltaPath] = func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, fullPath, http.StatusFound) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newDeltaSite(t)
			f.c.MaxSize = 1 << 20
			f.publish(t)
			k := newChecker(t, f.c)
			f.refresh(t, k)
			f.m.revoke(5, 1)
			f.publish(t)
			spoil(t, f)
			if asked := f.refresh(t, k); len(asked) != 2 || !slices.Equal(asked, []string{testDeltaURL, testURL}) {
				t.Errorf("it asked for %q", asked)
			}
			f.wantNumber(t, "after the full list", k, f.m.newest[testShard])
			wantRevoked(t, "after the full list", k, f.ca.leaf(t, 5, testURL))

			delete(f.trouble, deltaPath)
			f.m.revoke(6, 1)
			s := f.publish(t)
			if asked := f.refresh(t, k); !slices.Equal(asked, []string{testDeltaURL}) {
				t.Errorf("when deltas do again, it asked for %q", asked)
			}
			f.wantNumber(t, "when deltas do again", k, s)
		})
	}
}

// A delta that does not come leaves half of the time to the full list.
func TestDeltaThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newDeltaSite(t)
		f.publish(t)
		k := newChecker(t, f.c)
		f.refresh(t, k)
		f.m.revoke(5, 1)
		s := f.publish(t)
		f.trouble[deltaPath] = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		began := time.Now()
		f.refresh(t, k)
		if d := time.Since(began); d != defaultFetch/2 {
			t.Errorf("the full list came after %s", d)
		}
		f.wantNumber(t, "after the full list", k, s)
	})
}

// Neither an older delta nor an older full list takes back what a delta told.
func TestDeltaNeverGoesBack(t *testing.T) {
	f := newDeltaSite(t)
	f.c.Dir = t.TempDir()
	revoked := f.ca.leaf(t, 5, testURL)
	first := f.publish(t)
	k := newChecker(t, f.c)
	f.refresh(t, k)
	f.m.revoke(5, 6)
	newest := f.publish(t)
	f.refresh(t, k)
	wantRevoked(t, "by a delta", k, revoked)

	serve := func(path string, der []byte) {
		f.trouble[path] = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"x"`)
			if r.Header.Get("If-None-Match") == `"x"` {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			_, _ = w.Write(der)
		}
	}
	released := f.ca.delta(t, int64(first.Number), int64(newest.Number)-1, f.now, func(l *x509.RevocationList) {
		l.RevokedCertificateEntries[0].ReasonCode = removeFromCRL
	}, 5)
	serve(deltaPath, released)
	for _, der := range [][]byte{first.DER.Bytes(), f.ca.list(t, int64(newest.Number)-1, f.now, nil)} {
		serve(fullPath, der)
		wantErr(t, k.Refresh(t.Context()), ErrRollback, "")
		wantRevoked(t, "after an older delta and full list", k, revoked)
	}
	f.trouble[fullPath] = status(http.StatusNotModified) // of the first list
	wantErr(t, k.Refresh(t.Context()), ErrRollback, "")
	wantRevoked(t, "after 304 for the full list", k, revoked)

	f.trouble = map[string]http.HandlerFunc{deltaPath: status(404)}
	f.refresh(t, k) // the full list of the same number
	f.wantNumber(t, "the full list of the same number", k, newest)
	wantRevoked(t, "by the full list", k, revoked)
}

// A list is as old as the newer of itself and its delta, also after a restart.
func TestDeltaStaleAndRestart(t *testing.T) {
	f := newDeltaSite(t)
	f.c.Dir = t.TempDir()
	good, revoked := f.ca.leaf(t, 1, testURL), f.ca.leaf(t, 5, testURL)
	f.publish(t)
	k := newChecker(t, f.c)
	f.refresh(t, k)
	f.now = f.now.Add(25 * time.Minute) // before the full list is renewed
	f.m.revoke(5, 1)
	newest := f.publish(t)
	f.refresh(t, k)
	if asked := f.asked; !slices.Equal(asked, []string{testDeltaURL}) {
		t.Fatalf("it asked for %q", asked)
	}

	f.trouble[fullPath], f.trouble[deltaPath] = status(503), status(503)
	restarted := newChecker(t, f.c)
	if err := restarted.Check(t.Context(), good); err != nil {
		t.Errorf("restarted while the CA is away: %v", err)
	}
	wantRevoked(t, "restarted while the CA is away", restarted, revoked)
	f.wantNumber(t, "restarted while the CA is away", restarted, newest)
	delete(f.trouble, deltaPath)
	f.refresh(t, restarted)
	wantRevoked(t, "restarted", restarted, revoked)
	f.trouble[deltaPath] = status(503)

	f.now = testNow.Add(70 * time.Minute)
	if err := k.Check(t.Context(), good); err != nil {
		t.Errorf("when the full list is stale, and the delta is not: %v", err)
	}
	if err := newChecker(t, f.c).Check(t.Context(), good); err != nil {
		t.Errorf("restarted when the full list is stale, and the delta is not: %v", err)
	}
	f.now = testNow.Add(86 * time.Minute)
	wantErr(t, newChecker(t, f.c).Check(t.Context(), good), ErrStale, "")
	wantErr(t, k.Check(t.Context(), good), ErrStale, "")

	full := parsed(t, f.ca, newest)
	early := *full
	early.Number, early.NextUpdate, early.base = full.Number+1, full.NextUpdate.Add(-50*time.Minute), full.Number
	if l := with(t, full, &early); !l.NextUpdate.Equal(full.NextUpdate) {
		t.Errorf("a delta that is stale earlier makes the list stale at %s, want %s", l.NextUpdate, full.NextUpdate)
	}
}

// The full list is fetched again in the last quarter of its time, however good the deltas are.
func TestFullListIsRenewed(t *testing.T) {
	f := newDeltaSite(t)
	f.publish(t)
	k := newChecker(t, f.c)
	f.refresh(t, k)
	renewed := 0
	for minute := range 60 {
		f.now = testNow.Add(time.Duration(minute) * time.Minute)
		f.m.revoke(100+int64(minute), 1)
		s := f.publish(t)
		asked := f.refresh(t, k)
		if slices.Contains(asked, testURL) {
			renewed++
			if minute < 45 {
				t.Errorf("renewed after %d minutes", minute)
			}
		}
		if asked[0] != testDeltaURL {
			t.Errorf("it asked for %q", asked)
		}
		f.wantNumber(t, "each minute", k, s)
	}
	if f.now = testNow.Add(time.Hour); len(f.refresh(t, k)) == 2 {
		renewed++
	}
	if renewed != 1 {
		t.Errorf("renewed %d times, want once", renewed)
	}

	f.trouble[fullPath] = status(503)
	f.now = f.now.Add(55 * time.Minute)
	f.publish(t)
	f.refresh(t, k)
	f.now = f.now.Add(55 * time.Minute) // it should have been renewed
	f.m.revoke(5, 1)
	f.publish(t)
	if asked := f.refresh(t, k); !slices.Equal(asked, []string{testDeltaURL, testURL}) {
		t.Errorf("it asked for %q", asked)
	}
	if asked := f.refresh(t, k); !slices.Equal(asked, []string{testDeltaURL}) {
		t.Errorf("a full list that cannot be had is asked for at once again: %q", asked)
	}
	wantRevoked(t, "while the full list cannot be had", k, f.ca.leaf(t, 5, testURL))
}

// A list does not send a checker to another host than its own, unless the configuration does.
func TestWhereTheDeltaIsFetched(t *testing.T) {
	for _, tt := range []struct{ names, from, deltaFrom, want string }{
		{testDeltaURL, "", "", testDeltaURL},
		{testDeltaURL, "https://mirror.test:8443/lists/a1", "", "https://mirror.test:8443/crl/a1-delta.crl"},
		{testDeltaURL, "", "http://mirror.test/d", "http://mirror.test/d"},
		{"http://STATUS.test/d?x=1", "", "", "http://status.test/d?x=1"},
		{"http://status.test:8080/d", "", "", ""},
		{"https://status.test/d", "", "", ""},
		{"http://10.0.0.1/admin", "", "", ""},
		{"http://status.test@10.0.0.1/", "", "", ""},
		{"http://10.0.0.1/admin", "http://mirror.test/a1", "", ""},
		{"http://10.0.0.1/admin", "", "http://mirror.test/d", "http://mirror.test/d"},
	} {
		f := newDeltaSite(t)
		list := f.ca.list(t, 1, f.now, func(l *x509.RevocationList) {
			l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: oidFreshestCRL, Value: freshestValue(tt.names)})
		})
		f.c.Points = []Point{{Issuer: f.ca.cert, URL: testURL, From: tt.from, DeltaFrom: tt.deltaFrom}}
		answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(list) })
		f.trouble[fullPath], f.trouble["/lists/a1"], f.trouble["/a1"] = answer, answer, answer
		k := newChecker(t, f.c)
		f.refresh(t, k)
		asked := f.refresh(t, k)
		if got := strings.Join(asked[:len(asked)-1], " "); got != tt.want {
			t.Errorf("a list that names %s, from %q and %q: asked for %q, want %q", tt.names, tt.from, tt.deltaFrom, got, tt.want)
		}
	}
	f := newDeltaSite(t)
	f.c.Points[0].DeltaFrom = "file:///etc/passwd"
	if _, err := NewChecker(f.c); err == nil {
		t.Error("accepted a DeltaFrom that is not http")
	}
}

// When the CA's store was restored from a backup, a client that has a list from after the backup goes by what the store
// says again, with the first list that is newer.
func TestDeltasOfARestoredStore(t *testing.T) {
	f := newDeltaSite(t)
	f.m.revoke(5, 6)
	backup := newMemory()
	backup.newest[testShard] = f.publish(t)
	backup.revoked, backup.log = maps.Clone(f.m.revoked), slices.Clone(f.m.log)
	f.now = f.now.Add(time.Minute)
	f.m.release(5)
	f.publish(t)
	k, cert := newChecker(t, f.c), f.ca.leaf(t, 5, testURL)
	f.refresh(t, k)
	if err := k.Check(t.Context(), cert); err != nil {
		t.Fatal(err)
	}

	restored := backup.newest[testShard]
	restored.Delta = nil // a store for one node keeps none
	backup.newest[testShard] = restored
	f.p = newPublisher(t, deltaConfig(f.ca, backup, &f.now))
	shard := f.p.find(testShard)
	for range 2 {
		f.now = f.now.Add(time.Minute)
		if s, err := f.p.publish(t.Context(), shard, false); err != nil || s.Number != restored.Number {
			t.Fatalf("list %d, %v; want the one of the backup", s.Number, err)
		}
		wantErr(t, k.Refresh(t.Context()), ErrRollback, "")
	}
	backup.revoke(6, 1)
	s, err := f.p.publish(t.Context(), shard, false)
	if err != nil {
		t.Fatal(err)
	}
	f.refresh(t, k)
	f.wantNumber(t, "after the store was restored", k, s)
	wantRevoked(t, "held again, by the store's word", k, cert)
}
