package boltstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
)

// maxBatch bounds the queue, and with it what one transaction takes. A caller that finds the queue full
// waits, or gives up with its ctx.
const maxBatch = 1024

// ErrInDoubt: the disk failed in the one moment of a commit after which nobody can tell whether it will be
// there after a restart. Nothing more is written until then.
var ErrInDoubt = errors.New("the disk failed during a commit: restart pkid once it is well")

// request is a change that waits for the writer.
type request struct {
	change func(*tx) error
	state  atomic.Int32  // waiting, then one of the other two
	done   chan struct{} // closed when err holds the outcome
	err    error
}

const (
	waiting   = iota
	taken     // by the writer
	withdrawn // by the caller, whose ctx ended
)

// update has the writer run change in a transaction, and returns when that is durable. change should check
// before it writes, must not keep what it read, and may run twice, of which only the last run counts.
//
// If ctx ends while the request waits, it is withdrawn. Once the writer took it, update stays for the outcome,
// so an error always means that nothing was changed. A panic in change is raised again here.
func (s *Store) update(ctx context.Context, change func(*tx) error) error {
	r := &request{change: change, done: make(chan struct{})}
	if err := s.submit(ctx, r); err != nil {
		return err
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if r.state.CompareAndSwap(waiting, withdrawn) {
			return ctx.Err()
		}
		<-r.done
	}
	if p, ok := errors.AsType[*panicError](r.err); ok {
		panic(p)
	}
	return r.err
}

func (s *Store) submit(ctx context.Context, r *request) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return ErrClosed
	}
	select {
	case s.queue <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write is the writer. It ends when the queue was closed and is empty.
func (s *Store) write() {
	defer close(s.idle)
	debug.SetPanicOnFault(true)
	for r := range s.queue {
		s.gather()
		if batch := s.take(r); len(batch) > 0 {
			s.process(batch)
		}
	}
}

// gatherRounds bounds how often gather lets others run. Of 32 callers that work for 100 us between two inserts, on two
// cores, 19 instead of 13 share a transaction like this; more rounds add none.
const gatherRounds = 4

// gather lets run who is ready to run, as long as that brings more requests. A commit ends the wait of all who were in
// it, and most of them soon come back: the processor, which the next commit would take from them, is theirs first.
// Nobody waits for a time to pass; where nobody else runs, this takes no time.
func (s *Store) gather() {
	for range gatherRounds {
		before := len(s.queue)
		if runtime.Gosched(); len(s.queue) == before {
			return
		}
	}
}

// take returns r and what else waits by now, but for what was withdrawn. It never blocks: nobody else receives.
func (s *Store) take(r *request) []*request {
	var batch []*request
	for more := len(s.queue); ; more-- {
		if r.state.CompareAndSwap(waiting, taken) {
			batch = append(batch, r)
		}
		if more == 0 {
			return batch
		}
		r = <-s.queue
	}
}

// process carries out a batch: together if it can, else one by one.
//
// A request that failed may stay in a transaction only if it wrote nothing, so that what is committed is
// exactly the work of those that succeeded. One that wrote before it failed spoils the transaction: all of it
// is rolled back, and each request runs again in a transaction of its own, where its failure harms no other.
func (s *Store) process(batch []*request) {
	if !s.together(batch) {
		for _, r := range batch {
			s.together([]*request{r})
		}
	}
	for _, r := range batch {
		close(r.done)
	}
}

// together runs requests in one transaction. It reports false, with nothing changed and no outcome valid, if
// one of several failed after it wrote. Otherwise each r.err is final: what a request found, be it success or
// an error, may rest on what another one wrote, so if the commit fails all of them fail.
func (s *Store) together(batch []*request) bool {
	err := s.transact(func(t *tx) error {
		for _, r := range batch {
			before := t.writes
			if r.err = s.run(r, t); r.err != nil && t.writes != before {
				return errSpoiled
			}
			if err := s.broken(); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, errSpoiled):
		return len(batch) == 1 // alone it keeps the error that it failed with
	case err != nil:
		for _, r := range batch {
			r.err = err
		}
	}
	return true
}

var errSpoiled = errors.New("a request failed after it wrote")

// transact runs work in a transaction, and commits if it returns nil and wrote something.
func (s *Store) transact(work func(*tx) error) (err error) {
	if s.inDoubt != nil {
		return s.inDoubt
	}
	if err := s.broken(); err != nil {
		return err
	}
	defer s.catch(&err)
	b, err := s.db.Begin(true)
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	defer b.Rollback() //nolint:errcheck // after a commit there is nothing left to roll back
	t := &tx{b: b, patterns: s.patterns.Load(), newest: s.newest.Load(), sound: &s.sound}
	if err := t.loadHead(); err != nil {
		return err
	}
	if err := work(t); err != nil || t.writes == 0 {
		return err
	}
	if err := errors.Join(t.storeHead(), t.storeCounts()); err != nil {
		return err
	}
	now, err := t.index()
	if err != nil {
		return err
	}
	if err := s.commit(b); err != nil {
		return err
	}
	s.patterns.Store(t.patterns)
	s.newest.Store(now)
	return nil
}

// commit makes b durable. bbolt writes and syncs the data first and the page that makes it current last, so
// an error before that last page, a full disk above all, leaves the store as it was. If that page was written
// but could not be synced, the file now shows a transaction that a restart may lose: then nothing more is
// written, so that nothing can build on it.
func (s *Store) commit(b *bolt.Tx) error {
	id := b.ID()
	err := b.Commit()
	if err == nil {
		s.unwritable.Store(nil)
		return nil
	}
	err = fmt.Errorf("committing: %w", err)
	s.unwritable.Store(&err)
	visible := s.db.View(func(now *bolt.Tx) error {
		if now.ID() >= id {
			return ErrInDoubt
		}
		return nil
	})
	if visible != nil {
		s.inDoubt = fmt.Errorf("%w: %w", ErrInDoubt, err)
		s.unwritable.Store(&s.inDoubt)
		return &doubtError{s.inDoubt}
	}
	return err
}

// doubtError is what those get whose work was in the commit that ErrInDoubt tells of.
type doubtError struct{ error }

func (e *doubtError) Unwrap() error { return e.error }

// OutcomeUnknown says that what was to be changed may be changed.
func (e *doubtError) OutcomeUnknown() bool { return true }

// panicError carries a panic from the writer to the caller whose change it was.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string {
	return fmt.Sprintf("panic in a store transaction: %v\n%s", p.value, p.stack)
}

func (s *Store) run(r *request, t *tx) (err error) {
	defer func() {
		switch v := recover(); {
		case v == nil:
		case isDamage(v):
			err = s.breaks(v)
		default:
			err = &panicError{v, debug.Stack()}
		}
	}()
	return r.change(t)
}

// probeSize is more than what the pages that a store has free are likely to hold: a probe that fits into those
// would succeed on a full disk.
const probeSize = 64 << 10

// Writable returns why nothing can be written, for a readiness check: a full disk lets reads go on. After a
// commit that failed it tries another, small one, so that a store that nobody sends work to finds out too when
// there is room again. It also tells of a CRL's text that cannot be kept in its file, though nothing else suffers.
func (s *Store) Writable(ctx context.Context) error {
	if err := s.broken(); err != nil {
		return err
	}
	if s.unwritable.Load() == nil {
		return s.texts.err()
	}
	return s.update(ctx, func(t *tx) error { return t.put(meta, probeKey, make([]byte, probeSize)) })
}
