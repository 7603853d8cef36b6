package feed

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pkid/pkid/revocation"
)

// chunk is how many octets are handed to a listener at once, about.
const chunk = 64 << 10

// Listener is one reader of the feed, for one goroutine.
type Listener struct {
	f     *Feed
	at    position
	first []byte    // what is to be sent before all else
	rest  []byte    // and then this, which others are sent too
	beat  time.Time // when the last heartbeat was sent
}

// ErrPosition: the id that a listener wants to go on from is none of the stream's.
var ErrPosition = errors.New("not an id of the stream of revocations: send one as it came, the number of an audit entry, or none")

// Listen lets a listener go on after an id of the stream; an empty one is a listener who knows nothing. It first looks
// at the log, so that the listener misses nothing that was acknowledged before, on any node. Close must be called.
func (f *Feed) Listen(ctx context.Context, id string) (*Listener, error) {
	var from *position
	if id != "" {
		p, ok := parsePosition(id)
		if !ok {
			return nil, ErrPosition
		}
		from = &p
	}
	f.mu.Lock()
	f.listeners++
	want := f.begun + 1
	f.mu.Unlock()
	l := &Listener{f: f}
	if err := f.await(ctx, want); err != nil {
		l.Close()
		return nil, err
	}
	if !l.goOn(from) {
		l.begin(from)
	}
	return l, nil
}

// goOn reports whether the listener can go on from where it was.
func (l *Listener) goOn(from *position) bool {
	f := l.f
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts.streams++
	if from != nil && f.recent.has(*from) {
		l.at = *from
		return true
	}
	f.counts.resets++
	return false
}

// begin has the listener told everything.
func (l *Listener) begin(from *position) {
	reason := "new"
	if from != nil {
		reason = "gap"
	}
	b := l.f.begin()
	l.at, l.rest = b.at, b.text
	l.first = revocation.Append(nil, revocation.ResetEvent, new(""), revocation.Reset{Reason: reason, TokensNotBefore: b.notBefore})
}

// beginning is everything that a listener has to know who knows nothing, as of a position. However many there are, and
// however slowly they read, they have it in common.
type beginning struct {
	at        position
	notBefore time.Time
	text      []byte
}

// begin returns a beginning, after which not much is left to be told.
func (f *Feed) begin() *beginning {
	f.making.Lock()
	defer f.making.Unlock()
	f.mu.Lock()
	if b := f.beginning; b != nil && f.recent.has(b.at) && len(f.recent.after(b.at.seq)) < page {
		f.mu.Unlock()
		return b
	}
	b := &beginning{at: f.recent.at(f.recent.end()), notBefore: f.snapshot.notBefore}
	known, late := f.snapshot.clone(), f.recent.unlisted(f.now().Add(-unlisted))
	f.mu.Unlock()
	b.text = known.append(nil)
	for i := range late {
		b.text = append(b.text, late[i].withoutID()...)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.beginning = b
	return b
}

// await waits for a look that begins from now on.
func (f *Feed) await(ctx context.Context, want uint64) error {
	f.Poke()
	for {
		f.mu.Lock()
		done, err, changed := f.done, f.err, f.changed
		f.mu.Unlock()
		if done >= want {
			return err
		}
		select {
		case <-changed:
		case <-f.closed:
			return ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// append appends what there is to know of clients and tokens.
func (s *snapshot) append(b []byte) []byte {
	for _, c := range s.clients {
		b = revocation.Append(b, revocation.ClientEvent, nil, c)
	}
	for id, until := range s.tokens {
		b = revocation.Append(b, revocation.TokenEvent, nil, revocation.Token{ID: id, Until: until.UTC()})
	}
	return b
}

// Next waits until there is something to send, and returns it: events, or a heartbeat. The octets are the caller's until
// the next call. The error is ErrClosed, or that of ctx.
func (l *Listener) Next(ctx context.Context, buf []byte) ([]byte, error) {
	f := l.f
	for {
		b, changed, err := l.take(buf[:0])
		if err != nil || len(b) > 0 {
			return b, err
		}
		select {
		case <-changed: // as it is after each look, which also is what heartbeats need
		case <-f.closed:
			err = ErrClosed
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
	}
}

// take returns what there is to send now.
func (l *Listener) take(b []byte) ([]byte, <-chan struct{}, error) {
	f := l.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.recent.has(l.at) {
		return nil, nil, fmt.Errorf("%w: it is too far behind", ErrClosed)
	}
	b, l.first = append(b, l.first...), nil
	if n := min(len(l.rest), chunk); n > 0 {
		b, l.rest = append(b, l.rest[:n]...), l.rest[n:]
		if len(l.rest) > 0 {
			f.counts.octets += uint64(len(b))
			return b, f.changed, nil
		}
	}
	for _, e := range f.recent.after(l.at.seq) {
		if len(b) >= chunk {
			f.counts.octets += uint64(len(b))
			return b, f.changed, nil
		}
		b = append(b, e.text...)
		l.at = f.recent.at(e.seq)
	}
	// All was told that there was when the log was last looked at. A heartbeat says so, if that was since the one before.
	now := f.now()
	if f.looked.After(l.beat) && (len(b) > 0 || now.Sub(l.beat) >= heartbeat) {
		l.at, l.beat = f.recent.at(f.recent.end()), now
		id := l.at.String()
		b = revocation.Append(b, revocation.HeartbeatEvent, &id, revocation.Heartbeat{Every: int(heartbeat / time.Second)})
	}
	f.counts.octets += uint64(len(b))
	return b, f.changed, nil
}

// Close ends listening.
func (l *Listener) Close() {
	f := l.f
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listeners--
	f.left = f.now()
}
