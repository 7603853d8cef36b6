package pgstore

import (
	"bytes"
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/tokenbind"
)

// use is somebody who waits to hear whether a key is theirs.
type use struct {
	key     [32]byte
	until   time.Time
	given   <-chan struct{} // closed when nobody waits any longer
	outcome chan error      // has room for one
}

// uses is the goroutine that uses up keys. Each request with a DPoP proof brings one, so all that wait go to the
// database together, as one statement: a hundred at once share one commit.
type uses struct {
	s     *Store
	queue chan *use
	idle  chan struct{} // closed when the goroutine has ended

	mu     sync.RWMutex // guards closed, and queue against being closed under a sender
	closed bool
}

func newUses(s *Store) *uses {
	u := &uses{s: s, queue: make(chan *use, maxBatch), idle: make(chan struct{})}
	go u.run()
	return u
}

// close waits for what was accepted.
func (u *uses) close() {
	u.mu.Lock()
	u.closed = true
	close(u.queue)
	u.mu.Unlock()
	<-u.idle
}

// Use implements tokenbind.Replay, for all nodes together. After an error that is not ErrReplayed the key may be used
// up all the same.
func (s *Store) Use(ctx context.Context, key [32]byte, until time.Time) error {
	ctx, cancel := context.WithTimeoutCause(ctx, queueTimeout+readTimeout, unavailable(errBusy))
	defer cancel()
	u := &use{key: key, until: endOf(until), given: ctx.Done(), outcome: make(chan error, 1)}
	if err := s.uses.submit(ctx, u); err != nil {
		return err
	}
	select {
	case err := <-u.outcome:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (u *uses) submit(ctx context.Context, x *use) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	if u.closed {
		return ErrClosed
	}
	select {
	case u.queue <- x:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run is the goroutine. It ends when the queue was closed and is empty.
func (u *uses) run() {
	defer close(u.idle)
	for x := range u.queue {
		u.gather()
		for batch := u.receive(x); len(batch) > 0; {
			var now []*use
			if now, batch = distinct(batch); len(now) > 0 {
				u.process(now)
			}
		}
	}
}

// gather lets run who is ready to run, as the writer's does.
func (u *uses) gather() {
	for range gatherRounds {
		before := len(u.queue)
		if runtime.Gosched(); len(u.queue) == before {
			return
		}
	}
}

// receive returns x and what else waits by now. It never blocks: nobody else receives.
func (u *uses) receive(x *use) []*use {
	batch := []*use{x}
	for range len(u.queue) {
		batch = append(batch, <-u.queue)
	}
	return batch
}

// distinct leaves out what nobody waits for any longer, and splits off what has the same key as one before it: that one
// decides first. The rest is in the order of keys, so that no two nodes wait for each other.
func distinct(batch []*use) (now, later []*use) {
	seen := make(map[[32]byte]bool, len(batch))
	for _, x := range batch {
		select {
		case <-x.given:
			continue
		default:
		}
		if seen[x.key] {
			later = append(later, x)
		} else {
			seen[x.key] = true
			now = append(now, x)
		}
	}
	slices.SortFunc(now, func(a, b *use) int { return bytes.Compare(a.key[:], b.key[:]) })
	return now, later
}

// useSQL keeps the keys that are new, and those whose time has passed but that nobody has dropped yet, and returns them.
// A node that uses the same key at the same time waits for the other's commit.
const useSQL = `
	INSERT INTO uses AS old (key, until) SELECT * FROM unnest($1::bytea[], $2::timestamptz[])
	ON CONFLICT (key) DO UPDATE SET until = EXCLUDED.until WHERE old.until < $3 RETURNING key`

func (u *uses) process(batch []*use) {
	keys, untils := make([][]byte, len(batch)), make([]time.Time, len(batch))
	for i, x := range batch {
		keys[i], untils[i] = x.key[:], x.until
	}
	won := make(map[[32]byte]bool, len(batch))
	err := u.s.write(context.Background(), "using up proofs", func(ctx context.Context, conn *pgx.Conn) error {
		clear(won)
		rows, err := conn.Query(ctx, useSQL, keys, untils, u.s.now())
		if err != nil {
			return err
		}
		var key []byte
		_, err = pgx.ForEachRow(rows, []any{&key}, func() error {
			won[[32]byte(key)] = true
			return nil
		})
		return err
	})
	for _, x := range batch {
		switch {
		case err != nil:
			x.outcome <- err
		case won[x.key]:
			x.outcome <- nil
		default:
			x.outcome <- tokenbind.ErrReplayed
		}
	}
}
