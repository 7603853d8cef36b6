package pgstore_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/pgtest"
)

// TestWaitingForTheSame: of many that want the same certificate each has a transaction of its own. Until that begins, who
// waits for it can give up, and nothing is done then.
func TestWaitingForTheSame(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	rec, other := newRecord(1), newRecord(2)
	insert(t, s, rec)
	insert(t, s, other)

	errNo := errors.New("decided against it")
	held := func(serial ca.Serial) (begun, release chan struct{}, outcome chan error) {
		begun, release, outcome = make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			_, err := s.Decide(t.Context(), serial, func(*ca.Record) (*ca.Revocation, audit.Event, error) {
				close(begun)
				<-release
				return nil, audit.Event{}, errNo
			})
			outcome <- err
		}()
		return begun, release, outcome
	}
	begun, release, first := held(other.Serial)
	<-begun // the writer is busy; what comes now goes into one batch

	before := acts(t, s)
	begun2, release2, second := held(rec.Serial)
	await(t, "the second waits", func() bool { return s.Waiting() == 1 })
	ctx, giveUp := context.WithCancel(t.Context())
	third := make(chan error, 1)
	go func() { third <- revoke(ctx, s, rec.Serial) }()
	await(t, "the third waits", func() bool { return s.Waiting() == 2 })

	close(release)
	<-begun2
	giveUp()
	if err := <-third; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up got %v; want %v", err, context.Canceled)
	}
	close(release2)
	for _, outcome := range []chan error{first, second} {
		if err := <-outcome; !errors.Is(err, errNo) {
			t.Errorf("Decide = %v; want %v", err, errNo)
		}
	}
	insert(t, s, newRecord(3))
	if n := acts(t, s) - before; n != 1 {
		t.Errorf("%d acts; want the last one alone", n)
	}
}

// TestFailedChangeLeavesNothing: what a change has written before it failed is not written, and those that share its
// transaction are.
func TestFailedChangeLeavesNothing(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	s := open(t, database)
	rec := newRecord(0)
	insert(t, s, rec)
	before := acts(t, s)
	errNo := errors.New("it cannot be")
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if i%2 == 0 {
				r := newRecord(i + 1)
				if err := s.Insert(t.Context(), r, nil, issueEvent(r)); err != nil {
					t.Error(err)
				}
				return
			}
			if err := s.FailLate(t.Context(), issueEvent(rec), rec, errNo); !errors.Is(err, errNo) {
				t.Errorf("it failed with %v; want %v", err, errNo)
			}
		})
	}
	wg.Wait()
	if n := acts(t, s) - before; n != 20 {
		t.Errorf("%d audit entries of 20 acts", n)
	}
	if at, err := s.Position(t.Context()); err != nil || at != 0 {
		t.Errorf("position %d, %v; nothing was revoked", at, err)
	}
	changed := 0
	if err := connect(t, database).QueryRow(t.Context(), "SELECT clients FROM pkid.state").Scan(&changed); err != nil || changed != 0 {
		t.Errorf("a client was changed %d times, %v", changed, err)
	}
	verify(t, s)
}
