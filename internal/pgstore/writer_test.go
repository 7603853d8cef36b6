package pgstore_test

import (
	"context"
	"errors"
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
