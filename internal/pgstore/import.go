package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/migrate"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// ErrNotEmpty: the database holds a store already, and nothing is moved on top of it.
var ErrNotEmpty = errors.New("the database is not empty")

// Import fills an empty database with everything that another store holds, in one transaction with the schema: until the
// commit nobody sees any of it, and an error leaves the database as empty as it was. Before the commit, check is given
// what the database holds by then; its error is the end of it all. It is a migrate.Target but for the URL.
func Import(ctx context.Context, url string, data migrate.Data, check func(migrate.Data) error) error {
	cfg, err := parseURL(url)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg.ConnConfig)
	if err != nil {
		return explain(ctx, "connecting", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what was committed is
	if _, err := conn.Exec(ctx, unhurriedSQL); err != nil {
		return explain(ctx, "setting up the session", err)
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := prepareEmpty(ctx, tx, data.Meta.Identity); err != nil {
			return err
		}
		if err := load(ctx, tx, data); err != nil {
			return err
		}
		stored, err := stored(ctx, tx)
		if err != nil {
			return err
		}
		return check(stored)
	})
	if err != nil {
		return explain(ctx, "moving into the database", err)
	}
	return nil
}

// prepareEmpty lays the schema out where there is none.
func prepareEmpty(ctx context.Context, tx pgx.Tx, identity string) error {
	var there bool
	if err := tx.QueryRow(ctx, "SELECT to_regclass('pkid.store') IS NOT NULL").Scan(&there); err != nil {
		return err
	}
	if there {
		return fmt.Errorf("%w: it holds a store of pkid; name another database, or drop the schema pkid in this one if you are sure that nobody needs it", ErrNotEmpty)
	}
	return prepare(ctx, tx, migrations, Options{Create: true, Identity: identity})
}

