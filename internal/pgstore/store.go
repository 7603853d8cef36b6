// Package pgstore keeps everything that pkid remembers in one PostgreSQL database, which any number of nodes share and
// beside which they share nothing.
//
// # Why it is safe
//
// Every transaction that writes an audit entry first locks one row, the head of the log. So there is one such
// transaction at a time over all nodes, in the order in which they commit: the entries' numbers and hashes, and the
// positions of revocations, grow as they become durable, which a sequence would not give. READ COMMITTED is enough for
// these: a statement that begins after the lock was had sees everything that was committed before, and nobody else can
// commit anything of the kind until the lock is given up, so what a transaction decided on still holds when it commits.
// Transactions that hold the lock are therefore serializable among each other. Reads do not wait for it.
//
// The lock is held for two round trips and a commit. One goroutine per node, the writer, runs everything that waits as
// one transaction (writer.go), so the price of a commit is shared by as many requests as came meanwhile. What needs no
// audit entry, such as publishing a CRL or using up a proof, is a statement of its own that compares and writes at once.
//
// # When the database is away
//
// Nothing waits for the database for more than a few seconds. A read or write that could not be done is
// ErrUnavailable, whose method RetryAfter() time.Duration tells callers that do not know this package; nothing was
// changed then. When a connection is lost after a commit was sent, the writer asks, on another one, what became of it,
// and answers with that; only if the database does not come back in time is it ErrOutcomeUnknown. Connections are made
// anew as they are needed, so when the database is back everything is. Only Open needs it at once.
//
// Connections are sessions: a pooler between pkid and the database must give each connection one of its own.
package pgstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/thumbprint"
)

// Options of Open; the zero value is fine for a store that exists.
type Options struct {
	// Create lays out an empty database. Without it such a database is an error: what was issued and revoked is gone
	// then, and a CRL made from nothing would give every revoked certificate back.
	Create bool
	// Identity names the CA that the store belongs to. A new store keeps it; opening one that keeps another is
	// ErrIdentity. Empty: not compared.
	Identity string
	Now      func() time.Time // time.Now if nil
	Logger   *slog.Logger     // slog.Default if nil
}

// Store is a database. Its methods may be called at once, and from many processes. A closure given to Decide runs inside
// the writer and must not call the store.
type Store struct {
	pool *pgxpool.Pool // for reads, and for writes without an audit entry
	now  func() time.Time
	log  *slog.Logger

	writer *writer
	uses   *uses
	lists  lists
	closed sync.Once

	// What each request asks for.
	invitations *lookups[string, storedInvitation]
	clients     *lookups[string, []byte]
	records     *lookups[ca.Serial, *ca.Record]
	revoked     *lookups[thumbprint.Cert, struct{}]
}

// Open connects to the database that a URL names, checks that it is a store, and brings its schema up to date. A
// database that is away is an error after a few seconds. The errors are ErrNotStore, ErrIdentity, ErrNewerSchema and
// ErrUnavailable, beside those of the URL.
func Open(ctx context.Context, url string, o Options) (*Store, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	cfg, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	where := fmt.Sprintf("%s at %s", cfg.ConnConfig.Database, cfg.ConnConfig.Host)
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening the store in database %s: %w", where, err)
	}
	s := &Store{pool: pool, now: o.Now, log: o.Logger}
	if err := s.prepare(ctx, o); err != nil {
		pool.Close()
		return nil, fmt.Errorf("opening the store in database %s: %w", where, err)
	}
	s.writer, s.uses = newWriter(s), newUses(s)
	s.invitations = newLookups(s, "reading invitations", findInvitations)
	s.clients = newLookups(s, "reading clients", findClients)
	s.records = newLookups(s, "reading certificates", findRecords)
	s.revoked = newLookups(s, "looking for revocations", findRevoked)
	return s, nil
}

// prepare uses a connection of its own, which ends with its locks and settings.
func (s *Store) prepare(ctx context.Context, o Options) error {
	conn, err := s.dial(ctx)
	if err != nil {
		return explain(ctx, "connecting", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // all that was done is committed
	err = prepare(ctx, conn, migrations, o)
	if errors.Is(err, ErrNotStore) || errors.Is(err, ErrIdentity) || errors.Is(err, ErrNewerSchema) {
		return err
	}
	return explain(ctx, "checking the schema", err)
}

// Close waits for the writes that were accepted and for the reads under way. It may be called twice.
func (s *Store) Close() error {
	s.closed.Do(func() {
		s.writer.close()
		s.uses.close()
		s.invitations.close()
		s.clients.close()
		s.records.close()
		s.revoked.close()
		s.pool.Close()
	})
	return nil
}
