package feed

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/revocation"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// snapshot is what a listener who starts has to know: of tokens all, of certificates nothing, since the CRL tells.
type snapshot struct {
	notBefore time.Time
	clients   map[revocation.Hash]revocation.Client
	tokens    map[revocation.Hash]time.Time // until
}

// load reads what is true now, and the last entries of the log again. The end of the log is read first: what changes while
// the rest is read is then told once more by the entries after it.
func (f *Feed) load(ctx context.Context) error {
	f.loaded = false
	head, err := bounded(ctx, f.c.Log.AuditHead)
	if err != nil {
		return fmt.Errorf("reading the audit log's head: %w", err)
	}
	s, err := f.readSnapshot(ctx)
	if err != nil {
		return err
	}
	r, err := f.readBack(ctx, head)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.recent, f.snapshot, f.beginning = r, s, nil
	f.mu.Unlock()
	f.loaded, f.last, f.swept = true, head, f.now()
	return f.catchUp(ctx)
}

func (s snapshot) clone() snapshot {
	return snapshot{s.notBefore, maps.Clone(s.clients), maps.Clone(s.tokens)}
}

// readSnapshot reads the tokens that are revoked, and the clients whose tokens may still be about.
func (f *Feed) readSnapshot(ctx context.Context) (snapshot, error) {
	s := snapshot{clients: map[revocation.Hash]revocation.Client{}, tokens: map[revocation.Hash]time.Time{}}
	now := f.now()
	var err error
	if s.notBefore, err = bounded(ctx, f.c.Records.Restored); err != nil {
		return s, fmt.Errorf("reading when the store was restored: %w", err)
	}
	revoked, err := bounded(ctx, func(ctx context.Context) (map[[32]byte]time.Time, error) {
		return f.c.Records.RevokedTokens(ctx, now, present+1)
	})
	if err != nil {
		return s, fmt.Errorf("reading revoked tokens: %w", err)
	}
	for id, until := range revoked {
		s.tokens[id] = until
	}
	for after := ""; ; {
		clients, err := bounded(ctx, func(ctx context.Context) ([]*authserver.Client, error) { return f.c.Records.Clients(ctx, after, page) })
		if err != nil {
			return s, fmt.Errorf("reading clients: %w", err)
		}
		for _, c := range clients {
			if ev := clientEvent(c); ev.Until.After(now) {
				s.clients[ev.ID] = ev
			}
			after = c.ID
		}
		s.bound(now)
		if len(clients) < page {
			return s, nil
		}
	}
}

func clientEvent(c *authserver.Client) revocation.Client {
	return revocation.Client{
		ID: revocation.HashOf(c.ID), Disabled: c.Disabled, TokensNotBefore: c.TokensNotBefore.UTC(), Until: c.TokensNotBefore.Add(tokenLife).UTC(),
	}
}

// bound ends all tokens of before where there would be too many to tell of: clients get new ones.
func (s *snapshot) bound(now time.Time) {
	if len(s.clients)+len(s.tokens) > present {
		if all := now.Add(skew).UTC(); all.After(s.notBefore) {
			s.notBefore = all
		}
		clear(s.clients)
		clear(s.tokens)
	}
}

func (s *snapshot) sweep(now time.Time) {
	maps.DeleteFunc(s.clients, func(_ revocation.Hash, c revocation.Client) bool { return now.After(c.Until) })
	maps.DeleteFunc(s.tokens, func(_ revocation.Hash, until time.Time) bool { return now.After(until) })
}

// readBack reads the last entries up to head, as far as the log still has them and they follow from each other.
func (f *Feed) readBack(ctx context.Context, head audit.Head) (recent, error) {
	base, err := bounded(ctx, f.c.Log.AuditBase)
	if err != nil {
		return recent{}, fmt.Errorf("reading the audit log's base: %w", err)
	}
	first := max(base.Seq, head.Seq-min(head.Seq, back))
	r := recent{first: head.Seq, marks: []mark{markOf(head.Hash)}}
	var at audit.Head // the end of what r has; zero before the first entry
	for after := first; after < head.Seq; {
		entries, err := bounded(ctx, func(ctx context.Context) ([]audit.Entry, error) { return f.c.Log.Audit(ctx, after, page) })
		if err != nil {
			return r, fmt.Errorf("reading the audit log: %w", err)
		}
		for len(entries) > 0 && entries[len(entries)-1].Seq > head.Seq {
			entries = entries[:len(entries)-1] // since then
		}
		if len(entries) == 0 {
			break
		}
		for i := range entries {
			e := &entries[i]
			switch {
			case after == first && i == 0 && follows(audit.Head{Seq: e.Seq - 1, Hash: e.Prev}, entries[:1]):
				r = recent{first: e.Seq - 1, marks: []mark{markOf(e.Prev)}}
			case !follows(at, entries[i:i+1]): // nobody can go on over this one
				r = recent{first: e.Seq}
			}
			if err := f.append(ctx, &r, entries[i:i+1]); err != nil {
				return r, err
			}
			at = e.Head()
		}
		after = at.Seq
	}
	if r.end() != head.Seq || r.marks[len(r.marks)-1] != markOf(head.Hash) {
		return recent{first: head.Seq, marks: []mark{markOf(head.Hash)}}, nil
	}
	return r, nil
}

