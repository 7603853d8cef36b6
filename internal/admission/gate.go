// Package admission decides what may come in when more comes than can be served: connections, requests that cost
// something, and requests of one address or client. All of it is bounded, and refusing is cheap.
package admission

import (
	"container/list"
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// FullError is a request that was refused because there are too many. Nothing was begun.
type FullError struct {
	Reason string // one of the constants below, for metrics
	After  time.Duration
}

// Reasons of a FullError.
const (
	QueueFull = "queue full" // others came later, and what came first has the least chance to be served in time
	Waited    = "waited"     // its turn did not come in time
)

func (e *FullError) Error() string { return "too many requests of this kind are under way" }

// RetryAfter says when to try again. It differs from one to the next, so that they do not all come back at once.
func (e *FullError) RetryAfter() time.Duration { return e.After }

func full(reason string) *FullError {
	const least, most = 1, 3 // whole seconds, as Retry-After has them
	seconds := least + rand.IntN(most-least+1)
	return &FullError{reason, time.Duration(seconds) * time.Second}
}

// Gate lets a number of requests in at once, and has a number of others wait for a while. When one leaves, the one that
// came last gets its place, and when too many wait, the one that came first is refused. So, under a load that is beyond
// what can be served, those who are served were served at once, and the others hear so soon; first come, first served
// would have all of them wait for as long as is allowed. The nil Gate lets everybody in.
type Gate struct {
	room int
	wait time.Duration

	mu      sync.Mutex // guards what follows
	free    int
	waiting list.List // of chan bool, which takes whether its owner is in; the newest is the last
}

// NewGate makes a gate for so many at once, and so many that wait no longer than given.
func NewGate(atOnce, waiting int, wait time.Duration) *Gate {
	return &Gate{room: waiting, wait: wait, free: atOnce}
}

// Enter returns nil when the caller is in, who calls Leave in the end; or a *FullError, or the context's error.
func (g *Gate) Enter(ctx context.Context) error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return nil
	}
	if g.room == 0 {
		g.mu.Unlock()
		return full(QueueFull)
	}
	if g.waiting.Len() >= g.room {
		g.waiting.Remove(g.waiting.Front()).(chan bool) <- false
	}
	turn := make(chan bool, 1)
	place := g.waiting.PushBack(turn)
	g.mu.Unlock()
	return g.await(ctx, place, turn)
}

func (g *Gate) await(ctx context.Context, place *list.Element, turn chan bool) error {
	limit := time.NewTimer(g.wait)
	defer limit.Stop()
	var late error
	select {
	case in := <-turn:
		return admitted(in)
	case <-limit.C:
		late = full(Waited)
	case <-ctx.Done():
		late = ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case in := <-turn: // just now
		return admitted(in)
	default:
		g.waiting.Remove(place)
		return late
	}
}

func admitted(in bool) error {
	if in {
		return nil
	}
	return full(QueueFull)
}

// Leave gives the place to the next one.
func (g *Gate) Leave() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if next := g.waiting.Back(); next != nil {
		g.waiting.Remove(next).(chan bool) <- true
		return
	}
	g.free++
}

// Waiting is how many wait.
func (g *Gate) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting.Len()
}
