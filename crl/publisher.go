package crl

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultLifetime = time.Hour
	minLifetime     = 10 * time.Second
	maxLifetime     = 10 * 24 * time.Hour
	defaultTimeout  = 30 * time.Second // for one round

	sweep      = time.Minute            // a round at least this often: it finds what no wake-up told of
	breath     = 20 * time.Millisecond  // pause after a round, in which a burst of revocations gathers
	minBackoff = 100 * time.Millisecond // between rounds that fail
	maxBackoff = 2 * time.Second        // a list is late by this after what kept it from being published has ended, and by half as much again
	maxRounds  = 10                     // in a row that other nodes won
)

// PublisherConfig is what a Publisher needs. Shards, Store, Revocations and Signer are required.
type PublisherConfig struct {
	Shards      []PublishedShard
	Store       Store
	Revocations Revocations
	Signer      Signer

	// Lifetime is nextUpdate - thisUpdate: for so long a list is believed, and may a cache keep it. 10 s to
	// 240 h; 1 h if zero. When the CA is away, servers go on for what is left of it.
	Lifetime time.Duration
	// RenewBefore is how long before nextUpdate a list is signed anew; half the Lifetime if zero.
	RenewBefore time.Duration
	// Follow is how often the store is asked for lists that other nodes published, beside when Published tells of one.
	// Zero: never, for a store that no other node writes to.
	Follow time.Duration
	// Timeout bounds one round: reading the store, signing, writing. 30 s if zero.
	Timeout time.Duration

	// OnPublish is told of every list that this node published, before anyone else. It must not block.
	OnPublish func(Signed)
	Now       func() time.Time // time.Now if nil
	Logger    *slog.Logger     // slog.Default() if nil
}

// PublishedShard is a CRL to publish.
type PublishedShard struct {
	Shard  Shard
	URL    string            // where it is served, as the CRL distribution point of the certificates has it
	Issuer *x509.Certificate // whose key signs it
	// Whole makes the list one without IssuingDistributionPoint, which speaks of every certificate of its issuer: of those
	// too that name no CRL, or one of somebody else (RFC 5280 section 6.3.3 (b)). Such an issuer has this one shard, 0.
	Whole bool
	// DeltaURL, if set, is where the delta CRL is served (see DeltaURL and Publisher.ServeDelta). The full list names it,
	// and each list costs one signature more.
	DeltaURL string
}

// scope is the distribution point that the list must name; empty if it must not name any.
func (s *PublishedShard) scope() string {
	if s.Whole {
		return ""
	}
	return s.URL
}

// Publisher keeps CRLs up to date in a Store and serves them from memory. All methods may be called at once.
// It may share its Store with the Publishers of other nodes.
type Publisher struct {
	store       Store
	revocations Revocations
	signer      Signer
	lifetime    time.Duration
	renewBefore time.Duration
	follow      time.Duration
	timeout     time.Duration
	onPublish   func(Signed)
	now         func() time.Time
	log         *slog.Logger

	mu     sync.RWMutex // guards what follows
	shards map[Shard]*publication
	start  func(*publication) // has Run tend to one more; nil while Run does not run
}

// publication is one shard's state.
type publication struct {
	PublishedShard
	wake    chan struct{} // one token: there is work
	others  chan struct{} // one token: another node published
	turn    chan struct{} // held by whoever makes a round, one at a time; guards view, said, marks and settled
	view    *view         // nil before the first round
	said    *entries      // what stood on the newest list when a round last ended well
	marks   marks         // what deltas are made from; empty where there are none
	settled uint64        // the doubts that were there when everything was read last
	doubts  atomic.Uint64 // how often it was said that the log of changes may not be the one that view followed
	serving atomic.Pointer[served]

	compress chan *served // one list whose compressed form somebody asked for

	mu       sync.Mutex // guards what follows, and writing serving
	newest   time.Time  // the latest thisUpdate of any list of this shard that was seen
	asked    uint64     // wake-ups so far
	answered uint64     // of these, how many a finished round followed
	pending  time.Time  // since when there are unanswered ones; zero if there are none
	err      error      // of the last round
	expired  time.Time  // when the last certificate did; zero unless the shard is in retirement
}

// NewPublisher validates c. It reads and publishes nothing yet.
func NewPublisher(c PublisherConfig) (*Publisher, error) {
	if len(c.Shards) == 0 || c.Store == nil || c.Revocations == nil || c.Signer == nil {
		return nil, errors.New("crl: Shards, Store, Revocations and Signer are required")
	}
	p := &Publisher{
		store: c.Store, revocations: c.Revocations, signer: c.Signer,
		lifetime: cmp.Or(c.Lifetime, defaultLifetime), follow: c.Follow, timeout: cmp.Or(c.Timeout, defaultTimeout),
		onPublish: c.OnPublish, now: c.Now, log: cmp.Or(c.Logger, slog.Default()), shards: map[Shard]*publication{},
	}
	if p.now == nil {
		p.now = time.Now
	}
	if p.lifetime < minLifetime || p.lifetime > maxLifetime {
		return nil, fmt.Errorf("crl: lifetime %s: want %s to %s", p.lifetime, minLifetime, maxLifetime)
	}
	p.renewBefore = cmp.Or(c.RenewBefore, p.lifetime/2)
	if p.renewBefore < 0 || p.renewBefore >= p.lifetime {
		return nil, fmt.Errorf("crl: renewing %s before nextUpdate: want less than the lifetime, %s", p.renewBefore, p.lifetime)
	}
	if p.follow < 0 || p.timeout < 0 {
		return nil, errors.New("crl: Follow and Timeout must not be negative")
	}
	for _, shard := range c.Shards {
		s, err := newPublication(shard)
		if err != nil {
			return nil, err
		}
		if p.shards[s.Shard] != nil {
			return nil, fmt.Errorf("crl: shard %q twice", s.Shard)
		}
		p.shards[s.Shard] = s
	}
	return p, nil
}