// append adds entries to r, and what they tell.
func (f *Feed) append(ctx context.Context, r *recent, entries []audit.Entry) error {
	told, _, err := f.resolve(ctx, entries)
	if err != nil {
		return err
	}
	r.add(marksOf(entries), told)
	return nil
}

func marksOf(entries []audit.Entry) []mark {
	marks := make([]mark, len(entries))
	for i := range entries {
		marks[i] = markOf(entries[i].Hash)
	}
	return marks
}

// together is how many entries are looked up at once, and told before the next.
const together = 32

// take tells what new entries tell, some at a time.
func (f *Feed) take(ctx context.Context, entries []audit.Entry) error {
	for len(entries) > 0 {
		n := some(entries)
		told, data, err := f.resolve(ctx, entries[:n])
		if err != nil {
			return err
		}
		f.last = entries[n-1].Head()
		f.tellOf(marksOf(entries[:n]), told, data)
		entries = entries[n:]
	}
	return nil
}

func (f *Feed) tellOf(marks []mark, told []event, data []any) {
	now := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recent.add(marks, told)
	for _, d := range data {
		f.snapshot.take(d)
	}
	f.snapshot.bound(now)
	if now.Sub(f.swept) > time.Minute {
		f.swept = now
		f.snapshot.sweep(now)
	}
	if len(told) > 0 {
		f.tell()
	}
}

// some returns how many of the entries come before so many tell something that it is time to tell it.
func some(entries []audit.Entry) int {
	telling := 0
	for i := range entries {
		if tells(entries[i].Action) {
			if telling++; telling == together {
				return i + 1
			}
		}
	}
	return len(entries)
}

func (s *snapshot) take(data any) {
	switch d := data.(type) {
	case revocation.Client:
		s.clients[d.ID] = d
	case revocation.Token:
		s.tokens[d.ID] = d.Until
	}
}

func tells(action string) bool {
	switch action {
	case audit.Revoke, audit.Hold, audit.Release, audit.ClientDisable, audit.ClientEnable, audit.TokenRevoke:
		return true
	}
	return false
}

// resolve makes events of those entries that tell something, looking up what they are about side by side.
func (f *Feed) resolve(ctx context.Context, entries []audit.Entry) (told []event, data []any, err error) {
	type result struct {
		entry *audit.Entry
		name  string
		data  any
		err   error
	}
	var results []*result
	for i := range entries {
		if tells(entries[i].Action) {
			results = append(results, &result{entry: &entries[i]})
		}
	}
	var wg sync.WaitGroup
	for _, r := range results {
		wg.Go(func() {
			r.name, r.data, r.err = f.about(ctx, r.entry)
		})
	}
	wg.Wait()
	for _, r := range results {
		switch {
		case r.err != nil:
			return nil, nil, fmt.Errorf("audit entry %d: %w", r.entry.Seq, r.err)
		case r.data != nil:
			id := position{r.entry.Seq, new(markOf(r.entry.Hash))}.String()
			e := event{seq: r.entry.Seq, text: revocation.Append(nil, r.name, &id, r.data)}
			if r.name == revocation.CertificateEvent {
				e.revoked = r.entry.Time
			}
			told = append(told, e)
			data = append(data, r.data)
		}
	}
	return told, data, nil
}

// about returns an entry's event; a nil one if it concerns nobody any more.
func (f *Feed) about(ctx context.Context, e *audit.Entry) (name string, data any, err error) {
	switch e.Action {
	case audit.TokenRevoke:
		until := e.Time.Add(tokenLife)
		if exact, err := time.Parse(time.RFC3339, e.Detail["until"]); err == nil {
			until = exact
		}
		return revocation.TokenEvent, revocation.Token{ID: revocation.HashOf(e.Subject), Until: until.UTC()}, nil
	case audit.ClientDisable, audit.ClientEnable:
		c, err := bounded(ctx, func(ctx context.Context) (*authserver.Client, error) { return f.c.Records.Client(ctx, e.Subject) })
		if errors.Is(err, authserver.ErrNoClient) {
			return "", nil, nil
		}
		if err != nil {
			return "", nil, fmt.Errorf("reading client %q: %w", e.Subject, err)
		}
		return revocation.ClientEvent, clientEvent(c), nil
	default:
		return f.aboutCertificate(ctx, e)
	}
}

func (f *Feed) aboutCertificate(ctx context.Context, e *audit.Entry) (name string, data any, err error) {
	serial, err := ca.ParseSerial(e.Subject)
	if err != nil {
		return "", nil, err
	}
	rec, err := bounded(ctx, func(ctx context.Context) (*ca.Record, error) { return f.c.Records.Certificate(ctx, serial) })
	if errors.Is(err, ca.ErrNotFound) { // pruned, long after it expired
		return "", nil, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("reading certificate %s: %w", serial, err)
	}
	status := map[string]string{audit.Revoke: revocation.Revoked, audit.Hold: revocation.Held, audit.Release: revocation.Good}[e.Action]
	return revocation.CertificateEvent, revocation.Certificate{
		Thumbprint: rec.Thumbprint, IssuerKeyID: hex.EncodeToString(f.c.IssuerKeyID(rec.Issuer)), Serial: serial.String(),
		Status: status, NotAfter: rec.NotAfter.UTC(),
	}, nil
}
