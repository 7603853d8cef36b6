package crl

import (
	"bytes"
	"log/slog"
	"maps"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// bench is a publisher over memory, with a clock that the test sets.
type bench struct {
	*Publisher
	ca  *testCA
	m   *memory
	now time.Time
	log bytes.Buffer
}

func newBench(t testing.TB) *bench {
	b := &bench{ca: newCA(t, "Issuing CA"), m: newMemory(), now: testNow}
	b.restart(t)
	return b
}

func (b *bench) restart(t testing.TB) {
	c := publisherConfig(b.ca, b.m)
	c.Now = func() time.Time { return b.now }
	c.Logger = slog.New(slog.NewTextHandler(&b.log, nil))
	b.Publisher = newPublisher(t, c)
}

// round is what Run does after a wake-up.
func (b *bench) round(t testing.TB) Signed {
	t.Helper()
	s, err := b.publish(t.Context(), b.shards[testShard], false)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// want checks the serial numbers on the newest list.
func (b *bench) want(t testing.TB, what string, want ...int64) {
	t.Helper()
	if got := serials(t, b.ca, b.round(t)); !slices.Equal(got, want) {
		t.Errorf("%s: %d on the list, want %d", what, got, want)
	}
}

// readsAll counts how often all revocations are read.
func (b *bench) readsAll() *int {
	n := new(int)
	b.m.beforeRevoked = func() error { *n++; return nil }
	return n
}

// Whatever is revoked, held, released and published, in whatever order, a list that was made of changes has the
// entries of one that a new process makes of all revocations.
func TestListOfChangesIsThatOfAFullReading(t *testing.T) {
	b := newBench(t)
	random := rand.New(rand.NewPCG(7, 8))
	reads := b.readsAll()
	held := map[int64]bool{}
	for step := range 400 {
		for range random.IntN(4) {
			serial := 1 + random.Int64N(60)
			switch action := random.IntN(6); {
			case held[serial] && action < 2:
				b.m.release(serial)
				delete(held, serial)
			case action < 4:
				b.m.revoke(serial, 6)
				held[serial] = true
			default:
				b.m.revoke(serial, random.IntN(6), b.now.Add(time.Duration(random.IntN(40)-5)*time.Minute))
				delete(held, serial)
			}
		}
		if step%7 == 0 {
			b.now = b.now.Add(time.Duration(random.IntN(8)-1) * time.Minute)
		}
		got := b.round(t)

		m := newMemory()
		m.revoked = maps.Clone(b.m.revoked)
		c := publisherConfig(b.ca, m)
		c.Now = func() time.Time { return b.shards[testShard].view.since }
		fresh := publish(t, newPublisher(t, c))
		if want := entriesIn(t, fresh); !bytes.Equal(entriesIn(t, got), want) {
			t.Fatalf("step %d: the list says\n%x, a new one\n%x", step, entriesIn(t, got), want)
		}
	}
	if *reads < 3 || *reads > 100 {
		t.Errorf("all was read %d times in 400 rounds", *reads)
	}
	if strings.Contains(b.log.String(), "level=ERROR") {
		t.Error(b.log.String())
	}
}

func entriesIn(t testing.TB, s Signed) []byte {
	t.Helper()
	l, err := split(s.DER)
	if err != nil {
		t.Fatal(err)
	}
	return l.entries.Bytes()
}

func TestHoldAndRelease(t *testing.T) {
	b := newBench(t)
	b.m.revoke(1, 6)
	b.m.revoke(2, 1)
	b.want(t, "held", 1, 2)
	b.m.release(1)
	b.want(t, "released", 2)
	b.m.revoke(1, 6)
	b.m.release(1)
	before, _ := b.Current(testShard)
	b.want(t, "held and released between two lists", 2)
	if now, _ := b.Current(testShard); now.Number != before.Number {
		t.Error("a list was signed although nothing is different")
	}
	b.m.revoke(1, 6)
	b.m.revoke(1, 1)
	b.want(t, "revoked after a hold", 1, 2)
	l, err := ParseAndVerify(b.round(t).DER.Bytes(), b.ca.cert, testURL, b.now)
	if err != nil {
		t.Fatal(err)
	}
	for e := range l.All() {
		if e.Reason != 1 {
			t.Errorf("reason %d of %x", e.Reason, e.Serial)
		}
	}
}

// Only what changed is read, but for the first list, one that is due, and once an hour.
func TestWhenAllIsRead(t *testing.T) {
	b := newBench(t)
	reads := b.readsAll()
	want := func(what string, n int) {
		t.Helper()
		b.round(t)
		if *reads != n {
			t.Errorf("%s: all was read %d times, want %d", what, *reads, n)
		}
	}
	want("the first list", 1)
	for n := range int64(5) {
		b.m.revoke(1+n, 1)
		want("a revocation", 1)
	}
	want("nothing new", 1)
	b.now = b.now.Add(30 * time.Minute) // of an hour
	want("a list that is due", 2)
	for range 5 { // so often that no list becomes due
		b.now = b.now.Add(10 * time.Minute)
		b.m.revoke(int64(100+b.now.Minute()), 1)
		want("revocations for less than an hour", 2)
	}
	b.now = b.now.Add(10 * time.Minute)
	want("an hour", 3)
	b.restart(t)
	want("a new process", 4)
	publish(t, b.Publisher)
	if *reads != 5 {
		t.Errorf("all was read %d times, want a list that says the same to be made of all", *reads)
	}
	b.m.revoke(7, 1)
	publish(t, b.Publisher)
	if *reads != 5 {
		t.Errorf("all was read %d times, want a list of what changed", *reads)
	}
	b.m.log = b.m.log[:3] // from a backup
	want("a log that is shorter than it was", 6)
	b.m.revoke(8, 1)
	b.m.dropped = uint64(len(b.m.log)) - 1 // all that was followed
	want("changes that were followed were dropped", 6)
	b.m.revoke(9, 1)
	b.m.revoke(10, 1)
	b.m.dropped = uint64(len(b.m.log)) - 1
	want("a change that was not followed was dropped", 7)
	b.want(t, "the list has it all the same", slices.Sorted(maps.Keys(b.all()))...)
}

// all are the serials of what is revoked.
func (b *bench) all() map[int64]bool {
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	out := map[int64]bool{}
	for _, e := range b.m.revoked {
		out[new(big.Int).SetBytes(e.Serial).Int64()] = true
	}
	return out
}

// What the log of changes kept back, a full reading finds. It mends the list and says so.
func TestFullReadingCountsMore(t *testing.T) {
	for what, spoil := range map[string]func(*bench){
		"lacked=1 had_too_many=0 said_otherwise=0": func(b *bench) { b.m.revoke(3, 1); b.m.log = b.m.log[:2] },
		"lacked=0 had_too_many=1 said_otherwise=0": func(b *bench) { b.m.release(2); b.m.log = b.m.log[:2] },
		"lacked=0 had_too_many=0 said_otherwise=1": func(b *bench) { b.m.revoke(2, 4); b.m.log = b.m.log[:2] },
		"lacked=1 had_too_many=1 said_otherwise=0": func(b *bench) { // an octet in memory
			der := b.shards[testShard].view.entries.blocks[0].der
			der[bytes.Index(der, []byte{tagInteger, 1, 2})+2] = 3
		},
	} {
		b := newBench(t)
		b.m.revoke(1, 1)
		b.m.revoke(2, 6)
		b.want(t, "at first", 1, 2)
		spoil(b)
		b.now = b.now.Add(31 * time.Minute)
		got := entriesIn(t, b.round(t))
		if log := b.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, what) {
			t.Errorf("logged %q, want %q", log, what)
		}
		b.log.Reset()
		b.restart(t)
		publish(t, b.Publisher)
		if held, _ := b.Current(testShard); !bytes.Equal(got, entriesIn(t, held)) || b.log.Len() > 0 {
			t.Errorf("%s: the list was not mended, or %q", what, b.log.String())
		}
	}
}

// What changes while all is read may be in it or not, and is on the list all the same; nobody calls that an error.
func TestChangesDuringAFullReading(t *testing.T) {
	b := newBench(t)
	b.m.revoke(1, 1)
	b.m.revoke(2, 6)
	b.want(t, "at first", 1, 2)
	b.now = b.now.Add(31 * time.Minute)
	b.m.beforeRevoked = func() error { b.m.revoke(3, 1); b.m.release(2); return nil } // seen by both readings
	b.want(t, "before all is read", 1, 3)
	b.now = b.now.Add(31 * time.Minute)
	b.m.beforeRevoked = nil
	b.m.afterRevoked = func() { b.m.revoke(2, 6); b.m.release(3); b.m.revoke(4, 1) } // by the changes alone
	b.want(t, "after all is read", 1, 2, 4)
	b.restart(t)
	b.m.afterRevoked = func() { b.m.revoke(5, 1) }
	b.want(t, "at the first reading", 1, 2, 4, 5)
	if strings.Contains(b.log.String(), "level=ERROR") {
		t.Error(b.log.String())
	}
}

func TestRevocationOfWhatExpires(t *testing.T) {
	b := newBench(t)
	b.m.revoke(1, 1, b.now.Add(time.Minute))
	b.m.revoke(2, 1, b.now.Add(-time.Minute))
	b.want(t, "one that is expired", 1)
	b.m.revoke(3, 1, b.now.Add(-time.Second))
	b.m.revoke(4, 1, b.now.Add(2*time.Minute))
	b.want(t, "another one that is expired", 1, 4)
	b.now = b.now.Add(31 * time.Minute)
	b.want(t, "on the first list after both expired", 1, 4)
	b.m.revoke(5, 1)
	b.want(t, "while only changes are read", 1, 4, 5)
	b.now = b.now.Add(31 * time.Minute)
	b.want(t, "on the second full one", 5)
	b.now = b.now.Add(-62 * time.Minute)
	b.want(t, "with the clock back", 1, 4, 5)
	if strings.Contains(b.log.String(), "level=ERROR") {
		t.Error(b.log.String())
	}
}

// Of two nodes, one reads everything earlier than the other, and drops what has expired.
func TestNodesAgreeOnWhatHasExpired(t *testing.T) {
	a := newBench(t)
	b := &bench{ca: a.ca, m: a.m, now: a.now}
	b.restart(t)
	a.m.revoke(1, 1, a.now.Add(time.Minute))
	a.m.revoke(2, 1)
	a.want(t, "one node", 1, 2)
	b.want(t, "the other", 1, 2)
	for minute := range 100 {
		a.now, b.now = a.now.Add(time.Minute), b.now.Add(time.Minute)
		if minute%10 == 0 { // the first node publishes so often that no list becomes due for it
			a.m.revoke(int64(10+minute), 1)
		}
		if minute == 45 {
			b.restart(t)
		}
		before := len(a.m.lists())
		for range 3 {
			a.round(t)
			b.round(t)
		}
		if n := len(a.m.lists()) - before; n > 3 {
			t.Errorf("minute %d: %d lists", minute, n)
		}
	}
	a.want(t, "at last", 2, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
	if log := a.log.String() + b.log.String(); strings.Contains(log, "level=ERROR") {
		t.Error(log)
	}
}

// A crash may cost a list's text, but not its number. Nothing is served until there is a new one, at once.
func TestListWhoseTextIsLost(t *testing.T) {
	b := newBench(t)
	b.m.revoke(1, 1)
	lost := b.round(t)
	lost.Number += 1 << 40
	lost.ThisUpdate = b.now
	lost.DER = nil
	b.m.newest[testShard] = lost
	b.restart(t)
	if latest, err := b.latest(t.Context(), b.shards[testShard]); err != nil || latest.Number != lost.Number {
		t.Fatalf("%d, %v", latest.Number, err)
	}
	if _, ok := b.Current(testShard); ok {
		t.Error("a list without a text is served")
	}
	next := b.round(t)
	if next.Number <= lost.Number || !slices.Equal(serials(t, b.ca, next), []int64{1}) {
		t.Errorf("list %d after %d", next.Number, lost.Number)
	}
	if b.shards[testShard].serving.Load().datable {
		t.Error("thisUpdate was taken for one that no list before had")
	}
}

// A list from the store and what the publisher knows take memory once.
func TestStoredListSharesBlocks(t *testing.T) {
	b := newBench(t)
	for i, r := range bigEntries(20_000) {
		e := r.entry()
		e.NotAfter = b.now.AddDate(1, 0, i%7)
		b.m.put(e)
	}
	s := b.round(t)
	s.DER = DER{s.DER.Bytes()}
	b.m.newest[testShard] = s
	b.restart(t)
	got := b.round(t)
	if !got.DER.Equal(s.DER) || got.Number != s.Number {
		t.Fatal("another list")
	}
	held := b.shards[testShard].serving.Load()
	for i, block := range b.shards[testShard].view.entries.blocks {
		if i < 3 && &held.entries[i][0] != &block.der[0] {
			t.Errorf("block %d is there twice", i)
		}
	}
	if len(held.DER) < 5 || cap(held.DER[0]) > 2000 || cap(held.DER[len(held.DER)-1]) > 2000 || !held.Signed.DER.Equal(slices.Concat(held.front, held.entries, held.back)) {
		t.Errorf("%d parts, the first of %d octets", len(held.DER), cap(held.DER[0]))
	}
}

// Rounds of one publisher come one after the other, and whoever waits for one gets a list with what it knows.
func TestPublishingAtOnce(t *testing.T) {
	b := newBench(t)
	var all sync.WaitGroup
	for i := range int64(8) {
		all.Go(func() {
			for n := range int64(10) {
				serial := 1 + 10*i + n
				b.m.revoke(serial, 1)
				s, err := b.Publish(t.Context(), testShard)
				if err != nil {
					t.Error(err)
				} else if !slices.Contains(serials(t, b.ca, s), serial) {
					t.Errorf("list %d lacks %d", s.Number, serial)
				}
			}
		})
	}
	all.Wait()
	if history := b.m.lists(); len(history) != 80 || !slices.IsSortedFunc(history, byNumber) {
		t.Errorf("%d lists", len(history))
	}
}

// A clock that is set back by less than makes a list be one from the future brings back what had expired by it.
func TestClockSetBackALittle(t *testing.T) {
	b := newBench(t)
	b.m.revoke(1, 1, b.now.Add(30*time.Second))
	b.m.revoke(2, 1)
	b.want(t, "before it expires", 1, 2)
	for range 2 {
		b.now = b.now.Add(40 * time.Second)
		publish(t, b.Publisher)
	}
	b.want(t, "after the first list that was signed after it had expired", 2)
	b.now = b.now.Add(-60 * time.Second)
	b.want(t, "when it has not expired after all", 1, 2)
}
