package boltstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// Client implements authserver.ClientStore. The record is shared with other callers, and so read-only.
func (s *Store) Client(ctx context.Context, id string) (*authserver.Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, asOf := s.known.get(id)
	if c != nil {
		return c, nil
	}
	err := s.view(ctx, func(t *tx) (err error) {
		c, err = t.client(id)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.known.keep(c, asOf)
	return c, nil
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
	defer s.known.change(c.ID)() // whatever the outcome: an error may leave it in doubt
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

// maxKnown bounds the client records in memory, at some 500 octets each.
const maxKnown = 20_000

// known are client records as they were read, since every token asks for one. While a record is changed it is read from
// the file: from the commit on the audit log tells of the change, and whoever read that must not find what was before.
type known struct {
	mu       sync.RWMutex // guards all below
	records  map[string]*authserver.Client
	changing map[string]int // changes under way
	changes  uint64         // how often one began or ended
}

// get returns a record, or nil and as of which change it is missing.
func (k *known) get(id string) (*authserver.Client, uint64) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.records[id], k.changes
}

// keep adds what was read after get, unless a change since then may have made it old.
func (k *known) keep(c *authserver.Client, asOf uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changes != asOf || k.changing[c.ID] > 0 {
		return
	}
	for id := range k.records {
		if len(k.records) < maxKnown {
			break
		}
		delete(k.records, id) // any
	}
	k.records[c.ID] = c
}

// change says that a record is about to be changed; done is called when it was, or could not be.
func (k *known) change(id string) (done func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.records, id)
	k.changing[id]++
	k.changes++
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.changing[id]--; k.changing[id] == 0 {
			delete(k.changing, id)
		}
		k.changes++
	}
}
