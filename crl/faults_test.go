package crl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fault is how a call of the store or the signer fails.
type fault string

const (
	failsBefore fault = "fails before" // nothing was done
	failsAfter  fault = "fails after"  // it was done, and the answer was lost
	hangs       fault = "hangs"        // until whoever asked gives up
)

var errPlanted = errors.New("the disk is on fire")

// seams are the store and the signer, with a fault planted at the calls of one name.
type seams struct {
	*memory
	signer Signer

	mu    sync.Mutex // guards what follows
	call  string
	how   fault
	times int // that the fault struck
}

func (s *seams) plant(call string, how fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call, s.how, s.times = call, how, 0
}

func (s *seams) struck() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.times
}

func (s *seams) do(ctx context.Context, call string, act func() error) error {
	s.mu.Lock()
	how := s.how
	if call != s.call {
		how = ""
	} else {
		s.times++
	}
	s.mu.Unlock()
	switch how {
	case failsBefore:
		return errPlanted
	case failsAfter:
		return errors.Join(act(), errPlanted)
	case hangs:
		<-ctx.Done()
		return ctx.Err()
	default:
		return act()
	}
}

func (s *seams) Latest(ctx context.Context, shard Shard, have uint64) (out Signed, err error) {
	return out, s.do(ctx, "Latest", func() error { out, err = s.memory.Latest(ctx, shard, have); return err })
}

func (s *seams) Replace(ctx context.Context, prev, next Signed) error {
	return s.do(ctx, "Replace", func() error { return s.memory.Replace(ctx, prev, next) })
}

func (s *seams) Position(ctx context.Context) (n uint64, err error) {
	return n, s.do(ctx, "Position", func() error { n, err = s.memory.Position(ctx); return err })
}

// Revoked fails before its first entry, or after its last one.
func (s *seams) Revoked(ctx context.Context, shard Shard, notBefore time.Time) iter.Seq2[Entry, error] {
	return faulty(ctx, s, "Revoked", s.memory.Revoked(ctx, shard, notBefore))
}

func (s *seams) Changes(ctx context.Context, shard Shard, after uint64) iter.Seq2[Change, error] {
	return faulty(ctx, s, "Changes", s.memory.Changes(ctx, shard, after))
}

func faulty[T any](ctx context.Context, s *seams, call string, all iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		stopped := false
		err := s.do(ctx, call, func() error {
			for v, err := range all {
				if !yield(v, err) {
					stopped = true
					break
				}
			}
			return nil
		})
		if err != nil && !stopped {
			var none T
			yield(none, err)
		}
	}
}

func (s *seams) SignCRL(ctx context.Context, issuer string, tbs [][]byte) (signature []byte, err error) {
	return signature, s.do(ctx, "SignCRL", func() error { signature, err = s.signer.SignCRL(ctx, issuer, tbs); return err })
}

// lockedBuffer is a log that a test may read meanwhile.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestPublishingAtEachFault: while a revocation cannot be published, the status and the log say so, and the last list is
// served on; when it can again, it is published without anybody's doing.
func TestPublishingAtEachFault(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	for _, c := range []struct {
		call string
		how  []fault
		// first: the fault is there when the very first list is to be published.
		first bool
		// mends: the list is published although the fault stays, since all was done that had to be done.
		mends []fault
	}{
		{call: "Latest", how: []fault{failsBefore, failsAfter, hangs}},
		{call: "Changes", how: []fault{failsBefore, failsAfter, hangs}},
		{call: "SignCRL", how: []fault{failsBefore, failsAfter, hangs}},
		{call: "Replace", how: []fault{failsBefore, failsAfter, hangs}, mends: []fault{failsAfter}},
		{call: "Latest", how: []fault{failsBefore, failsAfter, hangs}, first: true},
		{call: "Position", how: []fault{failsBefore, failsAfter, hangs}, first: true},
		{call: "Revoked", how: []fault{failsBefore, failsAfter, hangs}, first: true},
		{call: "SignCRL", how: []fault{failsBefore, failsAfter, hangs}, first: true},
		{call: "Replace", how: []fault{failsBefore, failsAfter, hangs}, first: true, mends: []fault{failsAfter}},
	} {
		for _, how := range c.how {
			t.Run(fmt.Sprintf("%s %s, first list %v", c.call, how, c.first), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					publishDespite(t, ca, c.call, how, c.first, slices.Contains(c.mends, how))
				})
			})
		}
	}
}

