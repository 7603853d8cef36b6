package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
)

// The statements around what a batch reads and writes. Each half is one round trip, whatever the size of the batch:
//
//	BEGIN; lock the head; read     (decide, seal)     write; COMMIT
const (
	beginSQL    = "BEGIN ISOLATION LEVEL READ COMMITTED"
	lockHeadSQL = "SELECT seq, hash, position FROM head FOR UPDATE"
	takenSQL    = "SELECT serial FROM certificates WHERE serial = ANY($1::bytea[])"
	rightsSQL   = "SELECT id, spent_serial, spent_use FROM invitations WHERE id = ANY($1::text[])"
	moveHeadSQL = "UPDATE head SET seq = $1, hash = $2, position = $3"
	notifySQL   = "SELECT pg_notify($1, note) FROM unnest($2::text[]) AS note"
)

// channel is where nodes tell each other what happened. A notice is sent when the transaction is committed.
const channel = "pkid"

// reads are the queries of a batch.
type reads struct {
	batch   pgx.Batch
	serials [][]byte // that Inserts are about to use
	rights  []string // the invitations that Inserts are about to spend
}

// queue adds a query; its result goes to a callback that is set on what is returned.
func (q *reads) queue(sql string, args ...any) *pgx.QueuedQuery { return q.batch.Queue(sql, args...) }

// tx is what a transaction of the writer found and is to write.
type tx struct {
	taken map[ca.Serial]bool        // of reads.serials, those that are in use
	spent map[string]*ca.SpentError // of reads.rights, those that exist, and how they were spent; nil if they were not

	pending
	end audit.Head // of the log when all entries were written
	at  uint64     // of the newest change then
}

// pending is what is to be written. Appending is all that is ever done to it, so an earlier value undoes what came
// after.
type pending struct {
	entries      []audit.Entry
	certificates []*ca.Record
	spends       []spending
	changes      []changed
	statements   []statement
	notices      []string
}

type statement struct {
	sql  string
	args []any
}

// exec has a statement run before the commit.
func (t *tx) exec(sql string, args ...any) { t.statements = append(t.statements, statement{sql, args}) }

// notify has the other nodes told, once for each text, when the transaction is committed.
func (t *tx) notify(text string) { t.notices = append(t.notices, text) }

// seal appends ev to the log, in the transaction of the act that it describes.
func (t *tx) seal(ev audit.Event) {
	e := audit.Seal(t.end, ev)
	t.end = e.Head()
	t.entries = append(t.entries, e)
}

// apply runs the changes of a batch. One that fails leaves nothing.
func (t *tx) apply(batch []*request) {
	for _, r := range batch {
		before, end, at := t.pending, t.end, t.at
		if r.err = r.run(t); r.err != nil {
			t.pending, t.end, t.at = before, end, at
		}
	}
}

var (
	// errRolledBack: the commit was lost, and it is known now that it had no effect.
	errRolledBack = errors.New("the connection was lost, and the transaction with it")
	// errNotSealed is a mistake in this package.
	errNotSealed = errors.New("a change without an audit entry")
)

// attempt runs a batch in one transaction. If it returns nil, that is committed, and each r.err is what became of that
// request. Else nothing was changed, unless it is ErrOutcomeUnknown.
func (w *writer) attempt(ctx context.Context, batch []*request) error {
	conn, err := w.connected(ctx)
	if err != nil {
		return err
	}
	t, err := w.begin(ctx, conn, batch)
	if err != nil {
		return orLost(conn, err)
	}
	t.apply(batch)
	switch {
	case len(t.entries) > 0:
		return w.commit(ctx, conn, t)
	case len(t.statements)+len(t.certificates)+len(t.changes) > 0:
		return errNotSealed
	}
	_, err = conn.Exec(ctx, "ROLLBACK")
	return orLost(conn, err)
}

// begin locks the head and reads what the batch asks for.
func (w *writer) begin(ctx context.Context, conn *pgx.Conn, batch []*request) (*tx, error) {
	t := &tx{taken: map[ca.Serial]bool{}, spent: map[string]*ca.SpentError{}}
	q := &reads{}
	q.queue(beginSQL)
	q.queue(lockHeadSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&t.end.Seq, (*hashValue)(&t.end.Hash), &t.at) })
	for _, r := range batch {
		if r.read != nil {
			r.read(q)
		}
	}
	t.find(q)
	defer w.watch(ctx, conn.PgConn().PID())()
	return t, conn.SendBatch(ctx, &q.batch).Close()
}

// find queues what all Inserts together ask for.
func (t *tx) find(q *reads) {
	if len(q.serials) > 0 {
		q.queue(takenSQL, q.serials).Query(func(rows pgx.Rows) error {
			var serial ca.Serial
			_, err := pgx.ForEachRow(rows, []any{(*serialValue)(&serial)}, func() error {
				t.taken[serial] = true
				return nil
			})
			return err
		})
	}
	if len(q.rights) > 0 {
		q.queue(rightsSQL, q.rights).Query(func(rows pgx.Rows) error {
			var id string
			var serial, use []byte
			_, err := pgx.ForEachRow(rows, []any{&id, &serial, &use}, func() error {
				var err error
				t.spent[id], err = spentError(id, serial, use)
				return err
			})
			return err
		})
	}
}

