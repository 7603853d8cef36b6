// Package feed reads the audit log as it grows and tells those who listen what was revoked by it: certificates, tokens,
// and clients with their tokens (docs/design/019-revocation-stream.md).
//
// Every revocation is an audit entry in the transaction that makes it, whichever node that is on, and entries are numbered
// without a gap in the order in which they became durable. So who reads the log after a number misses nothing.
package feed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/tokenbind/authserver"
)

const (
	lookEvery = 250 * time.Millisecond // for what nobody poked about
	lookPause = 10 * time.Millisecond  // between two looks, however many poke
	lookLimit = 10 * time.Second       // for one step of a look
	linger    = time.Minute            // after the last listener left

	page    = 1000    // entries that are read at once
	back    = 10_000  // entries that are read again at the start, for those who listened before
	window  = 100_000 // entries behind the end that can be gone on from
	events  = 10_000  // and how many of them may tell something
	present = 50_000  // tokens and clients that a listener who starts is told of one by one

	// heartbeat is how often a listener hears that there is nothing new.
	heartbeat = 2 * time.Second
	// tokenLife is how long a token can be taken at the most, all clocks considered.
	tokenLife = time.Hour + 2*time.Minute
	// skew is by how much the clocks of nodes may be apart.
	skew = 10 * time.Second
	// unlisted is for how long the newest CRL may be without a certificate that was revoked.
	unlisted = time.Minute
)

// Log is the audit log; the stores implement it.
type Log interface {
	Audit(ctx context.Context, after uint64, limit int) ([]audit.Entry, error)
	AuditHead(ctx context.Context) (audit.Head, error)
	AuditBase(ctx context.Context) (audit.Head, error)
}

// Records are what the log's entries are about; the stores implement it.
type Records interface {
	// Certificate returns a record, or ca.ErrNotFound.
	Certificate(ctx context.Context, serial ca.Serial) (*ca.Record, error)
	// Client returns a record, or authserver.ErrNoClient.
	Client(ctx context.Context, id string) (*authserver.Client, error)
	// Clients returns records in the order of their ids, those after the given id, at most limit.
	Clients(ctx context.Context, after string, limit int) ([]*authserver.Client, error)
	// RevokedTokens returns until when revoked tokens count, by the SHA-256 of their ids: at most limit of those that
	// have not expired by now.
	RevokedTokens(ctx context.Context, now time.Time, limit int) (map[[32]byte]time.Time, error)
	// Restored returns when the store was last brought back from a backup; zero if it never was.
	Restored(ctx context.Context) (time.Time, error)
}

// Config is what a Feed needs. All of it is required but Logger and Now.
type Config struct {
	Log     Log
	Records Records
	// IssuerKeyID returns the subject key identifier of an issuing CA, nil if it is not known.
	IssuerKeyID func(issuer string) []byte
	Logger      *slog.Logger     // nil: slog.Default()
	Now         func() time.Time // nil: time.Now
}

// Feed is read by all who listen. It looks at the log only while there are any, and for a minute after.
type Feed struct {
	c      Config
	log    *slog.Logger
	now    func() time.Time
	poked  chan struct{} // one token: look
	closed chan struct{}
	once   sync.Once

	// of Run alone
	loaded bool
	last   audit.Head // the end of what was read
	swept  time.Time

	mu        sync.Mutex // guards what follows, which only Run and Listeners' own counts change
	recent    recent
	snapshot  snapshot
	beginning *beginning    // nil, or what new listeners are told for as long as it can be gone on from
	changed   chan struct{} // closed after each look, and when there is something to tell
	begun     uint64        // looks
	done      uint64        // the newest look that ended
	err       error         // its
	looked    time.Time     // when the newest look that succeeded began
	listeners int
	left      time.Time // when the last of them did
	counts    counts

	making sync.Mutex // held by whoever makes a beginning
}

type counts struct{ streams, resets, octets uint64 }

// ErrClosed: the feed has ended, or the listener is too far behind what is remembered. It can listen anew.
var ErrClosed = errors.New("the stream of revocations ends here; go on from the last id")

// New makes a Feed. Run must run for anybody to hear anything.
func New(c Config) *Feed {
	f := &Feed{
		c: c, log: cmp.Or(c.Logger, slog.Default()), now: c.Now,
		poked: make(chan struct{}, 1), closed: make(chan struct{}), changed: make(chan struct{}),
	}
	if f.now == nil {
		f.now = time.Now
	}
	return f
}

// Poke says that there may be something new. It never blocks.
func (f *Feed) Poke() {
	select {
	case f.poked <- struct{}{}:
	default:
	}
}

