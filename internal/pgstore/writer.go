package pgstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// maxBatch bounds the queue, and with it what one transaction takes.
const maxBatch = 1024

// change is what a request does in the writer's transaction, which may be another one's work too. It has three parts:
//
// touches names everything that the change reads and writes. Two changes that touch the same thing never share a
// transaction, so what one finds is never what another one of its transaction is about to write.
//
// read, if not nil, queues queries. They run once the head is locked, all in one round trip, and hand what they find to
// their callbacks; a callback returns no error but that of reading.
//
// apply decides by what was read. What it writes and seals through its argument is done when all changes of the
// transaction have been applied; if it returns an error, nothing is, and the others go on. It must not wait for
// anything. A change that writes must seal an event, by which a lost commit is found again.
//
// read and apply may run again, one after the other, of which only the last run counts.
type change struct {
	touches []string
	read    func(*reads)
	apply   func(*tx) error
}

// request is a change that waits for the writer.
type request struct {
	change
	state atomic.Int32  // waiting, then one of the other two
	done  chan struct{} // closed when err holds the outcome
	err   error
}

const (
	waiting   = iota
	taken     // by the writer
	withdrawn // by the caller, who waits no longer
)

// writer is the goroutine that writes whatever needs an audit entry. It gathers what waits into one transaction, so
// that a hundred callers at once share one commit, and a single one does not wait for company.
type writer struct {
	s     *Store
	queue chan *request
	idle  chan struct{} // closed when the writer has ended

	mu     sync.RWMutex // guards closed, and queue against being closed under a sender
	closed bool

	dial func(context.Context) (*pgx.Conn, error)
	conn *pgx.Conn // the goroutine's own; nil until it is needed

	committed atomic.Int64          // when the newest commit was, Unix ms
	failed    atomic.Pointer[error] // why the database would not take something, nil if it did since
}

func newWriter(s *Store) *writer {
	w := &writer{s: s, queue: make(chan *request, maxBatch), idle: make(chan struct{}), dial: s.dial}
	go w.run()
	return w
}

// close waits for what was accepted.
func (w *writer) close() {
	w.mu.Lock()
	w.closed = true
	close(w.queue)
	w.mu.Unlock()
	<-w.idle
}

// update has the writer make a change, and returns when that is durable. An error means that nothing was changed,
// unless it is ErrOutcomeUnknown.
//
// If ctx ends while the request waits, it is withdrawn, and so it is after queueTimeout. Once the writer took it,
// update stays for the outcome. A panic in the change is raised again here.
func (s *Store) update(ctx context.Context, c change) error {
	r := &request{change: c, done: make(chan struct{})}
	patience := time.NewTimer(queueTimeout)
	defer patience.Stop()
	if err := s.writer.submit(ctx, r, patience.C); err != nil {
		return err
	}
	err := error(nil)
	select {
	case <-r.done:
	case <-ctx.Done():
		err = ctx.Err()
	case <-patience.C:
		err = unavailable(errBusy)
	}
	if err != nil && r.state.CompareAndSwap(waiting, withdrawn) {
		return err
	}
	<-r.done
	if p, ok := errors.AsType[*panicError](r.err); ok {
		panic(p)
	}
	return r.err
}

var errBusy = errors.New("too many writes wait for it")

func (w *writer) submit(ctx context.Context, r *request, patience <-chan time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return ErrClosed
	}
	select {
	case w.queue <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-patience:
		return unavailable(errBusy)
	}
}

// run is the goroutine. It ends when the queue was closed and is empty.
func (w *writer) run() {
	defer close(w.idle)
	for r := range w.queue {
		w.gather()
		for batch := w.receive(r); len(batch) > 0; {
			var now []*request
			now, batch = apart(batch)
			if len(now) > 0 {
				w.process(now)
			}
		}
	}
	w.hangUp()
}

// gatherRounds bounds how often gather lets others run.
const gatherRounds = 4

// gather lets run who is ready to run, as long as that brings more requests: those whose wait the last commit ended
// soon come back. Nobody waits for a time to pass.
func (w *writer) gather() {
	for range gatherRounds {
		before := len(w.queue)
		if runtime.Gosched(); len(w.queue) == before {
			return
		}
	}
}

// receive returns r and what else waits by now. It never blocks: nobody else receives.
func (w *writer) receive(r *request) []*request {
	batch := []*request{r}
	for range len(w.queue) {
		batch = append(batch, <-w.queue)
	}
	return batch
}

// apart takes all that was not withdrawn, but for what touches something that a request before it touches: that goes on
// waiting, and may be withdrawn until its turn comes, since many that want the same thing take many transactions.
func apart(batch []*request) (now, later []*request) {
	touched := make(map[string]bool, len(batch))
	for _, r := range batch {
		if r.state.Load() == withdrawn {
			continue
		}
		free := true
		for _, thing := range r.touches {
			free = free && !touched[thing]
			touched[thing] = true
		}
		switch {
		case !free:
			later = append(later, r)
		case r.state.CompareAndSwap(waiting, taken):
			now = append(now, r)
		}
	}
	return now, later
}

// process carries out a batch: together if it can. If the database refuses a transaction for what is in it, each half
// is tried by itself, and so on, until the one that is to blame is alone and harms no other.
func (w *writer) process(batch []*request) {
	err := w.persist(batch)
	switch away := errors.Is(err, ErrUnavailable) || errors.Is(err, ErrOutcomeUnknown); {
	case away:
		w.failed.Store(&err)
	case err != nil && len(batch) > 1:
		w.process(batch[:len(batch)/2])
		w.process(batch[len(batch)/2:])
		return
	}
	for _, r := range batch {
		if err != nil {
			r.err = err
		}
		close(r.done)
	}
}

// writeTries bounds the attempts at a transaction. Where each fails at once, they take about a second.
const writeTries = 7

// persist tries to commit the work of a batch until it is, or it is time to give up. If it returns nil, each r.err is
// final; any other error is that of all.
func (w *writer) persist(batch []*request) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	for try := 0; ; try++ {
		err := w.attempt(ctx, batch)
		if err == nil || errors.Is(err, ErrOutcomeUnknown) {
			return err
		}
		w.hangUp()
		if !isPassing(err) && !errors.Is(err, errRolledBack) {
			return fmt.Errorf("writing to the database: %w", err)
		}
		if try == writeTries-1 || !pause(ctx, try) {
			return unavailable(err)
		}
	}
}

// pause waits a little longer with each try, and for a random time, so that nodes do not come back in step. It reports
// whether there is time for another try.
func pause(ctx context.Context, try int) bool {
	const first, most = 10 * time.Millisecond, 500 * time.Millisecond
	wait := min(first<<min(try, 10), most)
	select {
	case <-time.After(wait/2 + rand.N(wait)):
		return true
	case <-ctx.Done():
		return false
	}
}

// connected returns the writer's connection.
func (w *writer) connected(ctx context.Context) (*pgx.Conn, error) {
	if w.conn == nil || w.conn.IsClosed() {
		var err error
		if w.conn, err = w.dial(ctx); err != nil {
			w.conn = nil
			return nil, err
		}
	}
	return w.conn, nil
}

// hangUp ends the connection. The server rolls back what was not committed.
func (w *writer) hangUp() {
	if w.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = w.conn.Close(ctx) // whatever it says, it is not used again
	w.conn = nil
}

// panicError carries a panic from the writer to the caller whose change it was.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string {
	return fmt.Sprintf("panic in a store transaction: %v\n%s", p.value, p.stack)
}

func (r *request) run(t *tx) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v, debug.Stack()}
		}
	}()
	return r.apply(t)
}