// load copies every kind of rows.
func load(ctx context.Context, tx pgx.Tx, data migrate.Data) error {
	steps := []func() error{
		func() error {
			return copyRows(ctx, tx, "certificates", certificateColumns, data.Certificates, certificateRow)
		},
		func() error {
			return copyRows(ctx, tx, "revocations", revocationColumns, revoked(data.Certificates), revocationRow)
		},
		func() error { return copyRows(ctx, tx, "changes", changesColumns, data.Changes, changeRow) },
		func() error {
			return copyRows(ctx, tx, "shards", []string{"issuer", "shard", "certificates", "not_after"}, data.Shards, shardRow)
		},
		func() error {
			return copyRows(ctx, tx, "invitations", invitationColumns, data.Invitations, invitationRow)
		},
		func() error {
			return copyRows(ctx, tx, "clients", []string{"id", "version", "record"}, data.Clients, clientRow)
		},
		func() error {
			return copyRows(ctx, tx, "keys", []string{"id", "version", "use", "record"}, data.Keys, keyRow)
		},
		func() error {
			return copyRows(ctx, tx, "revoked_tokens", []string{"key", "until"}, data.Tokens, onceRow)
		},
		func() error { return copyRows(ctx, tx, "uses", []string{"key", "until"}, data.Uses, onceRow) },
		func() error { return copyRows(ctx, tx, "audit", []string{"seq", "hash", "body"}, data.Audit, entryRow) },
		func() error { return loadCRLs(ctx, tx, data.CRLs) },
		func() error { return loadMeta(ctx, tx, data.Meta) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// copyRows streams rows into a table, as COPY does. The source's own error is returned as it is: the server only repeats
// its text.
func copyRows[T any](ctx context.Context, tx pgx.Tx, table string, columns []string, rows iter.Seq2[T, error], row func(T) ([]any, error)) error {
	next, stop := iter.Pull2(rows)
	defer stop()
	var failed error
	_, err := tx.CopyFrom(ctx, pgx.Identifier{schema, table}, columns, pgx.CopyFromFunc(func() ([]any, error) {
		r, err, ok := next()
		if err != nil || !ok {
			failed = err
			return nil, err
		}
		return row(r)
	}))
	if failed != nil {
		return failed
	}
	if err != nil {
		return fmt.Errorf("filling table %s: %w", table, err)
	}
	return nil
}

var (
	certificateColumns = []string{
		"serial", "not_before", "not_after", "issued_at", "shard", "issuer", "client_id", "profile", "thumbprint", "parent", "names", "search", "der",
	}
	revocationColumns = []string{"serial", "revoked_at", "not_after", "shard", "reason", "issuer", "thumbprint"}
	changesColumns    = []string{"position", "changed_at", "not_after", "shard", "reason", "released", "issuer", "serial"}
	invitationColumns = []string{
		"id", "secret_hash", "client_id", "profile", "names", "lifetime", "created_at", "expires_at", "spent_serial", "spent_use",
	}
)

func certificateRow(r *ca.Record) ([]any, error) {
	var parent []byte
	if !r.Parent.IsZero() {
		parent = r.Parent[:]
	}
	names, err := json.Marshal(r.Names) //nolint:errchkjson // the caller looks at errors anyway
	return []any{
		r.Serial[:], r.NotBefore, r.NotAfter, r.IssuedAt, int64(r.Shard), r.Issuer, r.ClientID, r.Profile, r.Thumbprint[:], parent,
		names, searchText(r.Names), append([]byte{}, r.DER...), // which is empty, and not null, where the record was lost
	}, err
}

// revoked leaves out what is not.
func revoked(all iter.Seq2[*ca.Record, error]) iter.Seq2[*ca.Record, error] {
	return func(yield func(*ca.Record, error) bool) {
		for r, err := range all {
			if (err != nil || r.Revocation != nil) && !yield(r, err) {
				return
			}
		}
	}
}

func revocationRow(r *ca.Record) ([]any, error) {
	return []any{r.Serial[:], r.Revocation.At, r.NotAfter, int64(r.Shard), int16(r.Revocation.Reason), r.Issuer, r.Thumbprint[:]}, nil
}

func changeRow(c migrate.Change) ([]any, error) {
	return []any{int64(c.Position), c.At, c.NotAfter, int64(c.Shard.Number), int16(c.Reason), c.Released, c.Shard.Issuer, c.Serial}, nil
}

func shardRow(s migrate.Shard) ([]any, error) {
	return []any{s.Issuer, int64(s.Number), int64(s.Certificates), s.NotAfter}, nil
}

func invitationRow(i *enroll.Invitation) ([]any, error) {
	names, err := json.Marshal(i.Names)
	row := []any{i.ID, i.SecretHash[:], i.ClientID, i.Profile, names, int64(i.Lifetime), i.CreatedAt, i.ExpiresAt, nil, nil}
	if i.Spent != nil {
		row[8], row[9] = i.Spent.Serial[:], i.Spent.Use[:]
	}
	return row, err
}

func clientRow(c *authserver.Client) ([]any, error) {
	record, err := json.Marshal(c)
	return []any{c.ID, int64(c.Version), record}, err
}

func keyRow(k keyring.Key) ([]any, error) {
	record, err := json.Marshal(k)
	return []any{k.ID, int64(k.Version), string(k.Use), record}, err
}

func onceRow(o migrate.Once) ([]any, error) { return []any{o.Key[:], o.Until}, nil }

func entryRow(e audit.Entry) ([]any, error) {
	return []any{int64(e.Seq), e.Hash[:], encodeEntry(&e)}, nil
}

func loadCRLs(ctx context.Context, tx pgx.Tx, lists iter.Seq2[crl.Signed, error]) error {
	for l, err := range lists {
		if err != nil {
			return err
		}
		if err := loadCRL(ctx, tx, l); err != nil {
			return fmt.Errorf("keeping the CRL of issuer %s: %w", l.Shard.Issuer, err)
		}
	}
	return nil
}

func loadCRL(ctx context.Context, tx pgx.Tx, l crl.Signed) error {
	hashes := []byte{}
	for _, b := range new(list).divide(l.DER) {
		hashes = append(hashes, b.hash[:]...)
		if _, err := tx.Exec(ctx, putBlocksSQL, l.Shard.Issuer, int64(l.Shard.Number), [][]byte{b.hash[:]}, [][]byte{b.data}); err != nil {
			return err
		}
	}
	var delta []byte
	if l.Delta != nil {
		delta = l.Delta.Bytes()
	}
	_, err := tx.Exec(ctx, `INSERT INTO crls (issuer, shard, number, this_update, next_update, blocks, delta) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		l.Shard.Issuer, int64(l.Shard.Number), int64(l.Number), l.ThisUpdate, l.NextUpdate, hashes, delta)
	return err
}

func loadMeta(ctx context.Context, tx pgx.Tx, m migrate.Meta) error {
	_, err := tx.Exec(ctx, "UPDATE head SET seq = $1, hash = $2, base_seq = $3, base_hash = $4, position = $5",
		int64(m.AuditHead.Seq), m.AuditHead.Hash[:], int64(m.AuditBase.Seq), m.AuditBase.Hash[:], int64(m.Position))
	if err != nil || m.Restored.IsZero() {
		return err
	}
	_, err = tx.Exec(ctx, "UPDATE state SET restored_at = $1", m.Restored)
	return err
}