// Changed says that a revocation, hold or release became durable. It does not block. The round that follows, in
// Run, sees the revocation; wake-ups that come during a round cause another one.
func (p *Publisher) Changed(shard Shard) {
	s := p.find(shard)
	if s == nil {
		p.log.Error("a certificate was revoked whose CRL is not published here; if it has not expired, servers do not know", "shard", shard.String())
		return
	}
	s.ask(p.now())
}

func (s *publication) ask(now time.Time) {
	s.mu.Lock()
	s.asked++
	if s.pending.IsZero() {
		s.pending = now
	}
	s.mu.Unlock()
	nudge(s.wake)
}

// nudge leaves a token in a channel of one. If there is one already, what it causes has not begun.
func nudge(tokens chan struct{}) {
	select {
	case tokens <- struct{}{}:
	default:
	}
}

// Published says that another node published a list, which is taken over from the store at once, and not only when
// Follow has passed. It does not block.
func (p *Publisher) Published(shard Shard) {
	if s := p.find(shard); s != nil {
		nudge(s.others)
	}
}

// Recheck causes a round for every shard in which all revocations are read: something may have changed that nobody told
// this node of, as while the store was away. A store that came back as an older copy of itself may have other changes by
// now at the positions that this node has followed already. It does not block.
func (p *Publisher) Recheck() {
	for _, s := range p.published() {
		s.doubts.Add(1)
		nudge(s.wake)
	}
}

// Run publishes what is missing or due, and then whenever Changed is called or a list is due again. It
// retries what fails, compresses what is asked for, and returns nil when ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	var running sync.WaitGroup
	p.mu.Lock()
	p.start = func(s *publication) { running.Go(func() { p.keep(ctx, s) }) }
	for _, s := range p.shards {
		p.start(s)
	}
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	p.start = nil
	p.mu.Unlock()
	running.Wait()
	return nil
}

// tend keeps one shard up to date until ctx ends or its retirement does. It takes the token of a wake-up before it begins the round,
// so that a wake-up during the round leaves another token, which causes another round.
func (p *Publisher) tend(ctx context.Context, s *publication) {
	backoff := minBackoff
	for ctx.Err() == nil && !p.leave(s) {
		_, err := p.publish(ctx, s, false)
		pause, wait := breath, min(sweep, p.untilDue(s))
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			p.log.Error("publishing a CRL failed; servers may not know of revocations", "shard", s.Shard.String(), "pending_since", s.pendingSince(), "error", err)
			pause, wait = minBackoff, backoff+rand.N(backoff/2)
			backoff = min(2*backoff, maxBackoff)
		default:
			backoff = minBackoff
		}
		sleep(ctx, pause)
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-time.After(wait):
		}
	}
}

// followOthers adopts what other nodes publish until ctx ends.
func (p *Publisher) followOthers(ctx context.Context, s *publication) {
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.others:
		case <-time.After(p.follow):
		}
		_, err := p.latest(ctx, s)
		if err != nil && !failing && ctx.Err() == nil {
			p.log.Error("reading the newest CRL from the store", "shard", s.Shard.String(), "error", err)
		}
		failing = err != nil
	}
}

// sleep reports whether the time has passed without ctx ending.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Current returns the newest list that this node knows; false before the first one.
func (p *Publisher) Current(shard Shard) (Signed, bool) {
	s := p.find(shard)
	if s == nil {
		return Signed{}, false
	}
	held := s.serving.Load()
	if held == nil {
		return Signed{}, false
	}
	return held.Signed, true
}

// ShardStatus is how a shard is doing. Number is zero before the first list.
type ShardStatus struct {
	Shard        Shard
	URL          string
	Number       uint64
	ThisUpdate   time.Time
	NextUpdate   time.Time
	Entries      int
	PendingSince time.Time // since when a revocation waits to be published; zero if none does
	Err          error     // of the last round; nil if it succeeded
	Due          time.Time // when the list is to be signed anew, whether or not anything is revoked
	Ended        bool      // the certificates have expired: this list is the last, and goes at its nextUpdate
}

// grace is how long a list may take to be published. Where all is well it takes some milliseconds.
const grace = 5 * time.Second

// Late returns since when a list is not published that should have been: one with a revocation, or one that was due
// anyway. It is zero if none is missing, or not for long enough to say so.
func (s *ShardStatus) Late(now time.Time) (since time.Time) {
	for _, at := range []time.Time{s.PendingSince, s.Due} {
		if !at.IsZero() && !s.Ended && now.Sub(at) > grace && (since.IsZero() || at.Before(since)) {
			since = at
		}
	}
	return since
}

// Status returns the state of every shard, in the order of Shards.
func (p *Publisher) Status() []ShardStatus {
	published := p.published()
	all := make([]ShardStatus, 0, len(published))
	for _, s := range published {
		st := ShardStatus{Shard: s.Shard, URL: s.URL}
		s.mu.Lock()
		st.PendingSince, st.Err = s.pending, s.err
		s.mu.Unlock()
		if held := s.serving.Load(); held != nil {
			st.Number, st.ThisUpdate, st.NextUpdate, st.Entries = held.Number, held.ThisUpdate, held.NextUpdate, held.count
			st.Due, st.Ended = held.NextUpdate.Add(-p.renewBefore), s.ended(held)
		}
		all = append(all, st)
	}
	return all
}
