package pgstore_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/pgstore"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/tokenbind"
)

// faults breaks the writer's connection at one of its reads and writes, counted from arm on.
type faults struct {
	left   atomic.Int64 // until it breaks
	after  atomic.Bool  // the octets come through first
	struck atomic.Bool
	refuse atomic.Bool // then nobody is there any more
}

func (f *faults) arm(at int, after bool) {
	f.struck.Store(false)
	f.after.Store(after)
	f.left.Store(int64(at) + 1)
}

func (f *faults) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if f.struck.Load() && f.refuse.Load() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("nobody is there")}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	return &faulty{conn, f}, err
}

type faulty struct {
	net.Conn
	*faults
}

func (c *faulty) Read(b []byte) (int, error) {
	return c.pass(func() (int, error) { return c.Conn.Read(b) })
}

func (c *faulty) Write(b []byte) (int, error) {
	return c.pass(func() (int, error) { return c.Conn.Write(b) })
}

func (c *faulty) pass(do func() (int, error)) (int, error) {
	if c.left.Add(-1) != 0 {
		return do()
	}
	c.struck.Store(true)
	n := 0
	if c.after.Load() {
		n, _ = do() // as the kernel does, which never says of octets that it took that it took none
	}
	return n, errors.Join(net.ErrClosed, c.Close())
}

// TestConnectionLostAnywhere breaks the connection before and after each read and write of a transaction. As long as
// the database can be reached again, whoever asked gets the true answer, and nothing is done twice.
func TestConnectionLostAnywhere(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	f := &faults{}
	s.DialWriter(f.dial)
	taken, revoked := newRecord(0), newRecord(1)
	insert(t, s, taken)
	insert(t, s, revoked)
	n := 0
	for at := 0; ; at++ {
		struck := false
		for _, after := range []bool{false, true} {
			before := acts(t, s)
			rec, again := newRecord(2+n), newRecord(3+n)
			again.Serial = taken.Serial
			f.arm(at, after)
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := s.Insert(t.Context(), rec, nil, issueEvent(rec)); err != nil {
					t.Errorf("fault %d, after %t: Insert = %v", at, after, err)
				}
			})
			wg.Go(func() {
				if err := revoke(t.Context(), s, revoked.Serial); err != nil {
					t.Errorf("fault %d, after %t: Decide = %v", at, after, err)
				}
			})
			wg.Go(func() {
				if err := s.Insert(t.Context(), again, nil, issueEvent(again)); !errors.Is(err, ca.ErrDuplicate) {
					t.Errorf("fault %d, after %t: Insert of what is there = %v; want ErrDuplicate", at, after, err)
				}
			})
			wg.Wait()
			struck = struck || f.struck.Load()
			if got, err := s.Certificate(t.Context(), rec.Serial); err != nil || got.Thumbprint != rec.Thumbprint {
				t.Errorf("fault %d, after %t: the certificate is not there: %v", at, after, err)
			}
			if n := acts(t, s) - before; n != 2 {
				t.Errorf("fault %d, after %t: %d audit entries for two acts", at, after, n)
			}
			n++
		}
		if !struck {
			break // the transactions end before
		}
	}
	f.arm(-1, false)
	verify(t, s)
	if n < 8 {
		t.Errorf("only %d faults were tried", n)
	}
}

// TestUseLostAnywhere breaks the connection before and after each read and write while a proof is used up. Who used it
// first is never told that somebody else did, and who was told that it is theirs is the only one.
func TestUseLostAnywhere(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	f := &faults{}
	if err := s.DialReaders(t.Context(), f.dial); err != nil {
		t.Fatal(err)
	}
	until, unknown, struck := time.Now().Add(time.Hour), 0, true
	if err := s.Use(t.Context(), [32]byte{31: 1}, until); err != nil {
		t.Fatal(err)
	}
	for at := 0; struck; at++ {
		struck = false
		for n, after := range []bool{false, true} {
			key := [32]byte{byte(at), byte(n)}
			f.arm(at, after)
			switch err := s.Use(t.Context(), key, until); {
			case errors.Is(err, pgstore.ErrOutcomeUnknown):
				unknown++
			case err != nil:
				t.Errorf("fault %d, after %t: Use = %v", at, after, err)
			}
			struck = struck || f.struck.Load()
			f.arm(-1, false)
			if err := s.Use(t.Context(), key, until); err != nil && !errors.Is(err, tokenbind.ErrReplayed) {
				t.Errorf("fault %d, after %t: Use once more = %v", at, after, err)
			}
			if err := s.Use(t.Context(), key, until); !errors.Is(err, tokenbind.ErrReplayed) {
				t.Errorf("fault %d, after %t: Use in the end = %v; want ErrReplayed", at, after, err)
			}
		}
	}
	if unknown == 0 {
		t.Error("no fault came while it was being used up")
	}
}

