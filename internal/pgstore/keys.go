package pgstore

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
)

// Keys implements keyring.Store.
func (s *Store) Keys(ctx context.Context, use keyring.Use) ([]keyring.Key, error) {
	var out []keyring.Key
	err := s.view(ctx, "reading keys", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT record FROM keys WHERE use = $1", string(use))
		if err != nil {
			return err
		}
		out, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (k keyring.Key, err error) {
			err = row.Scan(&k)
			return k, err
		})
		return err
	})
	slices.SortFunc(out, func(a, b keyring.Key) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return out, err
}

// PutKey implements keyring.Store.
func (s *Store) PutKey(ctx context.Context, k keyring.Key, ev audit.Event) (keyring.Key, error) {
	if err := checkID("key", k.ID); err != nil {
		return keyring.Key{}, err
	}
	expected := k.Version
	k.Version++
	record, err := json.Marshal(k)
	if err != nil {
		return keyring.Key{}, fmt.Errorf("encoding key %q: %w", k.ID, err)
	}
	stored, use := uint64(0), ""
	err = s.update(ctx, change{
		touches: []string{"key " + k.ID},
		read: func(q *reads) {
			stored, use = 0, string(k.Use) // if there is none
			q.queue("SELECT version, use FROM keys WHERE id = $1", k.ID).QueryRow(func(row pgx.Row) error {
				return ifThere(row.Scan(&stored, &use))
			})
		},
		apply: func(t *tx) error {
			if stored != expected || use != string(k.Use) {
				return fmt.Errorf("%w: key %q has version %d for %s, not %d for %s", keyring.ErrConflict, k.ID, stored, use, expected, k.Use)
			}
			t.exec(`INSERT INTO keys (id, version, use, record) VALUES ($1, $2, $3, $4)
				ON CONFLICT (id) DO UPDATE SET version = EXCLUDED.version, record = EXCLUDED.record`,
				k.ID, int64(k.Version), string(k.Use), record)
			t.changedKeys(ev)
			return nil
		},
	})
	if err != nil {
		return keyring.Key{}, err
	}
	return k, nil
}

// DropKey implements keyring.Store.
func (s *Store) DropKey(ctx context.Context, id string, ev audit.Event) error {
	found := false
	if !isText(id) {
		return fmt.Errorf("%w: %.40q", keyring.ErrNotFound, id)
	}
	return s.update(ctx, change{
		touches: []string{"key " + id},
		read: func(q *reads) {
			q.queue("SELECT EXISTS (SELECT FROM keys WHERE id = $1)", id).QueryRow(func(row pgx.Row) error { return row.Scan(&found) })
		},
		apply: func(t *tx) error {
			if !found {
				return fmt.Errorf("%w: %.40q", keyring.ErrNotFound, id)
			}
			t.exec("DELETE FROM keys WHERE id = $1", id)
			t.changedKeys(ev)
			return nil
		},
	})
}

func (t *tx) changedKeys(ev audit.Event) {
	t.exec("UPDATE state SET keys = keys + 1")
	t.notify(keysNotice)
	t.seal(ev)
}
