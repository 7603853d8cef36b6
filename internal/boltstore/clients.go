package boltstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// Client implements authserver.ClientStore.
func (s *Store) Client(ctx context.Context, id string) (*authserver.Client, error) {
	var c *authserver.Client
	err := s.view(ctx, func(t *tx) (err error) {
		c, err = t.client(id)
		return err
	})
	return c, err
}

// PutClient implements authserver.ClientStore.
func (s *Store) PutClient(ctx context.Context, c authserver.Client, ev audit.Event) (*authserver.Client, error) {
	if err := checkID("client", c.ID); err != nil {
		return nil, err
	}
	expected := c.Version
	c.Version++
	v, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encoding client %q: %w", c.ID, err)
	}
	err = s.update(ctx, func(t *tx) error {
		stored, err := t.client(c.ID)
		if errors.Is(err, authserver.ErrNoClient) {
			stored, err = new(authserver.Client), nil
		}
		if err != nil {
			return err
		}
		if stored.Version != expected {
			return fmt.Errorf("%w: client %q has version %d, not %d", authserver.ErrConflict, c.ID, stored.Version, expected)
		}
		return errors.Join(t.put(clients, []byte(c.ID), v), t.seal(ev))
	})
	if err != nil {
		return nil, err
	}
	return &c, nil
}

// Clients implements authserver.ClientStore.
func (s *Store) Clients(ctx context.Context, after string, limit int) ([]*authserver.Client, error) {
	var out []*authserver.Client
	err := s.view(ctx, func(t *tx) error {
		c := t.cursor(clients)
		for k, v := c.Seek([]byte(after)); k != nil && len(out) < limit; k, v = c.Next() {
			if string(k) == after {
				continue
			}
			client, err := decodeClient(k, v)
			if err != nil {
				return err
			}
			out = append(out, client)
		}
		return nil
	})
	return out, err
}

// client reads a record, or returns authserver.ErrNoClient.
func (t *tx) client(id string) (*authserver.Client, error) {
	v := t.get(clients, []byte(id))
	if v == nil {
		return nil, fmt.Errorf("%w: %q", authserver.ErrNoClient, id)
	}
	return decodeClient([]byte(id), v)
}

func decodeClient(id, v []byte) (*authserver.Client, error) {
	c := new(authserver.Client)
	if err := json.Unmarshal(v, c); err != nil {
		return nil, fmt.Errorf("reading client %q: %w", id, err)
	}
	return c, nil
}