// TestOutcomeUnknown loses the connection during a commit, and the database with it.
func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	unknown := 0
	for at := 0; at < 12 && unknown == 0; at++ {
		s := open(t, pgtest.Database(t))
		f := &faults{}
		s.DialWriter(f.dial)
		insert(t, s, newRecord(0)) // so that it is connected, and its statements are prepared
		f.refuse.Store(true)
		f.arm(at, true)
		rec := newRecord(1)
		err := s.Insert(t.Context(), rec, nil, issueEvent(rec))
		_, missing := s.Certificate(t.Context(), rec.Serial)
		switch {
		case err == nil && missing != nil:
			t.Errorf("fault %d: acknowledged, and not there: %v", at, missing)
		case errors.Is(err, pgstore.ErrOutcomeUnknown):
			unknown++
			var says interface{ OutcomeUnknown() bool }
			if !errors.As(err, &says) || !says.OutcomeUnknown() {
				t.Errorf("fault %d: %v does not say so by its method", at, err)
			}
		case errors.Is(err, pgstore.ErrUnavailable) && !errors.Is(missing, ca.ErrNotFound):
			t.Errorf("fault %d: it was said that nothing was changed, and the certificate is there", at)
		case err != nil && !errors.Is(err, pgstore.ErrUnavailable):
			t.Errorf("fault %d: Insert = %v", at, err)
		}
		if err == nil {
			continue
		}
		if s.Writable(t.Context()) != nil {
			t.Errorf("fault %d: the database takes writes, and Writable says it does not", at)
		}
		f.refuse.Store(false) // the network is back, and with it everything
		insert(t, s, newRecord(2))
		verify(t, s)
	}
	if unknown == 0 {
		t.Error("no fault came during a commit")
	}
}

// TestBackendsKilled ends the server's side of every connection again and again, under load of three nodes.
func TestBackendsKilled(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	nodes := []*pgstore.Store{open(t, database), open(t, database), open(t, database)}
	var acknowledged, unknown sync.Map // serial to whether it was revoked
	var count atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			s := nodes[i%len(nodes)]
			for ctx.Err() == nil {
				r := newRecord(i)
				if !keep(t, &acknowledged, &unknown, r.Serial, false, s.Insert(t.Context(), r, nil, issueEvent(r))) {
					continue
				}
				keep(t, &acknowledged, &unknown, r.Serial, true, revoke(t.Context(), s, r.Serial))
				count.Add(1)
			}
		})
	}
	killer := connect(t, database)
	for range 25 {
		before := count.Load()
		_, err := killer.Exec(t.Context(), `
			SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`)
		if err != nil {
			t.Fatal(err)
		}
		await(t, "work goes on", func() bool { return count.Load() > before })
	}
	cancel()
	wg.Wait()
	total := 0
	acknowledged.Range(func(serial, revoked any) bool {
		total++
		if _, open := unknown.Load(serial); open {
			return true
		}
		r, err := nodes[0].Certificate(t.Context(), serial.(ca.Serial))
		if err != nil || (r.Revocation != nil) != revoked.(bool) {
			t.Errorf("%s was acknowledged, revoked: %t; the store has %+v, %v", serial, revoked, r, err)
		}
		return true
	})
	verify(t, nodes[0])
	t.Logf("%d certificates", total)
}

// keep notes what was acknowledged, and reports whether it was.
func keep(t *testing.T, acknowledged, unknown *sync.Map, serial ca.Serial, revoked bool, err error) bool {
	t.Helper()
	switch {
	case err == nil:
		acknowledged.Store(serial, revoked)
	case errors.Is(err, pgstore.ErrOutcomeUnknown):
		unknown.Store(serial, true)
	case !errors.Is(err, pgstore.ErrUnavailable):
		t.Errorf("%v", err)
	}
	return err == nil
}

