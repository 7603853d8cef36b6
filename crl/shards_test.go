package crl

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func shardAt(ca *testCA, n uint32) PublishedShard {
	return PublishedShard{Shard: Shard{Issuer: testShard.Issuer, Number: n}, URL: fmt.Sprintf("http://status.test/crl/a1-%d.crl", n), Issuer: ca.cert}
}

func serveStatus(p *Publisher, shard Shard) int {
	w := httptest.NewRecorder()
	p.Serve(w, httptest.NewRequest(http.MethodGet, "/", nil), shard)
	return w.Code
}

// A shard that is added is served when Add returns, and tended to like the others, whether Run runs or not.
func TestAddedShardIsServedAndTended(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	for name, running := range map[string]bool{"before Run": false, "during Run": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory()
				p := newPublisher(t, publisherConfig(ca, m))
				ctx, cancel := context.WithCancel(t.Context())
				var run sync.WaitGroup
				start := func() { run.Go(func() { _ = p.Run(ctx) }) }
				if running {
					start()
					synctest.Wait()
				}
				one := shardAt(ca, 1)
				if status := serveStatus(p, one.Shard); status != http.StatusNotFound {
					t.Errorf("status %d of a shard that is not published", status)
				}
				if err := p.Add(t.Context(), one); err != nil {
					t.Fatal(err)
				}
				first, ok := p.Current(one.Shard)
				if latest, err := m.Latest(t.Context(), one.Shard, 0); !ok || err != nil || latest.Number != first.Number {
					t.Fatalf("list %d, %v, and %d, %v in the store", first.Number, ok, latest.Number, err)
				}
				if l, err := ParseAndVerify(first.DER.Bytes(), ca.cert, one.URL, time.Now()); err != nil || l.Len() != 0 {
					t.Fatalf("first list: %v, %v", l, err)
				}
				if err := p.Add(t.Context(), one); err != nil {
					t.Errorf("adding it again: %v", err)
				}
				if !running {
					start()
				}
				time.Sleep(48 * time.Hour)
				m.revoke(7, 1)
				p.Changed(one.Shard)
				time.Sleep(time.Second)
				held, _ := p.Current(one.Shard)
				if got := serials(t, ca, held); !slices.Equal(got, []int64{7}) || held.NextUpdate.Before(time.Now()) {
					t.Errorf("two days later the list has %d and holds until %s", got, held.NextUpdate)
				}
				if got := p.Shards(); !slices.Equal(got, []Shard{testShard, one.Shard}) {
					t.Errorf("shards %v", got)
				}
				cancel()
				run.Wait()
			})
		})
	}
}

// Until the first list is durable a certificate must not name it: an error adds nothing.
func TestShardWhoseFirstListFailsIsNotAdded(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	p := newPublisher(t, publisherConfig(ca, m))
	one := shardAt(ca, 1)
	m.beforeReplace = func() error { return errFault }
	if err := p.Add(t.Context(), one); !errors.Is(err, errFault) {
		t.Errorf("Add = %v", err)
	}
	if got := p.Shards(); !slices.Equal(got, []Shard{testShard}) || serveStatus(p, one.Shard) != http.StatusNotFound {
		t.Errorf("shards %v after a failed Add", got)
	}
	m.beforeReplace = nil
	if err := p.Add(t.Context(), one); err != nil || serveStatus(p, one.Shard) != http.StatusOK {
		t.Errorf("the next Add: %v", err)
	}
	if err := p.Add(t.Context(), PublishedShard{Shard: Shard{"a1", 2}, URL: "ftp://x", Issuer: ca.cert}); err == nil {
		t.Error("a shard with a URL that no certificate can have was added")
	}
}

func TestShardAddedByManyAtOnceHasOneList(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	p := newPublisher(t, publisherConfig(ca, m))
	running(t, p.Run)
	eventually(t, func() bool { return len(m.lists()) == 1 })
	var adding sync.WaitGroup
	for range 8 {
		adding.Go(func() {
			if err := p.Add(t.Context(), shardAt(ca, 1)); err != nil {
				t.Error(err)
			}
		})
	}
	adding.Wait()
	if n := len(p.Shards()); n != 2 {
		t.Errorf("%d shards, want 2", n)
	}
	if n := len(m.lists()); n != 2 {
		t.Errorf("%d lists, want one for each shard", n)
	}
}

// RFC 5280 section 3.3: what is revoked stands on one list that was issued after it had expired.
func TestRetiredShardHasOneMoreListAndGoesAtItsNextUpdate(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		c := publisherConfig(ca, m)
		one := shardAt(ca, 1)
		c.Shards = append(c.Shards, one)
		p := newPublisher(t, c)
		running(t, p.Run)
		expired := time.Now().Add(time.Minute).Truncate(time.Second)
		m.revoke(7, 1, expired)
		p.Changed(one.Shard)
		time.Sleep(2 * time.Minute)
		p.Retire(one.Shard, expired)
		p.Retire(Shard{"a1", 9}, expired) // is not there, and need not be

		var last Signed
		for serveStatus(p, one.Shard) == http.StatusOK {
			last, _ = p.Current(one.Shard)
			time.Sleep(10 * time.Second)
		}
		var after []Signed
		for _, s := range m.lists() {
			if s.Shard == one.Shard && s.ThisUpdate.After(expired) {
				after = append(after, s)
			}
		}
		if len(after) == 0 || !slices.Equal(serials(t, ca, after[0]), []int64{7}) {
			t.Fatalf("%d lists after the expiry, and the revoked certificate is not on the first", len(after))
		}
		if len(after) > 2 {
			t.Errorf("%d lists after the expiry, want one more, and another without what it held", len(after))
		}
		if since := time.Since(last.NextUpdate); since < 0 || since > time.Minute {
			t.Errorf("it went %s after the last list's nextUpdate", since)
		}
		if status := serveStatus(p, one.Shard); status != http.StatusNotFound {
			t.Errorf("status %d after the end", status)
		}
		if got := p.Shards(); !slices.Equal(got, []Shard{testShard}) {
			t.Errorf("shards %v", got)
		}
		if err := p.Add(t.Context(), one); err != nil { // a certificate came late after all
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		if held, _ := p.Current(one.Shard); held.NextUpdate.Before(time.Now()) {
			t.Errorf("the shard that came back holds until %s", held.NextUpdate)
		}
	})
}

// Add ends a retirement, also when the last list is out already.
func TestAddEndsARetirement(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		p := newPublisher(t, publisherConfig(ca, m))
		running(t, p.Run)
		synctest.Wait()
		p.Retire(testShard, time.Now().Add(-time.Minute))
		time.Sleep(50 * time.Minute) // past the time when it would be signed anew
		if st := p.Status()[0]; !st.Ended || st.ThisUpdate.Add(50*time.Minute).After(time.Now()) {
			t.Errorf("a retired shard's list was signed anew: %+v", st)
		}
		if err := p.Add(t.Context(), publisherConfig(ca, m).Shards[0]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		if st := p.Status()[0]; st.Ended || st.NextUpdate.Before(time.Now()) {
			t.Errorf("after its retirement ended: %+v", st)
		}
	})
}
