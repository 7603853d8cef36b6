package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// Client implements authserver.ClientStore. It asks the database each time: a client that was disabled on one node is so
// on every other from the next request on.
func (s *Store) Client(ctx context.Context, id string) (*authserver.Client, error) {
	if !isText(id) {
		return nil, fmt.Errorf("%w: %.40q", authserver.ErrNoClient, id)
	}
	record, found, err := s.clients.get(ctx, id)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("%w: %q", authserver.ErrNoClient, id)
	}
	c := new(authserver.Client)
	if err := json.Unmarshal(record, c); err != nil {
		return nil, fmt.Errorf("client %q: %w: %w", id, errDamaged, err)
	}
	return c, nil
}

const clientsSQL = "SELECT id, record::text FROM clients WHERE id = ANY($1::text[])"

// findClients returns records as JSON, which everybody who asked reads into a record of their own.
func findClients(ctx context.Context, conn *pgx.Conn, ids []string) (map[string][]byte, error) {
	rows, err := conn.Query(ctx, clientsSQL, ids)
	return collect(rows, err, func(row pgx.CollectableRow) (id string, record []byte, err error) {
		err = row.Scan(&id, &record)
		return id, record, err
	})
}

// Clients implements authserver.ClientStore.
func (s *Store) Clients(ctx context.Context, after string, limit int) ([]*authserver.Client, error) {
	if !isText(after) {
		return nil, nil // no client has such an id, nor does any follow it
	}
	var out []*authserver.Client
	err := s.view(ctx, "reading clients", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT record FROM clients WHERE id > $1 ORDER BY id LIMIT $2", after, limit)
		if err != nil {
			return err
		}
		out, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*authserver.Client, error) {
			c := new(authserver.Client)
			return c, row.Scan(c)
		})
		return err
	})
	return out, err
}

// PutClient implements authserver.ClientStore.
func (s *Store) PutClient(ctx context.Context, c authserver.Client, ev audit.Event) (*authserver.Client, error) {
	if err := checkID("client", c.ID); err != nil {
		return nil, err
	}
	expected := c.Version
	c.Version++
	record, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encoding client %q: %w", c.ID, err)
	}
	stored := uint64(0)
	err = s.update(ctx, change{
		touches: []string{"client " + c.ID},
		read: func(q *reads) {
			stored = 0 // if there is none
			q.queue("SELECT version FROM clients WHERE id = $1", c.ID).QueryRow(func(row pgx.Row) error {
				return ifThere(row.Scan(&stored))
			})
		},
		apply: func(t *tx) error {
			if stored != expected {
				return fmt.Errorf("%w: client %q has version %d, not %d", authserver.ErrConflict, c.ID, stored, expected)
			}
			t.exec(`INSERT INTO clients (id, version, record) VALUES ($1, $2, $3)
				ON CONFLICT (id) DO UPDATE SET version = EXCLUDED.version, record = EXCLUDED.record`, c.ID, int64(c.Version), record)
			t.exec("UPDATE state SET clients = clients + 1")
			t.notify(clientsNotice)
			t.seal(ev)
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return &c, nil
}

// ifThere is the error of a query for a row that there may be.
func ifThere(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}