// TestNodeGoneInTransaction: a node that was cut off while it had the head locked keeps nobody waiting for long.
func TestNodeGoneInTransaction(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	s := open(t, database)
	proxy, away := through(t, database)
	gone := connect(t, away)
	if _, err := gone.Exec(t.Context(), "BEGIN; SELECT FROM pkid.head FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	proxy.Stall()
	insert(t, s, newRecord(1))
	verify(t, s)
}

// TestServerGoesAndComes: while the database is away, writes and reads say so, and nothing hangs; when it is back,
// so is the store.
func TestServerGoesAndComes(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	s := open(t, server.Database(t))
	rec := newRecord(0)
	insert(t, s, rec)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	away := map[string]error{}
	r := newRecord(1)
	away["Insert"] = s.Insert(t.Context(), r, nil, issueEvent(r))
	away["Decide"] = revoke(t.Context(), s, rec.Serial)
	_, away["Certificate"] = s.Certificate(t.Context(), rec.Serial)
	_, away["RevokedThumbprint"] = s.RevokedThumbprint(t.Context(), rec.Thumbprint)
	away["Writable"] = s.Writable(t.Context())
	for name, err := range away {
		if !errors.Is(err, pgstore.ErrUnavailable) {
			t.Errorf("%s = %v; want ErrUnavailable", name, err)
		}
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	insert(t, s, newRecord(2))
	if got, err := s.Certificate(t.Context(), rec.Serial); err != nil || got.Revocation != nil {
		t.Errorf("Certificate = %+v, %v; the revocation was refused", got, err)
	}
	if err := s.Writable(t.Context()); err != nil {
		t.Errorf("Writable = %v", err)
	}
	verify(t, s)
}

// TestStalledNetwork: a network that swallows everything hangs nobody, and what was in doubt is found out afterwards.
func TestStalledNetwork(t *testing.T) {
	t.Parallel()
	proxy, database := through(t, pgtest.Database(t))
	s := open(t, database)
	insert(t, s, newRecord(0))
	proxy.Stall()
	rec := newRecord(1)
	err := s.Insert(t.Context(), rec, nil, issueEvent(rec))
	if !errors.Is(err, pgstore.ErrUnavailable) && !errors.Is(err, pgstore.ErrOutcomeUnknown) {
		t.Errorf("Insert = %v", err)
	}
	if _, err := s.Certificate(t.Context(), rec.Serial); !errors.Is(err, pgstore.ErrUnavailable) {
		t.Errorf("Certificate = %v; want ErrUnavailable", err)
	}
	proxy.Resume()
	insert(t, s, newRecord(2))
	verify(t, s)
}

// TestOneBadRequest: what the database cannot take fails alone, whoever shares its transaction.
func TestOneBadRequest(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	errs := make([]error, 60)
	var wg sync.WaitGroup
	for i := range errs {
		r := newRecord(i)
		if i%20 == 7 {
			r.NotAfter = time.Date(300_000, 1, 1, 0, 0, 0, 0, time.UTC) // beyond what timestamptz holds
		}
		wg.Go(func() { errs[i] = s.Insert(t.Context(), r, nil, issueEvent(r)) })
	}
	wg.Wait()
	for i, err := range errs {
		if bad := i%20 == 7; bad != (err != nil) || errors.Is(err, pgstore.ErrUnavailable) {
			t.Errorf("request %d, bad: %t: %v", i, bad, err)
		}
	}
	verify(t, s)
}

// TestDecidePanics: a panic in a caller's closure is the caller's, and the writer goes on.
func TestDecidePanics(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	rec := newRecord(0)
	insert(t, s, rec)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was lost")
			}
		}()
		_, _ = s.Decide(t.Context(), rec.Serial, func(*ca.Record) (*ca.Revocation, audit.Event, error) { panic("decide") })
	}()
	insert(t, s, newRecord(1))
	verify(t, s)
}

// through returns a proxy to a database, and the URL to go through it.
func through(t *testing.T, direct string) (*pgtest.Proxy, string) {
	t.Helper()
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	proxy := pgtest.StartProxy(t, u.Host)
	there, err := proxy.URL(direct)
	if err != nil {
		t.Fatal(err)
	}
	return proxy, there
}

func acts(t *testing.T, s *pgstore.Store) int {
	t.Helper()
	head, err := s.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return int(head.Seq)
}

// verify reads the whole audit log, and checks that it is one chain up to the head.
func verify(t *testing.T, s *pgstore.Store) {
	t.Helper()
	var head audit.Head
	for {
		page, err := s.Audit(t.Context(), head.Seq, 500)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			if head, err = audit.Verify(head, e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if end, err := s.AuditHead(t.Context()); err != nil || end != head {
		t.Errorf("the log ends with %v, and the head says %v, %v", head, end, err)
	}
}

// await polls until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}
