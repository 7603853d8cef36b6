package feed

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/revocation"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// fixture is a feed of a real store.
type fixture struct {
	*Feed
	t     *testing.T
	store *boltstore.Store
	away  atomic.Bool                     // the store
	loads atomic.Int64                    // how often all was read
	other atomic.Pointer[boltstore.Store] // whose log took the place of its own
}

func (f *fixture) log() *boltstore.Store { return cmp.Or(f.other.Load(), f.store) }

// Audit stands before the store's, which then may be away.
func (f *fixture) Audit(ctx context.Context, after uint64, limit int) ([]audit.Entry, error) {
	if f.away.Load() {
		return nil, errors.New("the store is away")
	}
	return f.log().Audit(ctx, after, limit)
}

func (f *fixture) AuditHead(ctx context.Context) (audit.Head, error) {
	return f.log().AuditHead(ctx)
}

func (f *fixture) AuditBase(ctx context.Context) (audit.Head, error) {
	f.loads.Add(1)
	return f.log().AuditBase(ctx)
}

func openStore(t *testing.T) *boltstore.Store {
	t.Helper()
	store, err := boltstore.Open(filepath.Join(t.TempDir(), "pkid.db"), boltstore.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, store: openStore(t)}
	f.start()
	return f
}

// start starts a feed, as a start of the daemon does.
func (f *fixture) start() {
	f.Feed = New(Config{Log: f, Records: f.store, IssuerKeyID: func(string) []byte { return nil }, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(f.t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	f.t.Cleanup(func() { cancel(); running.Wait() })
}

func (f *fixture) revoke(jti string) {
	f.t.Helper()
	revokeIn(f.t, f.store, jti)
}

func revokeIn(t *testing.T, s *boltstore.Store, jti string) {
	t.Helper()
	now := time.Now()
	ev := audit.Event{Time: now, Action: audit.TokenRevoke, Subject: jti}
	if err := s.RevokeToken(t.Context(), jti, now.Add(time.Minute), ev); err != nil {
		t.Fatal(err)
	}
}

// listener is one that a test reads.
type listener struct {
	*Listener
	t *testing.T
}

func (f *fixture) listen(since string) listener {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	l, err := f.Listen(ctx, since)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(l.Close)
	return listener{l, f.t}
}

var idLine = regexp.MustCompile(`(?m)^id: (\S*)$`)

// until reads up to the next heartbeat, and returns the names of the events before it, and the id to go on from.
func (l listener) until() (names string, id string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 20*time.Second)
	defer cancel()
	var got []string
	for {
		b, err := l.Next(ctx, nil)
		if err != nil {
			l.t.Fatalf("after %v: %v", got, err)
		}
		for e := range bytes.SplitSeq(bytes.TrimSpace(b), []byte("\n\n")) {
			name, _, _ := strings.Cut(strings.TrimPrefix(string(e), "event: "), "\n")
			if found := idLine.FindStringSubmatch(string(e)); found != nil {
				id = found[1]
			}
			if name == "heartbeat" {
				return strings.Join(got, " "), id
			}
			got = append(got, name)
		}
	}
}

func (l listener) want(want string) (id string) {
	l.t.Helper()
	got, id := l.until()
	if got != want {
		l.t.Errorf("told %q, want %q", got, want)
	}
	return id
}

func TestFeed_GoesOn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.revoke("before")
	first := f.listen("")
	start := first.want("reset token")
	f.revoke("one")
	one := first.want("token")
	f.revoke("two")
	f.Poke()
	first.want("token")

	f.listen(start).want("token token")
	f.listen(one).want("token")
	f.listen("1").want("token token")
	number, _, _ := strings.Cut(one, ".")
	f.listen(number).want("token")
	f.listen(number + ".0011223344556677").want("reset token token token")
	f.listen("99").want("reset token token token")

	f.start() // what was told before a restart is told again to whoever comes back
	f.listen(one).want("token")
	for _, bad := range []string{"x", "1.2", "-1", "1.00112233445566778899", "99999999999999999999"} {
		if _, err := f.Listen(t.Context(), bad); !errors.Is(err, ErrPosition) {
			t.Errorf("Listen(%q): %v", bad, err)
		}
	}
}

// TestFeed_Lingers: readers that come and go do not have everything read each time.
func TestFeed_Lingers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for range 3 {
		l, err := f.Listen(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		listener{l, t}.want("reset")
		l.Close()
		for range 2 { // the second is after a look that nobody listened to
			f.Poke()
			for len(f.poked) > 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}
	f.listen("").want("reset")
	if n := f.loads.Load(); n != 1 {
		t.Errorf("all was read %d times", n)
	}
}

// TestFeed_Archived: who is behind what the log still has starts over, and hears of everything that counts.
func TestFeed_Archived(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var ids []string
	l := f.listen("")
	for i := range 5 {
		f.revoke(fmt.Sprint(i))
		_, id := l.until()
		ids = append(ids, id)
	}
	base, err := f.store.Audit(t.Context(), 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.DropAudit(t.Context(), base[0].Head(), 100); err != nil {
		t.Fatal(err)
	}
	f.start()
	f.listen(ids[len(ids)-1]).want("")
	f.listen("3").want("token token")
	f.listen("2").want("reset token token token token token")
}

// TestFeed_Restored: nobody goes on over a restore from a backup, and all learn from when on tokens count.
func TestFeed_Restored(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	l := f.listen("")
	f.revoke("one")
	_, before := l.until()
	at := time.Now().Add(time.Second).Truncate(time.Second).UTC()
	if err := f.store.MarkRestored(t.Context(), at, audit.Event{Time: at, Action: audit.Restore, Subject: "store"}); err != nil {
		t.Fatal(err)
	}
	f.revoke("two")
	f.Poke()
	if _, err := l.Next(t.Context(), nil); !errors.Is(err, ErrClosed) { // the daemon still runs, which read the store's mark when it started
		t.Errorf("a stream goes on over a restore: %v", err)
	}
	again := f.listen(before)
	if want := at.Format(time.RFC3339); !bytes.Contains(again.first, []byte(`"tokens_not_before":"`+want)) {
		t.Errorf("told %s, want %s", again.first, want)
	}
	id := again.want("reset token token")
	f.start()
	f.listen(id).want("")
	f.listen(before).want("reset token token")
}

// TestFeed_LogGoesBack: where a log that lacks the newest entries takes the place of the one that was read, nobody is told
// that there is nothing new: what is revoked then gets numbers that were told before.
func TestFeed_LogGoesBack(t *testing.T) {
	t.Parallel()
	for name, entries := range map[string]int{"behind": 1, "as long": 3, "longer": 4} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			for range 3 {
				f.revoke(rand.Text())
			}
			l := f.listen("")
			l.want("reset token token token")
			standby := openStore(t)
			for range entries {
				revokeIn(t, standby, rand.Text())
			}
			f.other.Store(standby)
			f.Poke()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if b, err := l.Next(ctx, nil); !errors.Is(err, ErrClosed) {
				t.Errorf("told %q, %v", b, err)
			}
		})
	}
}

