package boltstore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
)

// transactions returns how many transactions were committed so far.
func transactions(t *testing.T, s *Store) int {
	t.Helper()
	id := 0
	if err := s.db.View(func(tx *bolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

// hold occupies the writer until release is called, so that what is sent meanwhile makes one batch.
func hold(t *testing.T, s *Store) (release func()) {
	t.Helper()
	entered, leave := make(chan struct{}), make(chan struct{})
	done := make(chan error)
	go func() {
		done <- s.update(context.WithoutCancel(t.Context()), func(*tx) error {
			close(entered)
			<-leave
			return nil
		})
	}()
	<-entered
	return func() {
		close(leave)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// batch sends changes while the writer is held, so that all are in one batch in this order, and returns their
// outcomes.
func batch(t *testing.T, s *Store, changes ...func() error) []error {
	t.Helper()
	release := hold(t, s)
	errs := make([]error, len(changes))
	var wg sync.WaitGroup
	for i, change := range changes {
		wg.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					errs[i] = v.(error)
				}
			}()
			errs[i] = change()
		})
		waitQueued(t, s, i+1)
	}
	release()
	wg.Wait()
	return errs
}

func waitQueued(t *testing.T, s *Store, n int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); len(s.queue) < n; time.Sleep(50 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d requests are queued, want %d", len(s.queue), n)
		}
	}
}

func insertion(t *testing.T, s *Store, r *ca.Record) func() error {
	return func() error { return s.Insert(t.Context(), r, nil, event(r.Serial.String())) }
}