func publishDespite(t *testing.T, ca *testCA, call string, how fault, first, mends bool) {
	s, log := &seams{memory: newMemory(), signer: ca}, new(lockedBuffer)
	c := publisherConfig(ca, s.memory)
	c.Store, c.Revocations, c.Signer, c.Logger = s, s, s, slog.New(slog.NewTextHandler(log, nil))
	p := newPublisher(t, c)
	if first {
		s.plant(call, how)
	}
	running(t, p.Run)
	synctest.Wait()
	before := p.Status()[0]
	s.plant(call, how)
	s.revoke(1, 1)
	p.Changed(testShard)
	time.Sleep(2 * defaultTimeout)
	synctest.Wait()

	if s.struck() == 0 {
		t.Fatalf("%s was not called", call)
	}
	during := p.Status()[0]
	if mends != during.PendingSince.IsZero() || mends != (during.Err == nil) {
		t.Errorf("a minute later: pending since %v, error %v; want neither: %v", during.PendingSince, during.Err, mends)
	}
	if mends != during.Late(time.Now()).IsZero() {
		t.Errorf("a minute later: late since %v; want none: %v", during.Late(time.Now()), mends)
	}
	if !strings.Contains(log.String(), "publishing a CRL failed") {
		t.Errorf("the log says %q", log)
	}
	if held, ok := p.Current(testShard); !mends && (ok != (before.Number > 0) || held.Number != before.Number) {
		t.Errorf("served is list %d, and before it was %d", held.Number, before.Number)
	}

	s.plant("", "")
	time.Sleep(defaultTimeout + 2*maxBackoff) // what hangs does so until its time is up
	synctest.Wait()
	after := p.Status()[0]
	if !after.PendingSince.IsZero() || after.Err != nil || after.Number <= before.Number {
		t.Errorf("when all was well again: pending since %v, error %v, list %d after %d", after.PendingSince, after.Err, after.Number, before.Number)
	}
	if since := after.Late(time.Now()); !since.IsZero() {
		t.Errorf("when all was well again: late since %v", since)
	}
	held, _ := p.Current(testShard)
	if got := serials(t, ca, held); !slices.Equal(got, []int64{1}) {
		t.Errorf("%d on the list, want 1", got)
	}
	numbers := []uint64{0}
	for _, l := range s.lists() {
		if l.Number <= numbers[len(numbers)-1] {
			t.Errorf("list %d was stored after %d", l.Number, numbers[len(numbers)-1])
		}
		numbers = append(numbers, l.Number)
	}
}

// A list that was not signed anew in time is late too, although nothing was revoked.
func TestListThatIsDueIsLate(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	synctest.Test(t, func(t *testing.T) {
		s := &seams{memory: newMemory(), signer: ca}
		c := publisherConfig(ca, s.memory)
		c.Store, c.Revocations, c.Signer = s, s, s
		p := newPublisher(t, c)
		running(t, p.Run)
		late := func() time.Time {
			time.Sleep(defaultLifetime / 2)
			synctest.Wait()
			time.Sleep(2 * grace)
			return p.Status()[0].Late(time.Now())
		}
		if since := late(); !since.IsZero() {
			t.Errorf("late since %v, and all is well", since)
		}
		s.plant("SignCRL", failsBefore)
		due := p.Status()[0].Due
		if since := late(); !since.Equal(due) || due.IsZero() {
			t.Errorf("late since %v; it was due at %v", since, due)
		}
	})
}
