package crlfile

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkid/pkid/crl"
)

func TestOnceWritesEveryList(t *testing.T) {
	f := newFixture(t)
	f.once()
	f.want(asFirst)
	f.publish(urlB, f.b.list(t, urlB, 11, f.begun, 7))
	f.once()
	f.want("A 10, A 10, B 11, Root 10")
}

func TestDERHoldsOneList(t *testing.T) {
	f := newFixture(t)
	der := func(c *Config) { c.DER = true }
	if err := f.sync(der).Once(t.Context()); !errors.Is(err, ErrNotOne) || !strings.Contains(err.Error(), "a, a shard 1, b, root") {
		t.Errorf("four lists in DER: %v", err)
	}
	if err := f.sync(der).Run(t.Context()); !errors.Is(err, ErrNotOne) {
		t.Errorf("four lists in DER, as a daemon: %v", err)
	}
	f.points = f.points[2:3]
	f.once(der)
	if got, err := os.ReadFile(f.file); err != nil || !bytes.Equal(got, f.lists[urlB]) {
		t.Errorf("the file is not the list: %v", err)
	}
	old := f.lists[urlB]
	f.publish(urlB, f.b.list(t, urlB, 11, f.begun))
	f.once(der)
	f.publish(urlB, old)
	if err := f.sync(der).Once(t.Context()); !errors.Is(err, crl.ErrRollback) {
		t.Errorf("an older list after a restart: %v", err)
	}
}

// TestBadListsStayOut: neither does one get into the first file, nor does it replace one that is there; and the other
// lists are kept up to date all the same.
func TestBadListsStayOut(t *testing.T) {
	for _, tt := range []struct {
		name string
		list func(f *fixture) []byte
		want error // nil: any
	}{
		{"none", func(*fixture) []byte { return nil }, nil},
		{"garbage", func(*fixture) []byte { return []byte("garbage") }, crl.ErrList},
		{"by another key", func(f *fixture) []byte { return newCA(f, "A").list(f, urlA, 12, f.begun) }, crl.ErrList},
		{"by another issuer", func(f *fixture) []byte { return f.b.list(f, urlA, 12, f.begun) }, crl.ErrList},
		{"of another shard", func(f *fixture) []byte { return f.a.list(f, urlA1, 12, f.begun) }, crl.ErrList},
		{"of all shards", func(f *fixture) []byte { return f.a.list(f, "", 12, f.begun) }, crl.ErrList},
		{"from the future", func(f *fixture) []byte { return f.a.list(f, urlA, 12, f.begun.Add(time.Hour)) }, crl.ErrList},
		{"cut", func(f *fixture) []byte { return f.a.list(f, urlA, 12, f.begun)[:200] }, crl.ErrList},
		{"overlong", func(f *fixture) []byte { return append(f.a.list(f, urlA, 12, f.begun), make([]byte, 1<<20)...) }, crl.ErrList},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			limit := func(c *Config) { c.MaxSize = 1 << 20 }
			good, bad := f.lists[urlA], tt.list(f)
			f.publish(urlA, bad)
			if err := f.sync(limit).Once(t.Context()); err == nil || !errors.Is(err, tt.want) && tt.want != nil {
				t.Errorf("at first: %v", err)
			}
			f.want("no file")
			f.publish(urlA, good)
			f.once(limit)
			f.publish(urlA, bad)
			f.publish(urlB, f.b.list(t, urlB, 11, f.begun))
			if err := f.sync(limit).Once(t.Context()); err == nil || !errors.Is(err, tt.want) && tt.want != nil {
				t.Errorf("afterwards: %v", err)
			}
			f.want("A 10, A 10, B 11, Root 10")
		})
	}
}

// TestNeverBack: not in a process, not after a restart, not with the same number.
func TestNeverBack(t *testing.T) {
	f := newFixture(t)
	f.publish(urlA, f.a.list(t, urlA, 12, f.begun, 1))
	f.once()
	for _, number := range []int64{11, 12} {
		f.publish(urlA, f.a.list(t, urlA, number, f.begun))
		if err := f.sync().Once(t.Context()); !errors.Is(err, crl.ErrRollback) {
			t.Errorf("number %d after 12: %v", number, err)
		}
		f.want("A 12, A 10, B 10, Root 10")
	}
}

func TestRedirectsAreRefused(t *testing.T) {
	f := newFixture(t)
	f.once()
	elsewhere := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {"http://127.0.0.1/"}}, Body: http.NoBody, Request: r}, nil
	})}
	if err := f.sync(func(c *Config) { c.HTTPClient = elsewhere }).Once(t.Context()); err == nil || !strings.Contains(err.Error(), "must not redirect") {
		t.Errorf("a redirect: %v", err)
	}
	f.want(asFirst)
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestStaleListIsAnErrorAndStays(t *testing.T) {
	f := newFixture(t)
	err := f.sync(func(c *Config) { c.Now = func() time.Time { return f.begun.Add(25 * time.Hour) } }).Once(t.Context())
	if err == nil || !strings.Contains(err.Error(), "ran out") {
		t.Errorf("lists that ran out: %v", err)
	}
	f.want(asFirst) // what was revoked stays so
}

