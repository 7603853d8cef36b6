package boltstore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
)

// Keys implements keyring.Store.
func (s *Store) Keys(ctx context.Context, use keyring.Use) ([]keyring.Key, error) {
	var out []keyring.Key
	err := s.view(ctx, func(t *tx) error {
		c := t.cursor(ring)
		for id, v := c.First(); id != nil; id, v = c.Next() {
			k, err := decodeKey(id, v)
			if err != nil {
				return err
			}
			if k.Use == use {
				out = append(out, k)
			}
		}
		return nil
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
	v, err := json.Marshal(k)
	if err != nil {
		return keyring.Key{}, fmt.Errorf("encoding key %q: %w", k.ID, err)
	}
	err = s.update(ctx, func(t *tx) error {
		stored, err := t.key(k.ID)
		if errors.Is(err, keyring.ErrNotFound) {
			stored, err = keyring.Key{Use: k.Use}, nil
		}
		if err != nil {
			return err
		}
		if stored.Version != expected || stored.Use != k.Use {
			return fmt.Errorf("%w: key %q has version %d for %s, not %d for %s", keyring.ErrConflict, k.ID, stored.Version, stored.Use, expected, k.Use)
		}
		return errors.Join(t.put(ring, []byte(k.ID), v), t.seal(ev))
	})
	if err != nil {
		return keyring.Key{}, err
	}
	return k, nil
}

// DropKey implements keyring.Store.
func (s *Store) DropKey(ctx context.Context, id string, ev audit.Event) error {
	return s.update(ctx, func(t *tx) error {
		if _, err := t.key(id); err != nil {
			return err
		}
		return errors.Join(t.delete(ring, []byte(id)), t.seal(ev))
	})
}

// key reads a key of the ring, or returns keyring.ErrNotFound.
func (t *tx) key(id string) (keyring.Key, error) {
	v := t.get(ring, []byte(id))
	if v == nil {
		return keyring.Key{}, fmt.Errorf("%w: %.40q", keyring.ErrNotFound, id)
	}
	return decodeKey([]byte(id), v)
}

func decodeKey(id, v []byte) (k keyring.Key, err error) {
	if err := json.Unmarshal(v, &k); err != nil {
		return k, fmt.Errorf("reading key %q: %w", id, err)
	}
	return k, nil
}
