package storetest

import (
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
)

var keyringTests = map[string]func(*testing.T, *store){
	"KeyRoundTrip":       testKey,
	"KeysOfAUseInOrder":  testKeysInOrder,
	"PutKeyConflicts":    testKeyConflict,
	"PutKeyHasOneWinner": testKeyWinner,
	"DropKey":            testDropKey,
}

// key returns a token key that was made at start plus an offset.
func key(id string, offset time.Duration) keyring.Key {
	return keyring.Key{
		ID: id, Use: keyring.Tokens, Algorithm: "ES256", Sealed: noise(300), CreatedAt: start.Add(offset),
		ActiveFrom: start.Add(offset + time.Hour),
	}
}

func putKey(t *testing.T, s *store, k keyring.Key) keyring.Key {
	t.Helper()
	out, err := s.PutKey(t.Context(), k, event(audit.KeyAdd, k.ID))
	if err != nil {
		t.Fatalf("PutKey: %v", err)
	}
	return out
}

func keysOf(t *testing.T, s *store, use keyring.Use) []keyring.Key {
	t.Helper()
	keys, err := s.Keys(t.Context(), use)
	if err != nil {
		t.Fatalf("Keys(%s): %v", use, err)
	}
	return keys
}

func testKey(t *testing.T, s *store) {
	want := keyring.Key{
		ID: issuerID, Use: keyring.Issuing, Algorithm: "P-256", URI: "pkcs11:token=pkid;object=2", Request: noise(300),
		CreatedAt: start.Add(time.Millisecond),
	}
	got := putKey(t, s, want)
	want.Version = 1
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	want.Certificate, want.Root, want.RootCRL, want.Chain = noise(800), noise(800), noise(400), [][]byte{noise(800), noise(700)}
	want.ActiveFrom, want.EndsAt = start.Add(time.Hour), start.Add(9552*time.Hour)
	putKey(t, s, want)
	want.Version = 2
	for range 2 {
		if keys := keysOf(t, s, keyring.Issuing); len(keys) != 1 || !reflect.DeepEqual(keys[0], want) {
			t.Fatalf("Keys = %+v, want %+v", keys, want)
		}
		s.reopen(t)
	}
	if n := acts(t, s); n != 2 {
		t.Errorf("%d audit entries for two changes", n)
	}
}

func testKeysInOrder(t *testing.T, s *store) {
	for id, offset := range map[string]time.Duration{"c": time.Second, "a": 3 * time.Second, "b": 2 * time.Second} {
		putKey(t, s, key(id, offset))
	}
	issuing := key(issuerID, 0)
	issuing.Use = keyring.Issuing
	putKey(t, s, issuing)
	var ids []string
	for _, k := range keysOf(t, s, keyring.Tokens) {
		ids = append(ids, k.ID)
	}
	if !slices.Equal(ids, []string{"c", "b", "a"}) {
		t.Errorf("token keys in the order %q, want c, b, a", ids)
	}
	if keys := keysOf(t, s, keyring.Issuing); len(keys) != 1 || keys[0].ID != issuerID {
		t.Errorf("issuing keys = %+v", keys)
	}
	if keys := keysOf(t, s, "other"); len(keys) != 0 {
		t.Errorf("keys of another use = %+v", keys)
	}
}

func testKeyConflict(t *testing.T, s *store) {
	first := putKey(t, s, key("a", 0))
	second := first
	second.EndsAt = start.Add(time.Hour)
	second = putKey(t, s, second)
	before := acts(t, s)
	for _, version := range []uint64{0, 1, 3} {
		lost := key("a", time.Minute)
		lost.Version = version
		if _, err := s.PutKey(t.Context(), lost, event(audit.KeyChange, "a")); !errors.Is(err, keyring.ErrConflict) {
			t.Errorf("PutKey of version %d = %v, want ErrConflict", version, err)
		}
	}
	for name, change := range map[string]func(*keyring.Key){
		"nothing":     func(k *keyring.Key) { k.ID = "nobody" },
		"another use": func(k *keyring.Key) { k.Use = keyring.Issuing },
	} {
		lost := second
		change(&lost)
		if _, err := s.PutKey(t.Context(), lost, event(audit.KeyChange, lost.ID)); !errors.Is(err, keyring.ErrConflict) {
			t.Errorf("PutKey of a change to %s = %v, want ErrConflict", name, err)
		}
	}
	if keys := keysOf(t, s, keyring.Tokens); len(keys) != 1 || !reflect.DeepEqual(keys[0], second) {
		t.Errorf("Keys = %+v, want %+v", keys, second)
	}
	if acts(t, s) != before {
		t.Error("a refused change stands in the audit log")
	}
}

func testKeyWinner(t *testing.T, s *store) {
	k := key("a", 0)
	for version := range uint64(3) {
		k.Version = version
		errs := together(8, func(i int) error {
			mine := k
			mine.Algorithm = subject(i)
			_, err := s.PutKey(t.Context(), mine, event(audit.KeyChange, k.ID))
			return err
		})
		won := winner(t, errs, func(err error) bool { return errors.Is(err, keyring.ErrConflict) })
		if keys := keysOf(t, s, keyring.Tokens); len(keys) != 1 || keys[0].Algorithm != subject(won) || keys[0].Version != version+1 {
			t.Errorf("Keys = %+v; %s won", keys, subject(won))
		}
	}
}

func testDropKey(t *testing.T, s *store) {
	putKey(t, s, key("a", 0))
	putKey(t, s, key("b", time.Second))
	if err := s.DropKey(t.Context(), "a", event(audit.KeyDrop, "a")); err != nil {
		t.Fatalf("DropKey: %v", err)
	}
	before := acts(t, s)
	for _, id := range []string{"a", "", "nobody"} {
		if err := s.DropKey(t.Context(), id, event(audit.KeyDrop, id)); !errors.Is(err, keyring.ErrNotFound) {
			t.Errorf("DropKey(%q) = %v, want ErrNotFound", id, err)
		}
	}
	if acts(t, s) != before {
		t.Error("a key that was not there was dropped, says the audit log")
	}
	s.reopen(t)
	if keys := keysOf(t, s, keyring.Tokens); len(keys) != 1 || keys[0].ID != "b" {
		t.Errorf("Keys = %+v, want b", keys)
	}
	putKey(t, s, key("a", time.Minute)) // the id is free again
}
