package feed

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/revocation"
)

// TestFollows: entries go on from where the log was if each has the next number, the hash of the one before, and can be
// read.
func TestFollows(t *testing.T) {
	first := audit.Seal(audit.Head{Seq: 4, Hash: audit.Hash{1}}, audit.Event{Action: audit.Issue, Subject: "x"})
	second := audit.Seal(first.Head(), audit.Event{Action: audit.Revoke, Subject: "x"})
	change := func(e audit.Entry, with func(*audit.Entry)) audit.Entry { with(&e); return e }
	for name, entries := range map[string][]audit.Entry{
		"one is missing":                {second},
		"the first's number is another": {change(first, func(e *audit.Entry) { e.Seq++ })},
		"a later one's number is":       {first, change(second, func(e *audit.Entry) { e.Seq++ })},
		"of another log":                {change(first, func(e *audit.Entry) { e.Prev = audit.Hash{2} })},
		"not readable":                  {first, change(second, func(e *audit.Entry) { e.Action = "" })},
		"a restore":                     {change(first, func(e *audit.Entry) { e.Action = audit.Restore }), second},
	} {
		if follows(audit.Head{Seq: 4, Hash: audit.Hash{1}}, entries) {
			t.Errorf("%s: it goes on", name)
		}
	}
	if !follows(audit.Head{Seq: 4, Hash: audit.Hash{1}}, []audit.Entry{first, second}) {
		t.Error("it does not go on with what follows")
	}
}

// many has more revoked tokens than a listener is told of.
type many struct {
	*boltstore.Store
	restored time.Time
}

func (m many) RevokedTokens(_ context.Context, now time.Time, limit int) (map[[32]byte]time.Time, error) {
	all := map[[32]byte]time.Time{}
	for i := range limit {
		all[tokenNumber(i)] = now.Add(time.Minute)
	}
	return all, nil
}

func (m many) Restored(context.Context) (time.Time, error) { return m.restored, nil }

func tokenNumber(i int) (id [32]byte) {
	binary.BigEndian.PutUint64(id[:], uint64(i))
	return id
}

func newFeedOf(store *boltstore.Store, r Records) *Feed {
	return New(Config{Log: store, Records: r, IssuerKeyID: func(string) []byte { return nil }, Logger: slog.New(slog.DiscardHandler)})
}

// TestFeed_TooMany: in place of more than can be told, all tokens of before end; a restore's instant is not taken back by it.
func TestFeed_TooMany(t *testing.T) {
	t.Parallel()
	store := openStore(t)
	for _, restored := range []time.Time{{}, time.Now().Add(time.Hour).UTC()} {
		f := newFeedOf(store, many{store, restored})
		now := time.Now()
		if err := f.load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := f.snapshot; len(got.tokens) != 0 || !got.notBefore.After(now) || got.notBefore.Before(restored) {
			t.Errorf("restored at %s: %d tokens, and none counts from before %s", restored, len(got.tokens), got.notBefore)
		}
		end := now.Add(time.Minute)
		f.snapshot.notBefore = time.Time{}
		for i := range present {
			f.snapshot.tokens[tokenNumber(i)] = end
		}
		f.tellOf([]mark{{1}}, nil, []any{revocation.Token{ID: tokenNumber(present), Until: end}})
		if got := f.snapshot; len(got.tokens) != 0 || !got.notBefore.After(now) {
			t.Errorf("one more: %d tokens, and none counts from before %s", len(got.tokens), got.notBefore)
		}
	}
}

// TestFeed_Remembers: what is told is what later listeners are told first, until it concerns nobody.
func TestFeed_Remembers(t *testing.T) {
	t.Parallel()
	store := openStore(t)
	f := newFeedOf(store, store)
	if err := f.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	token, client := revocation.HashOf("a"), revocation.HashOf("b")
	f.tellOf([]mark{{1}}, nil, []any{
		revocation.Token{ID: token, Until: now.Add(time.Minute)}, revocation.Client{ID: client, Disabled: true, Until: now.Add(time.Minute)},
	})
	if s := f.snapshot; s.tokens[token].IsZero() || !s.clients[client].Disabled {
		t.Errorf("forgotten: %+v", s)
	}
	f.now = func() time.Time { return now.Add(2 * time.Minute) }
	f.tellOf([]mark{{2}}, nil, nil)
	if s := f.snapshot; len(s.tokens)+len(s.clients) != 0 {
		t.Errorf("remembered for good: %+v", s)
	}
}