func TestSetup(t *testing.T) {
	f := newFixture(t)
	for name, c := range map[string]Config{
		"no file": {Learn: f.learn}, "nobody to ask": {File: f.file},
		"a negative interval": {File: f.file, Learn: f.learn, Interval: -1}, "a mode with more than nine bits": {File: f.file, Learn: f.learn, Mode: os.ModeSetuid | 0o644},
		"a directory that is not there": {File: filepath.Join(f.file, "no", "crl.pem"), Learn: f.learn},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	f.points = nil
	if err := f.sync().Once(t.Context()); err == nil {
		t.Error("a CA without lists: no error")
	}
	f.points = make([]Point, maxPoints+1)
	if err := f.sync().Once(t.Context()); err == nil {
		t.Error("too many lists: no error")
	}
}

// daemon runs f's Sync in a bubble, until the returned function stops it.
func (f *fixture) daemon(change ...func(*Config)) (stop func()) {
	ctx, cancel := context.WithCancel(f.Context())
	done := make(chan error, 1)
	s := f.sync(change...)
	go func() { done <- s.Run(ctx) }()
	return func() {
		f.Helper()
		cancel()
		if err := <-done; err != nil {
			f.Errorf("Run: %v", err)
		}
	}
}

// seldom is for tests of many hours.
func seldom(c *Config) { c.Interval = time.Minute }

// pass lets time pass, and all that is due be done.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestRunFollowsTheCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.away = errors.New("away")
		stop := f.daemon()
		pass(10 * time.Second)
		f.want("no file")
		f.mu.Lock()
		f.away = nil
		f.mu.Unlock()
		pass(3 * time.Second)
		f.want(asFirst)
		f.publish(urlA1, f.a.list(t, urlA1, 11, f.begun, 5))
		pass(700 * time.Millisecond)
		f.want("A 10, A 11, B 10, Root 10")
		if got := f.served[urlB]; got != 1 {
			t.Errorf("a list that did not change was sent %d times", got)
		}
		f.mu.Lock()
		f.away = errors.New("away")
		f.mu.Unlock()
		pass(10 * time.Minute)
		f.want("A 10, A 11, B 10, Root 10")
		stop()
		if got := strings.Count(f.log.String(), `msg="no newer CRL`); got != 4 {
			t.Errorf("four lists that cannot be had were told %d times", got)
		}
	})
}

// TestNewListIsMissing: a shard whose list cannot be had keeps no revocation from the servers, and comes when it is there.
func TestNewListIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		all := f.points
		f.points = all[2:]
		stop := f.daemon()
		pass(2 * time.Second)
		f.want("B 10, Root 10")
		f.mu.Lock()
		f.points = all
		f.mu.Unlock()
		f.publish(urlA, nil)
		f.publish(urlB, f.b.list(t, urlB, 11, f.begun))
		pass(4 * time.Second)
		f.want("A 10, B 11, Root 10")
		f.publish(urlA, f.a.list(t, urlA, 10, f.begun))
		pass(time.Second)
		f.want("A 10, A 10, B 11, Root 10")
		stop()
	})
}

// TestListThatIsGoneStaysWhileItIsGood: a shard has ended, or somebody would like it to have.
func TestListThatIsGoneStaysWhileItIsGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		stop := f.daemon(seldom)
		pass(2 * time.Minute)
		f.mu.Lock()
		f.points = f.points[1:]
		f.mu.Unlock()
		f.publish(urlA, nil)
		pass(23 * time.Hour)
		f.want("A 10, B 10, Root 10, A 10")
		pass(2 * time.Hour)
		f.want("A 10, B 10, Root 10")
		stop()
	})
}

func TestRunWarnsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.points = f.points[2:3]
		stop := f.daemon(seldom)
		pass(17 * time.Hour)
		if strings.Contains(f.log.String(), "runs out") {
			t.Error("told too early that a list runs out")
		}
		pass(2 * time.Hour)
		if got := strings.Count(f.log.String(), "runs out"); got < 1 || got > 2 {
			t.Errorf("told %d times in an hour that a list runs out", got)
		}
		pass(6 * time.Hour)
		if !strings.Contains(f.log.String(), "has run out") {
			t.Error("not told that a list has run out")
		}
		stop()
		f.want("B 10")
	})
}

// TestFileByAnotherHand: it is put right if it was removed or damaged, and what is newer in it counts.
func TestFileByAnotherHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		stop := f.daemon()
		pass(2 * time.Second)
		whole, err := os.ReadFile(f.file)
		if err != nil {
			t.Fatal(err)
		}
		for name, damage := range map[string]func() error{
			"removed": func() error { return os.Remove(f.file) },
			"cut":     func() error { return os.WriteFile(f.file, whole[:len(whole)/2], 0o644) },
			"emptied": func() error { return os.WriteFile(f.file, nil, 0o644) },
			"replaced": func() error {
				return os.WriteFile(f.file, f.a.list(t, urlB, 99, f.begun), 0o644) // by no signer of that list
			},
		} {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
			if got := f.numbers(); got != asFirst {
				t.Errorf("%s: the file has %s", name, got)
			}
		}
		other := f.sync() // the CA has a newer list, which another process was told of
		f.publish(urlB, f.b.list(t, urlB, 12, f.begun))
		if err := other.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.publish(urlB, f.b.list(t, urlB, 11, f.begun))
		pass(time.Second)
		f.want("A 10, A 10, B 12, Root 10")
		stop()
	})
}
