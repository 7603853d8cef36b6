package pgstore

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/jackc/pgx/v5"
)

// lookups answers questions of one kind, each about one key. All that wait are asked together, as one query: a hundred
// requests at once cost the database little more than one. Whoever asks gets what was committed before; the query
// begins after the question.
type lookups[K comparable, V any] struct {
	s     *Store
	doing string // begins an error
	// find returns what there is of the keys; the database has nothing of those that it leaves out.
	find  func(ctx context.Context, conn *pgx.Conn, keys []K) (map[K]V, error)
	queue chan *question[K, V]
	idle  sync.WaitGroup // askers that run

	mu     sync.RWMutex // guards closed, and queue against being closed under a sender
	closed bool
}

// question is somebody who waits for an answer.
type question[K comparable, V any] struct {
	key     K
	answer  V
	found   bool
	outcome chan error // has room for one; answer and found are set before
}

// askers is how many queries of a kind run at once: while one waits for the network, the next is asked.
const askers = 2

func newLookups[K comparable, V any](s *Store, doing string, find func(context.Context, *pgx.Conn, []K) (map[K]V, error)) *lookups[K, V] {
	l := &lookups[K, V]{s: s, doing: doing, find: find, queue: make(chan *question[K, V], maxBatch)}
	for range askers {
		l.idle.Go(l.run)
	}
	return l
}

// close waits for what was accepted.
func (l *lookups[K, V]) close() {
	l.mu.Lock()
	l.closed = true
	close(l.queue)
	l.mu.Unlock()
	l.idle.Wait()
}

// get returns what the database has of a key, and whether it has anything.
func (l *lookups[K, V]) get(ctx context.Context, key K) (answer V, found bool, err error) {
	limited, cancel := context.WithTimeoutCause(ctx, queueTimeout+readTimeout, fmt.Errorf("%s: %w", l.doing, unavailable(errBusy)))
	defer cancel()
	q := &question[K, V]{key: key, outcome: make(chan error, 1)}
	if err := l.submit(limited, q); err != nil {
		return answer, false, err
	}
	select {
	case err := <-q.outcome:
		return q.answer, q.found, err
	case <-limited.Done():
		return answer, false, context.Cause(limited)
	}
}

func (l *lookups[K, V]) submit(ctx context.Context, q *question[K, V]) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	select {
	case l.queue <- q:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run is an asker. It ends when the queue was closed and is empty.
func (l *lookups[K, V]) run() {
	for q := range l.queue {
		runtime.Gosched() // who is ready to ask does
		l.ask(l.receive(q))
	}
}

// receive returns q and what else waits by now. It never blocks.
func (l *lookups[K, V]) receive(q *question[K, V]) []*question[K, V] {
	batch := []*question[K, V]{q}
	for len(batch) < maxBatch {
		select {
		case next, ok := <-l.queue:
			if !ok {
				return batch
			}
			batch = append(batch, next)
		default:
			return batch
		}
	}
	return batch
}

func (l *lookups[K, V]) ask(batch []*question[K, V]) {
	keys := make([]K, len(batch))
	for i, q := range batch {
		keys[i] = q.key
	}
	var all map[K]V
	err := l.s.view(context.Background(), l.doing, func(ctx context.Context, conn *pgx.Conn) (err error) {
		all, err = l.find(ctx, conn, keys)
		return err
	})
	for _, q := range batch {
		if err == nil {
			q.answer, q.found = all[q.key]
		}
		q.outcome <- err
	}
}

// collect makes a map of rows.
func collect[K comparable, V any](rows pgx.Rows, err error, read func(pgx.CollectableRow) (K, V, error)) (map[K]V, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[K]V{}
	for rows.Next() {
		k, v, err := read(rows)
		if err != nil {
			return nil, err
		}
		all[k] = v
	}
	return all, rows.Err()
}
