package pgstore_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/pgstore"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// shardOfTests is that of newRecord.
var shardOfTests = crl.Shard{Issuer: "0123456789abcdef"}

// watch collects what a store's Watch tells, until the test ends. The first notice has come when it returns.
func watch(t *testing.T, s *pgstore.Store, every time.Duration) *notices {
	t.Helper()
	n := &notices{t: t, all: make(chan pgstore.Notice, 1000)}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, every, func(x pgstore.Notice) { n.all <- x }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch = %v", err)
		}
	})
	if first := n.next(); !first.All {
		t.Fatalf("the first notice is %+v", first)
	}
	return n
}

type notices struct {
	t   *testing.T
	all chan pgstore.Notice
}

func (n *notices) next() pgstore.Notice {
	n.t.Helper()
	select {
	case x := <-n.all:
		return x
	case <-time.After(time.Minute):
		n.t.Fatal("no notice came")
		return pgstore.Notice{}
	}
}

// until returns when a notice says so. Others may come before.
func (n *notices) until(what string, says func(pgstore.Notice) bool) {
	n.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		if says(n.next()) {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("no notice tells of %s", what)
		}
	}
}

func putClient(t *testing.T, s *pgstore.Store, c authserver.Client) {
	t.Helper()
	if _, err := s.PutClient(t.Context(), c, audit.Event{Time: time.Now(), Action: audit.ClientAdd, Subject: c.ID}); err != nil {
		t.Fatal(err)
	}
}

// TestWatch: what one node does the other is told, long before it would look by itself.
func TestWatch(t *testing.T) {
	url := pgtest.Database(t)
	here, there := open(t, url), open(t, url)
	told := watch(t, there, time.Hour)

	rec := newRecord(1)
	insert(t, here, rec) // which nobody needs to be told
	if err := revoke(t.Context(), here, rec.Serial); err != nil {
		t.Fatal(err)
	}
	if n := told.next(); !slices.Equal(n.Changed, []crl.Shard{shardOfTests}) || n.Position != 1 || n.All || n.Clients || n.Keys || n.Published != nil {
		t.Errorf("after a revocation: %+v", n)
	}
	list := crl.Signed{Shard: crl.Shard{Issuer: "x", Number: 3}, Number: 9, DER: crl.DER{[]byte("list")}}
	if err := here.Replace(t.Context(), crl.Signed{}, list); err != nil {
		t.Fatal(err)
	}
	if n := told.next(); !slices.Equal(n.Published, []crl.Shard{list.Shard}) || n.All || n.Changed != nil || n.Position != 0 {
		t.Errorf("after a CRL: %+v", n)
	}
	putClient(t, here, authserver.Client{ID: "alice"})
	if n := told.next(); !n.Clients || n.All || n.Keys || n.Changed != nil || n.Published != nil {
		t.Errorf("after a client: %+v", n)
	}
	ev := audit.Event{Time: time.Now(), Action: audit.KeyAdd, Subject: "k"}
	if _, err := here.PutKey(t.Context(), keyring.Key{ID: "k", Use: keyring.Tokens}, ev); err != nil {
		t.Fatal(err)
	}
	if n := told.next(); !n.Keys || n.All || n.Clients {
		t.Errorf("after a key: %+v", n)
	}
	if err := here.DropKey(t.Context(), "k", ev); err != nil {
		t.Fatal(err)
	}
	if n := told.next(); !n.Keys {
		t.Errorf("after the end of a key: %+v", n)
	}
	if err := here.MarkRestored(t.Context(), time.Now(), audit.Event{Time: time.Now(), Action: audit.Restore}); err != nil {
		t.Fatal(err)
	}
	if n := told.next(); !n.All {
		t.Errorf("after the store was marked as restored: %+v", n)
	}
}

// TestWatchAfterALoss: what happened while a node was cut off is found when it is back, though nobody tells it again.
func TestWatchAfterALoss(t *testing.T) {
	url := pgtest.Database(t)
	here := open(t, url)
	p, away := throughProxy(t, url)
	there := open(t, away)
	told := watch(t, there, time.Hour)
	for _, fail := range []struct {
		name  string
		begin func()
	}{{"cut", p.Cut}, {"cut again", p.Cut}} {
		fail.begin()
		rec := newRecord(1)
		insert(t, here, rec)
		if err := revoke(t.Context(), here, rec.Serial); err != nil {
			t.Fatal(err)
		}
		p.Resume()
		told.until(fail.name, func(n pgstore.Notice) bool { return n.Back && slices.Contains(n.Changed, shardOfTests) })
	}
}

// throughProxy returns a proxy to a database, and the URL through it.
func throughProxy(t *testing.T, url string) (*pgtest.Proxy, string) {
	t.Helper()
	host := url[strings.Index(url, "@")+1:]
	p := pgtest.StartProxy(t, host[:strings.Index(host, "/")])
	away, err := p.URL(url)
	if err != nil {
		t.Fatal(err)
	}
	return p, away
}

// TestWatchFindsWhatNobodyTold: a change whose notice was lost is found within an interval, on the same connection.
func TestWatchFindsWhatNobodyTold(t *testing.T) {
	url := pgtest.Database(t)
	var log syncBuffer
	s, err := pgstore.Open(t.Context(), url, pgstore.Options{Create: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	told := watch(t, s, 5*time.Millisecond)
	for range 3 {
		execute(t, url, "UPDATE pkid.state SET clients = clients + 1")
		if n := told.next(); !n.Clients || n.All {
			t.Errorf("a change without a notice: %+v", n)
		}
	}
	if n := strings.Count(log.String(), "listening to the other nodes"); n != 1 {
		t.Errorf("%d connections for one watch: %s", n, log.String())
	}
	execute(t, url, "UPDATE pkid.state SET clients = 0") // as in a backup
	if n := told.next(); !n.All {
		t.Errorf("a store that went back: %+v", n)
	}
}

// TestWatchAfterChangesWereDropped: of changes that are not kept any more nobody can say which CRLs they concern.
func TestWatchAfterChangesWereDropped(t *testing.T) {
	url := pgtest.Database(t)
	told := watch(t, open(t, url), 5*time.Millisecond)
	execute(t, url, "UPDATE pkid.head SET position = position + 5")
	if n := told.next(); !n.All {
		t.Errorf("changes that are gone: %+v", n)
	}
}

// syncBuffer is a buffer that a logger writes to.
type syncBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
