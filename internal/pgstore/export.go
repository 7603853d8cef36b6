package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/migrate"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// stored is everything that the database holds, as a transaction sees it. One sequence is walked at a time: the
// connection has one query under way.
func stored(ctx context.Context, tx pgx.Tx) (migrate.Data, error) {
	meta, err := storedMeta(ctx, tx)
	return migrate.Data{
		Meta:         meta,
		Certificates: readRows(ctx, tx, "SELECT "+recordColumns+" FROM certificates c LEFT JOIN revocations r USING (serial)", readRecord),
		Changes: readRows(ctx, tx,
			"SELECT issuer, shard, position, released, serial, reason, changed_at, not_after FROM changes ORDER BY position", readChange),
		CRLs:   storedCRLs(ctx, tx),
		Shards: readRows(ctx, tx, "SELECT issuer, shard, certificates, not_after FROM shards", readShard),
		Invitations: readRows(ctx, tx,
			"SELECT id, secret_hash, client_id, profile, names, lifetime, created_at, expires_at, spent_serial, spent_use FROM invitations", readInvitation),
		Clients: readRows(ctx, tx, "SELECT record FROM clients", func(row pgx.Row) (*authserver.Client, error) {
			c := new(authserver.Client)
			return c, row.Scan(c)
		}),
		Tokens: readRows(ctx, tx, "SELECT key, until FROM revoked_tokens", readOnce),
		Uses:   readRows(ctx, tx, "SELECT key, until FROM uses", readOnce),
		Audit:  storedAudit(ctx, tx, meta.AuditBase),
		Keys: readRows(ctx, tx, "SELECT record FROM keys", func(row pgx.Row) (k keyring.Key, err error) {
			err = row.Scan(&k)
			return k, err
		}),
	}, err
}

// readRows walks the rows of a query as they come from the server.
func readRows[T any](ctx context.Context, tx pgx.Tx, sql string, read func(pgx.Row) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		rows, err := tx.Query(ctx, sql)
		if err == nil {
			defer rows.Close()
			for rows.Next() {
				row, err := read(rows)
				if !yield(row, err) || err != nil {
					return
				}
			}
			err = rows.Err()
		}
		if err != nil {
			var none T
			yield(none, err)
		}
	}
}

func storedMeta(ctx context.Context, tx pgx.Tx) (m migrate.Meta, err error) {
	var restored *time.Time
	err = tx.QueryRow(ctx, "SELECT owner, seq, hash, base_seq, base_hash, position, restored_at FROM store, head, state").Scan(
		&m.Identity, &m.AuditHead.Seq, (*hashValue)(&m.AuditHead.Hash), &m.AuditBase.Seq, (*hashValue)(&m.AuditBase.Hash), &m.Position, &restored)
	if restored != nil {
		m.Restored = *restored
	}
	return m, err
}

func readChange(row pgx.Row) (c migrate.Change, err error) {
	err = row.Scan(&c.Shard.Issuer, &c.Shard.Number, &c.Position, &c.Released, &c.Serial, &c.Reason, &c.At, &c.NotAfter)
	return c, err
}

func readShard(row pgx.Row) (s migrate.Shard, err error) {
	err = row.Scan(&s.Issuer, &s.Number, &s.Certificates, &s.NotAfter)
	return s, err
}

func readOnce(row pgx.Row) (o migrate.Once, err error) {
	var key []byte
	if err := row.Scan(&key, &o.Until); err != nil {
		return o, err
	}
	return o, fill(o.Key[:], key)
}

func readInvitation(row pgx.Row) (*enroll.Invitation, error) {
	inv := &enroll.Invitation{}
	var lifetime int64
	var hash, names, serial, use []byte
	if err := row.Scan(&inv.ID, &hash, &inv.ClientID, &inv.Profile, &names, &lifetime, &inv.CreatedAt, &inv.ExpiresAt, &serial, &use); err != nil {
		return nil, err
	}
	inv.Lifetime, inv.CreatedAt, inv.ExpiresAt = time.Duration(lifetime), inv.CreatedAt.UTC(), inv.ExpiresAt.UTC()
	err := errors.Join(fill(inv.SecretHash[:], hash), json.Unmarshal(names, &inv.Names))
	if serial != nil {
		inv.Spent = &enroll.Spent{}
		err = errors.Join(err, fill(inv.Spent.Serial[:], serial), fill(inv.Spent.Use[:], use))
	}
	if err != nil {
		return nil, fmt.Errorf("invitation %s: %w: %w", inv.ID, errDamaged, err)
	}
	return inv, nil
}

// storedAudit gives each entry the hash of the one before, which is not kept twice.
func storedAudit(ctx context.Context, tx pgx.Tx, base audit.Head) iter.Seq2[audit.Entry, error] {
	return func(yield func(audit.Entry, error) bool) {
		prev := base.Hash
		entries := readRows(ctx, tx, "SELECT seq, hash, body FROM audit ORDER BY seq", func(row pgx.Row) (audit.Entry, error) {
			var seq uint64
			var hash audit.Hash
			var body []byte
			if err := row.Scan(&seq, (*hashValue)(&hash), &body); err != nil {
				return audit.Entry{}, err
			}
			e := decodeEntry(audit.Head{Seq: seq, Hash: hash}, prev, body)
			prev = hash
			return e, nil
		})
		entries(yield)
	}
}

// storedCRLs reads the lists with their texts, each in turn.
func storedCRLs(ctx context.Context, tx pgx.Tx) iter.Seq2[crl.Signed, error] {
	return func(yield func(crl.Signed, error) bool) {
		rows, err := tx.Query(ctx, "SELECT issuer, shard FROM crls")
		if err != nil {
			yield(crl.Signed{}, err)
			return
		}
		shards, err := pgx.CollectRows(rows, pgx.RowToStructByPos[crl.Shard])
		if err != nil {
			yield(crl.Signed{}, err)
			return
		}
		for _, shard := range shards {
			list, err := storedCRL(ctx, tx, shard)
			if !yield(list, err) || err != nil {
				return
			}
		}
	}
}

func storedCRL(ctx context.Context, tx pgx.Tx, shard crl.Shard) (crl.Signed, error) {
	found := crl.Signed{Shard: shard}
	var hashes, delta []byte
	const none = -1 // no list has that number
	err := tx.QueryRow(ctx, latestSQL, shard.Issuer, int64(shard.Number), int64(none)).
		Scan(&found.Number, &found.ThisUpdate, &found.NextUpdate, &hashes, &delta)
	if err != nil {
		return found, err
	}
	if delta != nil {
		found.Delta = crl.DER{delta}
	}
	for hash := range slices.Chunk(hashes, len(blockHash{})) {
		var data []byte
		err := tx.QueryRow(ctx, "SELECT data FROM crl_blocks WHERE issuer = $1 AND shard = $2 AND hash = $3", shard.Issuer, int64(shard.Number), hash).
			Scan(&data)
		if err != nil {
			return found, err
		}
		found.DER = append(found.DER, data)
	}
	return found, nil
}