// TestFeed_Beginnings: many who know nothing have what they are told in common, as long as little is to be told after it,
// and what they are told comes in pieces.
func TestFeed_Beginnings(t *testing.T) {
	t.Parallel()
	store := openStore(t)
	f := newFeedOf(store, store)
	if err := f.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(time.Minute)
	tell := func(n, from int) {
		marks, events, data := make([]mark, n), make([]event, n), make([]any, n)
		for i := range n {
			token := revocation.Token{ID: tokenNumber(from + i), Until: end}
			data[i], events[i] = token, event{seq: f.recent.end() + uint64(i) + 1, text: revocation.Append(nil, revocation.TokenEvent, nil, token)}
		}
		f.tellOf(marks, events, data)
	}
	tell(page, 0)
	f.tellOf([]mark{{}}, []event{{seq: f.recent.end() + 1, text: []byte("event: certificate\nid: 7.aa\ndata: {}\n\n"), revoked: time.Now()}}, nil)
	first := f.begin()
	tell(page-1, page)
	if again := f.begin(); again != first {
		t.Error("two beginnings though little has happened")
	}
	tell(1, 2*page-1)
	last := f.begin()
	if last == first || last.at.seq != f.recent.end() {
		t.Errorf("a beginning at %d, of %d entries", last.at.seq, f.recent.end())
	}
	if n := bytes.Count(last.text, []byte("event: token\n")); n != 2*page || !bytes.HasSuffix(last.text, []byte("event: certificate\ndata: {}\n\n")) {
		t.Errorf("%d tokens, and at the end %q", n, last.text[len(last.text)-40:])
	}
	f.recent = recent{first: f.recent.end(), marks: []mark{{7}}}
	if f.begin() == last {
		t.Error("a beginning at an entry of another log")
	}

	l := &Listener{f: f}
	l.begin(nil)
	var got []byte
	for piece := 0; len(l.rest) > 0 || piece == 0; piece++ {
		b, _, err := l.take(nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 2*chunk {
			t.Errorf("%d octets at once", len(b))
		}
		got = append(got, b...)
	}
	if n := bytes.Count(got, []byte("event: token\n")); n != 2*page || !bytes.HasPrefix(got, []byte("event: reset\nid: \n")) {
		t.Errorf("%d tokens, begun by %.40q", n, got)
	}
}

// TestFeed_ReadBack: the end of the log is gone on from as far as its entries lead up to it, and from it alone otherwise.
func TestFeed_ReadBack(t *testing.T) {
	t.Parallel()
	store := openStore(t)
	f := newFeedOf(store, store)
	for i := range 3 {
		revokeIn(t, store, fmt.Sprint(i))
	}
	head, err := store.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.readBack(t.Context(), head)
	if err != nil || r.first != 0 || r.end() != head.Seq || len(r.events) != 3 {
		t.Errorf("from %d to %d, %d events, %v", r.first, r.end(), len(r.events), err)
	}
	other := audit.Head{Seq: head.Seq, Hash: audit.Hash{1}}
	r, err = f.readBack(t.Context(), other)
	if err != nil || r.first != head.Seq || len(r.marks) != 1 || r.marks[0] != markOf(other.Hash) || len(r.events) != 0 {
		t.Errorf("another head: from %d, %d marks, %d events, %v", r.first, len(r.marks), len(r.events), err)
	}
}

// TestListener_TooFarBehind: who is behind what is remembered is told so, and not what comes after a gap.
func TestListener_TooFarBehind(t *testing.T) {
	t.Parallel()
	store := openStore(t)
	f := newFeedOf(store, store)
	f.recent = recent{first: 5, marks: []mark{{5}, {6}}, events: []event{{seq: 6, text: []byte("x")}}}
	for name, at := range map[string]position{"before": {4, new(mark)}, "of another log": {5, &mark{9}}, "beyond": {7, new(mark)}} {
		l := &Listener{f: f, at: at}
		if b, _, err := l.take(nil); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: told %q, %v", name, b, err)
		}
	}
}