// commit writes what is pending, and commits.
func (w *writer) commit(ctx context.Context, conn *pgx.Conn, t *tx) error {
	b := &pgx.Batch{}
	t.queue(b)
	committed := false
	b.Queue("COMMIT").Exec(func(tag pgconn.CommandTag) error {
		committed = tag.String() == "COMMIT" // and not ROLLBACK, of a transaction that failed
		return nil
	})
	err := conn.SendBatch(ctx, b).Close()
	switch {
	case committed: // whatever happened to the connection afterwards
		w.succeeded()
		return nil
	case err == nil:
		return errRolledBack
	case !conn.IsClosed() || isRefusal(err):
		return err
	}
	w.s.log.Warn("the database's connection was lost during a commit; asking what became of it", "error", err)
	return w.settle(t)
}

func (w *writer) succeeded() {
	w.committed.Store(time.Now().UnixMilli())
	w.failed.Store(nil)
}

// isRefusal: the server answered a statement with an error, so it did not come to the commit. A FATAL error may tell of
// the connection's end after one.
func isRefusal(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.SeverityUnlocalized == "ERROR"
}

// queue adds the statements, a constant number for whatever Inserts and Decides brought.
func (t *tx) queue(b *pgx.Batch) {
	t.queueCertificates(b)
	t.queueChanges(b)
	for _, s := range t.statements {
		b.Queue(s.sql, s.args...)
	}
	t.queueEntries(b)
	b.Queue(moveHeadSQL, int64(t.end.Seq), t.end.Hash[:], int64(t.at))
	if len(t.notices) > 0 {
		b.Queue(notifySQL, channel, t.notices)
	}
}

// settle finds out whether a transaction was committed, and returns nil, errRolledBack or ErrOutcomeUnknown. Nobody can
// have the head but after it ended, one way or the other; then its last audit entry is there or not.
func (w *writer) settle(t *tx) error {
	w.hangUp()
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	for try := 0; ; try++ {
		found, err := w.holds(ctx, t.end)
		switch {
		case err == nil && found:
			w.succeeded()
			return nil
		case err == nil:
			return errRolledBack
		}
		w.hangUp()
		if !pause(ctx, try) {
			return &awayError{ErrOutcomeUnknown, err}
		}
	}
}

// holds reports whether the log has an entry. It waits for whoever is about to write to it.
func (w *writer) holds(ctx context.Context, entry audit.Head) (found bool, err error) {
	conn, err := w.connected(ctx)
	if err != nil {
		return false, err
	}
	defer w.watch(ctx, conn.PgConn().PID())()
	b := &pgx.Batch{}
	b.Queue(beginSQL)
	b.Queue(lockHeadSQL)
	archived := false
	b.Queue("SELECT EXISTS (SELECT FROM audit WHERE seq = $1 AND hash = $2), base_seq >= $1 FROM head", int64(entry.Seq), entry.Hash[:]).
		QueryRow(func(row pgx.Row) error { return row.Scan(&found, &archived) })
	b.Queue("COMMIT")
	err = conn.SendBatch(ctx, b).Close()
	if err == nil && archived {
		err = errors.New("the log was archived beyond it meanwhile")
	}
	return found, err
}

// unblockSQL ends whoever keeps a connection waiting for a lock and itself waits for a client that says nothing more:
// that is on a node that was cut off in the middle of a transaction.
const unblockSQL = `
	SELECT count(pg_terminate_backend(h.pid))
	FROM unnest(pg_blocking_pids($1)) AS b(pid) JOIN pg_stat_activity h USING (pid)
	WHERE h.wait_event = 'ClientRead' AND h.xact_start < clock_timestamp() - make_interval(secs => $2)`

// watch sees to it that a connection which waits for the head need not wait for a node that is gone, until stop is
// called.
func (w *writer) watch(ctx context.Context, pid uint32) (stop func()) {
	ctx, stop = context.WithCancel(ctx)
	go func() {
		wait := time.NewTimer(blockedFor)
		defer wait.Stop()
		for {
			select {
			case <-wait.C:
			case <-ctx.Done():
				return
			}
			w.unblock(ctx, pid)
			wait.Reset(blockedFor / 2)
		}
	}()
	return stop
}

func (w *writer) unblock(ctx context.Context, pid uint32) {
	n := 0
	err := w.s.pool.QueryRow(ctx, unblockSQL, int32(pid), abandonedFor.Seconds()).Scan(&n)
	switch {
	case ctx.Err() != nil: // the wait is over
	case err != nil:
		w.s.log.Warn("looking for who has the audit log locked", "error", err)
	case n > 0:
		w.s.log.Warn("ended the database connection of a node that was cut off in a transaction", "connections", n)
	}
}

// hashValue and serialValue read a column of their length.
type (
	hashValue   audit.Hash
	serialValue ca.Serial
)

func (h *hashValue) ScanBytes(b []byte) error { return fill(h[:], b) }

func (s *serialValue) ScanBytes(b []byte) error { return fill(s[:], b) }

func fill(to, from []byte) error {
	if len(from) != len(to) {
		return fmt.Errorf("a value of %d octets, want %d: %w", len(from), len(to), errDamaged)
	}
	copy(to, from)
	return nil
}

var errDamaged = errors.New("the store is damaged")