func checkChain(t *testing.T, s *Store, want int) {
	t.Helper()
	entries, err := s.Audit(t.Context(), 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var head audit.Head
	for _, e := range entries {
		if head, err = audit.Verify(head, e); err != nil {
			t.Fatal(err)
		}
	}
	if len(entries) != want {
		t.Errorf("%d audit entries, want %d", len(entries), want)
	}
}

func TestWaitingWritersShareOneTransaction(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	const n = 200
	var changes []func() error
	for i := range n {
		changes = append(changes, insertion(t, s, newRecord(fmt.Sprint("client-", i))))
	}
	before := transactions(t, s)
	if err := errors.Join(batch(t, s, changes...)...); err != nil {
		t.Fatal(err)
	}
	if used := transactions(t, s) - before; used != 1 {
		t.Errorf("%d writers took %d transactions, want 1", n, used)
	}
	checkChain(t, s, n)
}

func TestConcurrentWritersNeedFewTransactions(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	const workers, each = 64, 8
	before := transactions(t, s)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for range each {
				errs[i] = errors.Join(errs[i], insertion(t, s, newRecord("alice"))())
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if used := transactions(t, s) - before; used > workers*each/4 {
		t.Errorf("%d writes took %d transactions", workers*each, used)
	}
	checkChain(t, s, workers*each)
}

// TestFailureInABatch puts each way to fail among requests that succeed.
func TestFailureInABatch(t *testing.T) {
	failure := errors.New("refused")
	spoil := func(tx *tx) error {
		return errors.Join(tx.put(clients, []byte("half"), []byte("written")), tx.seal(event("half")))
	}
	for name, c := range map[string]struct {
		change       func(*tx) error
		want         string
		transactions int // for three good requests beside it
	}{
		"before it wrote":        {func(*tx) error { return failure }, "refused", 1},
		"after it wrote":         {func(tx *tx) error { return errors.Join(spoil(tx), failure) }, "refused", 3},
		"panic":                  {func(*tx) error { panic("oops") }, "panic in a store transaction: oops", 1},
		"panic after it wrote":   {func(tx *tx) error { _ = spoil(tx); panic("oops") }, "panic in a store transaction: oops", 3},
		"key that bbolt rejects": {func(tx *tx) error { return tx.put(clients, nil, nil) }, "key required", 3},
	} {
		t.Run(name, func(t *testing.T) {
			s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
			before := transactions(t, s)
			good := []*ca.Record{newRecord("a"), newRecord("b"), newRecord("c")}
			good[1].Profile = "server" // so that two of them are the first of their kind
			errs := batch(t, s,
				insertion(t, s, good[0]),
				insertion(t, s, good[1]),
				func() error { return s.update(t.Context(), c.change) },
				insertion(t, s, good[2]),
			)
			for i, err := range errs {
				if i == 2 && (err == nil || !strings.Contains(err.Error(), c.want)) || i != 2 && err != nil {
					t.Errorf("request %d: %v", i, err)
				}
			}
			for _, r := range good {
				if got, err := s.Certificate(t.Context(), r.Serial); err != nil || !reflect.DeepEqual(got, r) {
					t.Errorf("a good request is lost: read %+v, %v; want %+v", got, err, r)
				}
			}
			if _, err := s.Client(t.Context(), "half"); err == nil || strings.Contains(err.Error(), "reading") {
				t.Errorf("what the failed request wrote was kept: %v", err)
			}
			checkChain(t, s, len(good))
			if used := transactions(t, s) - before; used != c.transactions {
				t.Errorf("%d transactions, want %d", used, c.transactions)
			}
		})
	}
}

// TestFailedCommit: when the disk is full, nobody in the batch is told anything that rests on what was not
// kept, the store is as it was, and it works again once there is room.
func TestFailedCommit(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	inv := &enroll.Invitation{ID: "inv", ExpiresAt: time.Now()}
	if err := s.PutInvitation(t.Context(), inv, event("inv")); err != nil {
		t.Fatal(err)
	}
	redeem := func(r *ca.Record) func() error {
		return func() error { return s.Insert(t.Context(), r, &ca.Spend{ID: inv.ID}, event("x")) }
	}
	big := newRecord("big")
	big.DER = make([]byte, 1<<20)
	first, second := newRecord("first"), newRecord("second")
	bigInsert := func() error {
		return s.update(t.Context(), func(tx *tx) error { return tx.put(certificates, big.Serial[:], encodeRecord(big, nil)) })
	}
	release := hold(t, s)
	s.db.MaxSize = 1 << 19 // the writer, held, reads it after this
	release()
	for i, err := range batch(t, s, redeem(first), redeem(second), bigInsert) {
		var spent *ca.SpentError
		if err == nil || errors.As(err, &spent) || errors.Is(err, ErrInDoubt) || !strings.Contains(err.Error(), "committing") {
			t.Errorf("request %d = %v, want the commit's error", i, err)
		}
	}
	if got, err := s.Invitation(t.Context(), inv.ID); err != nil || got.Spent != nil {
		t.Errorf("Invitation = %+v, %v; want it unspent", got, err)
	}
	checkChain(t, s, 1)
	if s.unwritable.Load() == nil {
		t.Error("the failed commit is not remembered for Writable")
	}
	release = hold(t, s)
	s.db.MaxSize = 0
	release()
	for range 2 { // the first finds out by itself, the second knows
		if err := s.Writable(t.Context()); err != nil {
			t.Errorf("Writable with room again: %v", err)
		}
	}
	if err := redeem(second)(); err != nil {
		t.Errorf("with room again: %v", err)
	}
	checkChain(t, s, 2)
}

func TestInDoubtStopsWriting(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	release := hold(t, s)
	s.inDoubt = ErrInDoubt // the writer, held, reads it after this
	release()
	if err := s.Record(t.Context(), event("x")); !errors.Is(err, ErrInDoubt) {
		t.Errorf("Record = %v, want ErrInDoubt", err)
	}
	if _, err := s.AuditHead(t.Context()); err != nil {
		t.Errorf("reading goes on: %v", err)
	}
}

func TestWaitingRequestIsWithdrawn(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	release := hold(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	r := newRecord("alice")
	go func() { result <- s.Insert(ctx, r, nil, event("x")) }()
	waitQueued(t, s, 1)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) { // the writer is still held
		t.Errorf("Insert = %v, want context.Canceled", err)
	}
	release()
	checkChain(t, s, 0)
	if _, err := s.Certificate(t.Context(), r.Serial); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("the withdrawn request was carried out: %v", err)
	}
}

// TestRequestUnderWayIsWaitedFor: an error must mean that nothing was changed.
func TestRequestUnderWayIsWaitedFor(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	ctx, cancel := context.WithCancel(t.Context())
	err := s.update(ctx, func(tx *tx) error {
		cancel()
		return tx.seal(event("x"))
	})
	if err != nil {
		t.Errorf("update = %v; it was carried out", err)
	}
	checkChain(t, s, 1)
}

func TestFullQueue(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	release := hold(t, s)
	var wg sync.WaitGroup
	for range maxBatch {
		wg.Go(func() {
			if err := s.Record(t.Context(), event("x")); err != nil {
				t.Error(err)
			}
		})
	}
	waitQueued(t, s, maxBatch)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Record(ctx, event("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Record with a full queue = %v, want context.DeadlineExceeded", err)
	}
	release()
	wg.Wait()
	checkChain(t, s, maxBatch)
}

func TestCloseWaitsForWhatWasAccepted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	release := hold(t, s)
	const n = 20
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if err := s.Record(t.Context(), event("x")); err != nil {
				t.Error(err)
			}
		})
	}
	waitQueued(t, s, n)
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	release()
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	checkChain(t, openTest(t, path), n)
}
