package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/tokenbind"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// testSharedProofs: everybody tries every key, in an order of their own, and each key is accepted from one of them.
func testSharedProofs(t *testing.T, s *cluster) {
	const keys = 60
	until := time.Now().Add(time.Hour)
	var mu sync.Mutex // guards wins
	var wins [keys]int
	errs := together(2*racers, func(i int) error {
		for k := range keys {
			k = (k*7 + i*11) % keys
			err := s.node(i).Use(t.Context(), [32]byte{byte(k + 1)}, until)
			switch {
			case err == nil:
				mu.Lock()
				wins[k]++
				mu.Unlock()
			case !errors.Is(err, tokenbind.ErrReplayed):
				return err
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for k, n := range wins {
		if n != 1 {
			t.Errorf("key %d was accepted %d times", k, n)
		}
	}
}

// testSharedClient: a new record and each change of it come from one of those who try, and from no other.
func testSharedClient(t *testing.T, s *cluster) {
	c := &authserver.Client{ID: "alice"}
	for version := range uint64(5) {
		var kept [racers]*authserver.Client
		errs := together(racers, func(i int) (err error) {
			mine := *c
			mine.Subject = subject(i)
			kept[i], err = s.node(i).PutClient(t.Context(), mine, event(audit.ClientChange, c.ID))
			return err
		})
		c = kept[winner(t, errs, func(err error) bool { return errors.Is(err, authserver.ErrConflict) })]
		if c.Version != version+1 {
			t.Errorf("the version is %d, want %d", c.Version, version+1)
		}
		for i := range s.nodes {
			if got, err := s.node(i).Client(t.Context(), c.ID); err != nil || !reflect.DeepEqual(got, c) {
				t.Errorf("Client = %+v, %v; want %+v", got, err, c)
			}
		}
	}
	if got := acts(t, &s.store); got != 5 {
		t.Errorf("%d audit entries for 5 changes", got)
	}
}

// testSharedToken: revoking a token that is revoked is no error and no act, whoever was first.
func testSharedToken(t *testing.T, s *cluster) {
	errs := together(racers, func(i int) error {
		if err := s.node(i).RevokeToken(t.Context(), "jti", start.Add(time.Hour), event(audit.TokenRevoke, "jti")); err != nil {
			return err
		}
		if found, err := s.node(i+1).TokenRevoked(t.Context(), "jti"); err != nil || !found {
			return fmt.Errorf("the token is revoked here, and at the next node: %t, %w", found, err)
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if got := acts(t, &s.store); got != 1 {
		t.Errorf("%d audit entries for one revoked token", got)
	}
}

// testSharedKey: a new key and each change of it come from one of those who try.
func testSharedKey(t *testing.T, s *cluster) {
	k := key("a", 0)
	for version := range uint64(4) {
		var kept [racers]keyring.Key
		errs := together(racers, func(i int) (err error) {
			mine := k
			mine.Algorithm = subject(i)
			kept[i], err = s.node(i).PutKey(t.Context(), mine, event(audit.KeyChange, k.ID))
			return err
		})
		k = kept[winner(t, errs, func(err error) bool { return errors.Is(err, keyring.ErrConflict) })]
		for i := range s.nodes {
			if keys := keysOf(t, s.node(i), keyring.Tokens); k.Version != version+1 || len(keys) != 1 || !reflect.DeepEqual(keys[0], k) {
				t.Errorf("Keys = %+v, want %+v", keys, k)
			}
		}
	}
	errs := together(racers, func(i int) error { return s.node(i).DropKey(t.Context(), k.ID, event(audit.KeyDrop, k.ID)) })
	winner(t, errs, func(err error) bool { return errors.Is(err, keyring.ErrNotFound) })
	if got := acts(t, &s.store); got != 5 {
		t.Errorf("%d audit entries for 4 changes and the end", got)
	}
}
