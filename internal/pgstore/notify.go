package pgstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pkid/pkid/crl"
)

// What the nodes tell each other beside revocationNotice. Whoever hears one looks for what is new, so it says no more
// than that there is something; a transaction that says the same twice says it once.
const (
	clientsNotice  = "clients"
	keysNotice     = "keys"
	crlNotice      = "crl"
	restoredNotice = "restored"
)

// Notice says what is new in the store since the notice before, whichever node did it, this one included.
type Notice struct {
	// All: anything may have changed. The first notice says so, and one after the store was brought back from a backup
	// underneath, or marked as one that was. Everything else is zero then.
	All bool

	Changed   []crl.Shard // of which certificates were revoked, held or released; in no order
	Position  uint64      // the end of the log of changes; zero if Changed is empty
	Published []crl.Shard // that have a newer CRL
	Clients   bool        // a client was added or changed
	Keys      bool        // a key was added to the ring, changed or dropped
	Back      bool        // the database was away since the notice before: what failed meanwhile can be tried again
}

func (n *Notice) empty() bool {
	return !n.All && len(n.Changed)+len(n.Published) == 0 && !n.Clients && !n.Keys && !n.Back
}

// Watch calls tell with what is new in the store until ctx ends, and then returns nil. The first call comes as soon as
// the database is there, with All. It listens on a connection of its own to what other nodes tell when they commit, so
// a notice comes within milliseconds; and it compares what there is with what it told last whenever it has connected,
// and at least once in every interval, so a notice that was lost is made up for. Two changes may come as one notice.
// tell must not block: while it runs, nothing is listened to.
//
// A database that is away is tried again for as long as it takes. One Watch is enough for a process.
func (s *Store) Watch(ctx context.Context, every time.Duration, tell func(Notice)) error {
	w := watcher{s: s, every: every, tell: tell}
	for try := 0; ; try++ {
		err := w.listen(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // that is how it is ended
		}
		if w.heard || try == 0 {
			s.log.Warn("not listening to the other nodes: the database's connection was lost; trying again", "error", err)
		}
		if w.heard {
			w.heard, try = false, 0
		}
		if !rest(ctx, try) {
			return nil
		}
	}
}

// rest waits a little longer with each try, and for a random time. It reports whether ctx goes on.
func rest(ctx context.Context, try int) bool {
	const first, most = 100 * time.Millisecond, 2 * time.Second
	wait := min(first<<min(try, 10), most)
	select {
	case <-time.After(wait/2 + rand.N(wait)):
		return true
	case <-ctx.Done():
		return false
	}
}

// watcher knows what was told.
type watcher struct {
	s     *Store
	every time.Duration
	tell  func(Notice)
	told  *versions // nil before the first notice
	heard bool      // since the last loss, the database was there
}

// listen tells what is new for as long as its connection lives.
func (w *watcher) listen(ctx context.Context) error {
	conn, err := w.s.dial(ctx)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // it is not used again
	}()
	if err := w.within(ctx, func(ctx context.Context) error {
		_, err := conn.Exec(ctx, "LISTEN "+channel)
		return err
	}); err != nil {
		return err
	}
	for {
		if err := w.within(ctx, func(ctx context.Context) error { return w.look(ctx, conn) }); err != nil {
			return err
		}
		if !w.heard {
			w.heard = true
			w.s.log.Info("listening to the other nodes")
		}
		if err := w.await(ctx, conn); err != nil {
			return err
		}
	}
}

// within bounds what asks the database: a connection that says nothing is none.
func (w *watcher) within(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return do(ctx)
}

// await returns when a notice came, and all that came with it, or the interval has passed.
func (w *watcher) await(ctx context.Context, conn *pgx.Conn) error {
	for wait := w.every; ; wait = time.Nanosecond { // what is here already
		within, cancel := context.WithTimeout(ctx, wait)
		_, err := conn.WaitForNotification(within)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && pgconn.Timeout(err) && !conn.IsClosed() {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// versions is how far the store was when it was looked at.
type versions struct {
	position      uint64
	clients, keys int64
	restored      time.Time
	lists         map[crl.Shard]uint64 // the numbers of the newest CRLs
}

const (
	versionsSQL = "SELECT position, clients, keys, coalesce(restored_at, 'epoch') FROM head, state"
	listsSQL    = "SELECT issuer, shard, number FROM crls"
	changedSQL  = "SELECT DISTINCT issuer, shard FROM changes WHERE position > $1 AND position <= $2"
)

// look compares what there is with what was told, and tells the rest.
func (w *watcher) look(ctx context.Context, conn *pgx.Conn) error {
	now := versions{lists: map[crl.Shard]uint64{}}
	b := &pgx.Batch{}
	b.Queue(versionsSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&now.position, &now.clients, &now.keys, &now.restored) })
	b.Queue(listsSQL).Query(func(rows pgx.Rows) error {
		var shard crl.Shard
		var number uint64
		_, err := pgx.ForEachRow(rows, []any{&shard.Issuer, &shard.Number, &number}, func() error {
			now.lists[shard] = number
			return nil
		})
		return err
	})
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("looking for what is new: %w", err)
	}
	n, err := w.compare(ctx, conn, &now)
	if err != nil {
		return err
	}
	n.Back = w.told != nil && !w.heard && !n.All
	w.told = &now
	if !n.empty() {
		w.tell(n)
	}
	return nil
}

// compare says what is new. Numbers that are less than they were are those of a backup.
func (w *watcher) compare(ctx context.Context, conn *pgx.Conn, now *versions) (Notice, error) {
	old := w.told
	if old == nil || now.position < old.position || now.clients < old.clients || now.keys < old.keys || !now.restored.Equal(old.restored) {
		return Notice{All: true}, nil
	}
	n := Notice{Clients: now.clients != old.clients, Keys: now.keys != old.keys}
	for shard, number := range now.lists {
		if old.lists[shard] != number {
			n.Published = append(n.Published, shard)
		}
	}
	if now.position == old.position {
		return n, nil
	}
	n.Position = now.position
	rows, err := conn.Query(ctx, changedSQL, int64(old.position), int64(now.position))
	if err != nil {
		return n, fmt.Errorf("looking for what was revoked: %w", err)
	}
	if n.Changed, err = pgx.CollectRows(rows, scanShard); err != nil {
		return n, fmt.Errorf("looking for what was revoked: %w", err)
	}
	if len(n.Changed) == 0 {
		return Notice{All: true}, nil // it was so long ago that the log has dropped them
	}
	return n, nil
}
