package pgstore

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
)

// What is locked is being used, or dropped by another node: SKIP LOCKED leaves it to that one.
const (
	pruneUsesSQL = `DELETE FROM uses WHERE key IN
		(SELECT key FROM uses WHERE until < $1 ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED)`
	pruneTokensSQL = `DELETE FROM revoked_tokens WHERE key IN
		(SELECT key FROM revoked_tokens WHERE until < $1 ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED)`
	pruneInvitationsSQL = `DELETE FROM invitations WHERE id IN
		(SELECT id FROM invitations WHERE expires_at < $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)`
	// Of changes only the start of the log may go, so this waits for another node that drops some: it must not drop what
	// follows those, and see them stay.
	pruneChangesSQL = `DELETE FROM changes WHERE position IN (
		SELECT position FROM changes
		WHERE position < coalesce((SELECT position FROM changes WHERE changed_at >= $1 ORDER BY position LIMIT 1), 9223372036854775807)
		ORDER BY position LIMIT $2 FOR UPDATE)`

	// overSQL: the last certificate of shard n and its last list l ended so long ago that nobody publishes it.
	overSQL    = `n.not_after < $1 AND coalesce(l.next_update < $1, true)`
	expiredSQL = `
		SELECT c.serial, r.serial IS NOT NULL
		FROM certificates c LEFT JOIN revocations r USING (serial)
		LEFT JOIN crls l ON l.issuer = c.issuer AND l.shard = c.shard
		LEFT JOIN shards n ON n.issuer = c.issuer AND n.shard = c.shard
		WHERE c.not_after < $1 AND (r.serial IS NULL OR coalesce(l.this_update > c.not_after, false) OR coalesce(` + overSQL + `, false))`
	someExpiredSQL  = expiredSQL + " ORDER BY c.not_after, c.serial LIMIT $2"
	theseExpiredSQL = expiredSQL + " AND c.serial = ANY($2::bytea[])"

	pruneShardsSQL = `
		WITH ended AS (
			SELECT n.issuer, n.shard FROM shards n LEFT JOIN crls l USING (issuer, shard)
			WHERE ` + overSQL + `
			AND n.shard < (SELECT max(shard) FROM shards m WHERE m.issuer = n.issuer)
			AND NOT EXISTS (SELECT FROM revocations r WHERE r.issuer = n.issuer AND r.shard = n.shard)
			ORDER BY n.issuer, n.shard LIMIT $2 FOR UPDATE OF n SKIP LOCKED
		), lists AS (DELETE FROM crls USING ended WHERE crls.issuer = ended.issuer AND crls.shard = ended.shard
		), blocks AS (DELETE FROM crl_blocks b USING ended WHERE b.issuer = ended.issuer AND b.shard = ended.shard)
		DELETE FROM shards USING ended WHERE shards.issuer = ended.issuer AND shards.shard = ended.shard
		RETURNING shards.issuer, shards.shard`
)

// Prune drops what is past its time, at most limit things; internal/storetest says what goes when. Each kind is a
// transaction of its own, and several nodes may prune at once. After an error, what it returns was dropped before.
// Autovacuum makes the room free for what comes.
func (s *Store) Prune(ctx context.Context, now time.Time, keep ca.Retention, limit int) (ca.Pruned, error) {
	p := pruning{s: s, now: now, limit: limit}
	for _, step := range []func() error{
		func() error { return p.drop(ctx, &p.done.Replays, pruneUsesSQL, now) },
		func() error { return p.drop(ctx, &p.done.Tokens, pruneTokensSQL, now) },
		func() error { return p.drop(ctx, &p.done.Changes, pruneChangesSQL, now.Add(-ca.KeepChanges)) },
		func() error {
			if keep.Invitations <= 0 {
				return nil
			}
			return p.drop(ctx, &p.done.Invitations, pruneInvitationsSQL, now.Add(-keep.Invitations))
		},
		func() error { return p.certificates(ctx, keep.Certificates) },
		func() error { return p.shards(ctx, keep.Certificates) },
	} {
		if p.left() <= 0 {
			break
		}
		if err := step(); err != nil {
			return p.done, err
		}
	}
	return p.done, nil
}

// pruning is one call of Prune.
type pruning struct {
	s     *Store
	now   time.Time
	limit int
	done  ca.Pruned
}

func (p *pruning) left() int { return p.limit - p.done.Total() }

// drop runs a statement that drops what ended before an instant.
func (p *pruning) drop(ctx context.Context, count *int, sql string, before time.Time) error {
	return p.s.write(ctx, "pruning", func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, sql, before, p.left())
		if err == nil {
			*count = int(tag.RowsAffected())
		}
		return err
	})
}

// expired are certificates that may go, and how many of them are revoked.
type expired struct {
	serials [][]byte
	revoked int
}

func (x *expired) read(rows pgx.Rows) error {
	*x = expired{}
	var serial []byte
	var revoked bool
	_, err := pgx.ForEachRow(rows, []any{&serial, &revoked}, func() error {
		x.serials = append(x.serials, serial)
		if revoked {
			x.revoked++
		}
		return nil
	})
	return err
}

// certificates drops expired certificates with their revocations. It looks for some, and then once more whether they may
// go, when nobody else can change them.
func (p *pruning) certificates(ctx context.Context, keep time.Duration) error {
	if keep <= 0 {
		return nil
	}
	cutoff := p.now.Add(-keep)
	var some, gone expired
	err := p.s.view(ctx, "looking for expired certificates", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, someExpiredSQL, cutoff, p.left())
		if err != nil {
			return err
		}
		return some.read(rows)
	})
	if err != nil || len(some.serials) == 0 {
		return err
	}
	var touches []string
	for _, serial := range some.serials {
		touches = append(touches, theCertificate(ca.Serial(serial)))
	}
	err = p.s.update(ctx, change{
		touches: touches,
		read:    func(q *reads) { q.queue(theseExpiredSQL, cutoff, some.serials).Query(gone.read) },
		apply: func(t *tx) error {
			if len(gone.serials) == 0 {
				return nil
			}
			t.exec("DELETE FROM certificates WHERE serial = ANY($1::bytea[])", gone.serials)
			t.exec("DELETE FROM revocations WHERE serial = ANY($1::bytea[])", gone.serials)
			t.seal(ca.PruneEvent(audit.From(ctx), p.now, cutoff, len(gone.serials), gone.revoked))
			return nil
		},
	})
	if err == nil {
		p.done.Certificates = len(gone.serials)
	}
	return err
}

// shards drops the counts and the CRL of shards that are over, but for the highest number of each issuer.
func (p *pruning) shards(ctx context.Context, keep time.Duration) error {
	if keep <= 0 || p.left() <= 0 {
		return nil
	}
	var ended []crl.Shard
	err := p.s.write(ctx, "pruning", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, pruneShardsSQL, p.now.Add(-keep), p.left())
		if err != nil {
			return err
		}
		ended, err = pgx.CollectRows(rows, scanShard)
		return err
	})
	for _, shard := range ended {
		p.s.lists.drop(shard)
	}
	p.done.Shards = len(ended)
	return err
}

func scanShard(row pgx.CollectableRow) (shard crl.Shard, err error) {
	err = row.Scan(&shard.Issuer, &shard.Number)
	return shard, err
}
