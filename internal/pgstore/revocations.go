package pgstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
)

// revocationNotice tells the other nodes that the log of changes has grown.
const revocationNotice = "changes"

// Decide implements ca.Store. decide runs inside the writer: it must be quick, and must not call the store.
func (s *Store) Decide(ctx context.Context, serial ca.Serial, decide func(*ca.Record) (*ca.Revocation, audit.Event, error)) (*ca.Record, error) {
	var found, kept *ca.Record
	err := s.update(ctx, change{
		touches: []string{theCertificate(serial)},
		read: func(q *reads) {
			found = nil
			q.queue(recordSQL, serial[:]).Query(func(rows pgx.Rows) (err error) {
				found, err = pgx.CollectExactlyOneRow(rows, scanRecord)
				if errors.Is(err, pgx.ErrNoRows) {
					return nil
				}
				return err
			})
		},
		apply: func(t *tx) error {
			if found == nil {
				return fmt.Errorf("%w: %s", ca.ErrNotFound, serial)
			}
			rev, ev, err := decide(found)
			if err != nil {
				return err
			}
			now := *found
			now.Revocation = rev
			kept = &now
			t.setRevocation(found, rev, ev.Time)
			t.seal(ev)
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return kept, nil
}

// changed is a row of the log of changes, and what it does to the revocations.
type changed struct {
	position uint64
	rec      *ca.Record
	released bool
	now      ca.Revocation // of a release: its instant, for the reason removeFromCRL
}

// setRevocation replaces a record's revocation.
func (t *tx) setRevocation(rec *ca.Record, rev *ca.Revocation, at time.Time) {
	c := changed{rec: rec}
	switch {
	case rev != nil:
		c.now = *rev
	case rec.Revocation != nil:
		c.released, c.now = true, ca.Revocation{Reason: ca.RemoveFromCRL, At: at}
	default:
		return
	}
	t.at++
	c.position = t.at
	t.changes = append(t.changes, c)
	t.notify(revocationNotice)
}

const (
	releaseSQL = "DELETE FROM revocations WHERE serial = ANY($1::bytea[])"
	revokeSQL  = `
		INSERT INTO revocations (serial, revoked_at, not_after, shard, reason, issuer, thumbprint)
		SELECT * FROM unnest($1::bytea[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::smallint[], $6::text[], $7::bytea[])
		ON CONFLICT (serial) DO UPDATE SET revoked_at = excluded.revoked_at, reason = excluded.reason`
	changeSQL = `
		INSERT INTO changes (position, changed_at, not_after, shard, reason, released, issuer, serial)
		SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::smallint[], $6::boolean[], $7::text[], $8::bytea[])`
)

// queueChanges adds what Decides brought. No two are of one certificate.
func (t *tx) queueChanges(b *pgx.Batch) {
	if len(t.changes) == 0 {
		return
	}
	var all, kept changeColumns
	var released [][]byte
	for i := range t.changes {
		c := &t.changes[i]
		all.add(c)
		if c.released {
			released = append(released, c.rec.Serial[:])
		} else {
			kept.add(c)
		}
	}
	if len(released) > 0 {
		b.Queue(releaseSQL, released)
	}
	if len(kept.serials) > 0 {
		b.Queue(revokeSQL, kept.serials, kept.ats, kept.notAfters, kept.shards, kept.reasons, kept.issuers, kept.thumbprints)
	}
	b.Queue(changeSQL, all.positions, all.ats, all.notAfters, all.shards, all.reasons, all.released, all.issuers, all.serials)
}

type changeColumns struct {
	positions, shards    []int64
	serials, thumbprints [][]byte
	ats, notAfters       []time.Time
	reasons              []int16
	released             []bool
	issuers              []string
}

func (cc *changeColumns) add(c *changed) {
	cc.positions, cc.shards = append(cc.positions, int64(c.position)), append(cc.shards, int64(c.rec.Shard))
	cc.serials, cc.thumbprints = append(cc.serials, c.rec.Serial[:]), append(cc.thumbprints, c.rec.Thumbprint[:])
	cc.ats, cc.notAfters = append(cc.ats, c.now.At), append(cc.notAfters, c.rec.NotAfter)
	cc.reasons, cc.released = append(cc.reasons, int16(c.now.Reason)), append(cc.released, c.released)
	cc.issuers = append(cc.issuers, c.rec.Issuer)
}

// RevokedThumbprint implements ca.Store. Every use of a token asks: it is a search in one index, and what another node
// committed counts at once.
func (s *Store) RevokedThumbprint(ctx context.Context, tp thumbprint.Cert) (bool, error) {
	_, found, err := s.revoked.get(ctx, tp)
	return found, err
}

const revokedThumbprintsSQL = "SELECT thumbprint FROM revocations WHERE thumbprint = ANY($1::bytea[])"

func findRevoked(ctx context.Context, conn *pgx.Conn, all []thumbprint.Cert) (map[thumbprint.Cert]struct{}, error) {
	keys := make([][]byte, len(all))
	for i := range all {
		keys[i] = all[i][:]
	}
	rows, err := conn.Query(ctx, revokedThumbprintsSQL, keys)
	return collect(rows, err, func(row pgx.CollectableRow) (tp thumbprint.Cert, _ struct{}, err error) {
		err = row.Scan((*thumbprintValue)(&tp))
		return tp, struct{}{}, err
	})
}

// chunk is how many rows Revoked and Changes read at once.
const chunk = 4096

const revokedSQL = `
	SELECT serial, reason, revoked_at, not_after FROM revocations
	WHERE issuer = $1 AND shard = $2 AND serial > $3 ORDER BY serial LIMIT $4`

// Revoked implements crl.Revocations. It reads in chunks, each on a newer snapshot than the one before, and holds none
// while the consumer works. So it yields every certificate that was revoked when it was called and still is; one that
// is revoked or released in between may be there or not.
func (s *Store) Revoked(ctx context.Context, shard crl.Shard, notBefore time.Time) iter.Seq2[crl.Entry, error] {
	return func(yield func(crl.Entry, error) bool) {
		for after, more := []byte{}, true; more; {
			var some []crl.Entry
			err := s.view(ctx, "reading revocations of issuer "+shard.Issuer, func(ctx context.Context, conn *pgx.Conn) error {
				rows, err := conn.Query(ctx, revokedSQL, shard.Issuer, int64(shard.Number), after, chunk)
				if err != nil {
					return err
				}
				some, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e crl.Entry, err error) {
					err = row.Scan(&e.Serial, &e.Reason, &e.At, &e.NotAfter)
					e.At, e.NotAfter = e.At.UTC(), e.NotAfter.UTC()
					return e, err
				})
				return err
			})
			if err != nil {
				yield(crl.Entry{}, err)
				return
			}
			if more = len(some) == chunk; more {
				after = some[chunk-1].Serial
			}
			for _, e := range some {
				if !e.NotAfter.Before(notBefore) && !yield(e, nil) {
					return
				}
			}
		}
	}
}

// Position implements crl.Revocations.
func (s *Store) Position(ctx context.Context) (uint64, error) {
	at := uint64(0)
	err := s.view(ctx, "reading the position of changes", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT position FROM head").Scan(&at)
	})
	return at, err
}