// Close ends every stream; it may be called more than once.
func (f *Feed) Close() { f.once.Do(func() { close(f.closed) }) }

// Run looks at the log until ctx ends, and then ends every stream.
func (f *Feed) Run(ctx context.Context) {
	defer f.Close()
	tick := time.NewTimer(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.closed:
			return
		case <-f.poked:
		case <-tick.C:
		}
		if f.wanted() {
			f.look(ctx)
			tick.Reset(lookEvery)
			rest(ctx, lookPause)
		}
	}
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// wanted reports whether anybody listens, or did a moment ago; otherwise it forgets everything.
func (f *Feed) wanted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listeners > 0 || f.now().Sub(f.left) < linger && f.loaded {
		return true
	}
	f.loaded, f.recent, f.snapshot, f.beginning = false, recent{}, snapshot{}, nil
	return false
}

// look reads what is new.
func (f *Feed) look(ctx context.Context) {
	f.mu.Lock()
	f.begun++
	at := f.now()
	f.mu.Unlock()
	err := f.catchUp(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil && ctx.Err() == nil && (f.err == nil || f.err.Error() != err.Error()) {
		f.log.ErrorContext(ctx, "the stream of revocations stands still", "err", err)
	}
	f.done, f.err = f.begun, err
	if err == nil {
		f.looked = at
	}
	f.tell()
}

// tell wakes who listens. The caller holds f.mu.
func (f *Feed) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// catchUp reads to the end of the log. Where the log does not go on from where it was, all is read anew.
func (f *Feed) catchUp(ctx context.Context) error {
	if !f.loaded {
		return f.load(ctx)
	}
	for {
		after := f.last.Seq
		entries, err := bounded(ctx, func(ctx context.Context) ([]audit.Entry, error) { return f.c.Log.Audit(ctx, after, page) })
		if err != nil {
			return fmt.Errorf("reading the audit log: %w", err)
		}
		goesOn := follows(f.last, entries)
		if len(entries) == 0 {
			if goesOn, err = f.stands(ctx); err != nil {
				return err
			}
		}
		if !goesOn {
			f.log.WarnContext(ctx, "the audit log does not go on from where it was; the stream of revocations starts over", "after", after)
			return f.load(ctx)
		}
		if err := f.take(ctx, entries); err != nil {
			return err
		}
		if len(entries) < page {
			return nil
		}
	}
}

// stands reports whether the log still has the end of what was read. It has not if a standby took over that lacks the
// newest entries, or the store was brought back from a backup underneath; then other entries get those numbers.
func (f *Feed) stands(ctx context.Context) (bool, error) {
	head, err := bounded(ctx, f.c.Log.AuditHead)
	if err != nil {
		return false, fmt.Errorf("reading the audit log's head: %w", err)
	}
	return head == f.last || head.Seq > f.last.Seq, nil // the next look reads what came since
}

// follows reports whether entries go on from head, and whether each of them can be read. What a restore from a backup
// changed no entry tells.
func follows(head audit.Head, entries []audit.Entry) bool {
	for i := range entries {
		e := &entries[i]
		if e.Seq != head.Seq+1 || e.Prev != head.Hash || e.Action == "" || e.Action == audit.Restore {
			return false
		}
		head = e.Head()
	}
	return true
}

// bounded gives one step of a look its time.
func bounded[T any](ctx context.Context, do func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	return do(ctx)
}

// WriteMetrics writes the Prometheus text format.
func (f *Feed) WriteMetrics(w io.Writer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	lag := 0.0
	if f.listeners > 0 && !f.looked.IsZero() {
		lag = f.now().Sub(f.looked).Seconds()
	}
	for _, m := range []struct {
		name, kind, help string
		value            float64
	}{
		{"streams", "gauge", "Streams of revocations that are open.", float64(f.listeners)},
		{"streams_total", "counter", "Streams begun.", float64(f.counts.streams)},
		{"stream_resets_total", "counter", "Streams that could not go on from where their reader was.", float64(f.counts.resets)},
		{"stream_octets_total", "counter", "Octets sent on them.", float64(f.counts.octets)},
		{"stream_entry", "gauge", "Number of the newest audit entry that was looked at for them; 0 while nobody listens.", float64(f.recent.end())},
		{"stream_lag_seconds", "gauge", "Time since the audit log was last looked at for them.", lag},
	} {
		fmt.Fprintf(w, "# HELP pkid_revocation_%s %s\n# TYPE pkid_revocation_%[1]s %[3]s\npkid_revocation_%[1]s %[4]g\n", m.name, m.help, m.kind, m.value)
	}
}