// TestFeed_Unlisted: who starts is told of certificates that were revoked just now, since the CRL may not have them yet,
// and cannot go on from them as if all had been told.
func TestFeed_Unlisted(t *testing.T) {
	t.Parallel()
	var log recent
	now := time.Now()
	text := func(seq uint64) []byte {
		return revocation.Append(nil, revocation.CertificateEvent, new(fmt.Sprint(seq)), revocation.Certificate{Serial: fmt.Sprint(seq)})
	}
	log.add(make([]mark, 4), []event{
		{seq: 1, text: text(1), revoked: now.Add(-2 * unlisted)},
		{seq: 2, text: []byte("a token's")},
		{seq: 3, text: text(3), revoked: now},
	})
	found := log.unlisted(now.Add(-unlisted))
	want := revocation.Append(nil, revocation.CertificateEvent, nil, revocation.Certificate{Serial: "3"})
	if len(found) != 1 || string(found[0].withoutID()) != string(want) {
		t.Errorf("%d found, want %s", len(found), want)
	}
}

// TestFeed_Clients: the instant before which no token of a client counts is told as long as there may be any.
func TestFeed_Clients(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	now := time.Now()
	for id, ended := range map[string]time.Time{"never": {}, "lately": now.Add(-time.Minute), "long ago": now.Add(-2 * time.Hour)} {
		c := authserver.Client{ID: id, TokensNotBefore: ended}
		if _, err := f.store.PutClient(t.Context(), c, audit.Event{Time: now, Action: audit.ClientAdd, Subject: id}); err != nil {
			t.Fatal(err)
		}
	}
	l := f.listen("")
	l.want("reset client")
	c, err := f.store.Client(t.Context(), "never")
	if err != nil {
		t.Fatal(err)
	}
	c.Disabled, c.TokensNotBefore = true, now
	if _, err := f.store.PutClient(t.Context(), *c, audit.Event{Time: now, Action: audit.ClientDisable, Subject: "never"}); err != nil {
		t.Fatal(err)
	}
	f.Poke()
	l.want("client")
	f.listen("").want("reset client client")
}

// TestFeed_StoreAway: without a look at the log there is no heartbeat, and no listener begins.
func TestFeed_StoreAway(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	l := f.listen("")
	l.want("reset")
	f.away.Store(true)
	if _, err := f.Listen(t.Context(), ""); err == nil {
		t.Error("a listener begins though the log cannot be read")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*heartbeat)
	defer cancel()
	if b, err := l.Next(ctx, nil); err == nil {
		t.Errorf("told %s", b)
	}
	f.away.Store(false)
	f.revoke("one")
	l.want("token")
	f.Close()
	if _, err := l.Next(t.Context(), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// TestRecent_Bounds: what is remembered has a bound, and who is further behind cannot go on.
func TestRecent_Bounds(t *testing.T) {
	var log recent
	for i := range 5 * window / 1000 {
		marks := make([]mark, 1000)
		for k := range marks {
			marks[k] = mark{byte(i), byte(k), byte(k >> 8)}
		}
		log.add(marks, nil)
	}
	if len(log.marks) > 2*window+1000 || log.end() != 5*window-1 || log.has(position{1, nil}) || !log.has(position{log.end(), nil}) {
		t.Errorf("%d marks from %d to %d", len(log.marks), log.first, log.end())
	}
	log = recent{marks: []mark{{}}}
	for i := range uint64(5 * events) {
		log.add([]mark{{}}, []event{{seq: i + 1}})
	}
	if len(log.events) > 2*events || log.first+uint64(len(log.events)) != 5*events || log.after(log.first)[0].seq != log.first+1 {
		t.Errorf("%d events after %d", len(log.events), log.first)
	}
}