const changesSQL = `
	SELECT position, released, serial, reason, changed_at, not_after FROM changes
	WHERE issuer = $1 AND shard = $2 AND position > $3 AND position <= $4 ORDER BY position LIMIT $5`

// firstChangeSQL is the position of the oldest change that is kept, or of the next one that comes.
const firstChangeSQL = "SELECT coalesce((SELECT position FROM changes ORDER BY position LIMIT 1), (SELECT position + 1 FROM head))"

// Changes implements crl.Revocations. It reads in chunks as Revoked does, up to where the log ended when it was called.
func (s *Store) Changes(ctx context.Context, shard crl.Shard, after uint64) iter.Seq2[crl.Change, error] {
	return func(yield func(crl.Change, error) bool) {
		end, err := s.Position(ctx)
		for err == nil && after < min(end, math.MaxInt64) {
			var some []crl.Change
			if some, err = s.changesChunk(ctx, shard, after, end); err != nil {
				break
			}
			after = end
			if len(some) == chunk {
				after = some[chunk-1].Position
			}
			for _, c := range some {
				if !yield(c, nil) {
					return
				}
			}
		}
		if err != nil {
			yield(crl.Change{}, err)
		}
	}
}

// changesChunk reads changes after a position, up to end. What it looks for last, and so finds at least as late as the
// changes, is where the log begins: if it still goes back to after, no change was dropped before it was read.
func (s *Store) changesChunk(ctx context.Context, shard crl.Shard, after, end uint64) (some []crl.Change, err error) {
	err = s.view(ctx, "reading changes of issuer "+shard.Issuer, func(ctx context.Context, conn *pgx.Conn) error {
		first := uint64(0)
		b := &pgx.Batch{}
		b.Queue(changesSQL, shard.Issuer, int64(shard.Number), int64(after), int64(end), chunk).Query(func(rows pgx.Rows) (err error) {
			some, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c crl.Change, err error) {
				err = row.Scan(&c.Position, &c.Released, &c.Serial, &c.Reason, &c.At, &c.NotAfter)
				c.At, c.NotAfter = c.At.UTC(), c.NotAfter.UTC()
				return c, err
			})
			return err
		})
		b.Queue(firstChangeSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&first) })
		if err := conn.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		if after+1 < first {
			return fmt.Errorf("%w: position %d, and it begins at %d", crl.ErrChangesDropped, after, first)
		}
		return nil
	})
	return some, err
}
