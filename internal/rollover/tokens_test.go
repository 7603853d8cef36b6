package rollover_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/rollover"
	"github.com/pkid/pkid/thumbprint"
)

const every = 720 * time.Hour

// tokens are a house's token keys, the configured one of which came into service when the house was made.
type tokens struct {
	*house
	c rollover.TokensConfig
	*rollover.Tokens
}

func newTokens(t *testing.T, change ...func(*rollover.TokensConfig)) *tokens {
	t.Helper()
	h := newHouse(t)
	key := newKey(t)
	kid, err := thumbprint.OfKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	k := &tokens{house: h, c: rollover.TokensConfig{
		Store: h.store, Passphrase: passphrase, Born: h.now, Every: every, Now: h.c.Now,
		Configured: []rollover.TokenKey{{ID: kid.String(), Algorithm: "ES256", Key: key}},
	}}
	for _, f := range change {
		f(&k.c)
	}
	k.Tokens = k.node()
	return k
}

// node is another process over the same store.
func (k *tokens) node() *rollover.Tokens {
	k.t.Helper()
	c := k.c
	c.Configured = slices.Clone(c.Configured)
	n, err := rollover.NewTokens(c)
	if err != nil {
		k.t.Fatal(err)
	}
	return n
}

func (k *tokens) keys() []rollover.TokenKey {
	k.t.Helper()
	all, err := k.Tokens.All(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	return all
}

// current returns the ids of the published keys, the one that signs first.
func (k *tokens) current() (ids []string) {
	k.t.Helper()
	for _, key := range rollover.Current(k.keys(), k.now) {
		ids = append(ids, key.ID)
	}
	return ids
}

func (k *tokens) keep(want bool) {
	k.t.Helper()
	if changed, err := k.Keep(k.t.Context()); err != nil || changed != want {
		k.t.Fatalf("Keep at %s = %t, %v; want %t", k.now, changed, err, want)
	}
}

func (k *tokens) wantCurrent(ids ...string) {
	k.t.Helper()
	if got := k.current(); !slices.Equal(got, ids) {
		k.t.Errorf("at %s: published %q, want %q", k.now, got, ids)
	}
}

// A key is announced, signs, is followed, and goes when nothing that it signed can live.
func TestTokenKeysRotate(t *testing.T) {
	k := newTokens(t)
	born, first := k.now, k.c.Configured[0].ID
	k.keep(false)
	k.now = born.Add(every - rollover.Announce - time.Second)
	k.keep(false)
	k.now = born.Add(every - rollover.Announce)
	k.keep(true)
	k.keep(false)
	second := k.keys()[1].ID
	k.wantCurrent(first, second)
	k.now = born.Add(every - time.Millisecond)
	k.wantCurrent(first, second)
	k.now = born.Add(every)
	k.wantCurrent(second, first)
	k.now = born.Add(every + time.Hour) // the longest life of a token, and clocks differ
	k.wantCurrent(second, first)
	k.now = born.Add(every + time.Hour + 3*time.Minute)
	k.wantCurrent(second)

	k.now = born.Add(2*every - rollover.Announce)
	k.keep(true)
	third := k.keys()[2].ID
	k.now = born.Add(2 * every)
	k.wantCurrent(third, second)
	k.now = k.now.Add(2 * time.Hour)
	k.keep(true) // it forgets the second
	if ring, err := k.store.Keys(t.Context(), keyring.Tokens); err != nil || len(ring) != 1 {
		t.Errorf("%d keys in the ring, %v", len(ring), err)
	}
	k.wantCurrent(third)
	k.Tokens = k.node() // a restart
	k.wantCurrent(third)
	if all := k.keys(); all[0].Key == nil || all[0].ID != first || all[1].ID != third {
		t.Errorf("keys %+v", all)
	}
}

// A daemon that was stopped when a key was due announces it as long as ever.
func TestTokenKeyThatIsOverdueIsAnnounced(t *testing.T) {
	k := newTokens(t)
	k.now = k.now.Add(3 * every)
	k.keep(true)
	if next := k.keys()[1]; !next.Since.Equal(k.now.Add(rollover.Announce)) {
		t.Errorf("it signs from %s, want %s after %s", next.Since, rollover.Announce, k.now)
	}
}

// Of many nodes that find a key due one makes it.
func TestTokenKeyIsMadeOnce(t *testing.T) {
	k := newTokens(t)
	nodes := []*rollover.Tokens{k.node(), k.node(), k.node(), k.node()}
	k.now = k.now.Add(every)
	var at sync.WaitGroup
	for _, n := range nodes {
		at.Go(func() {
			if _, err := n.Keep(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := n.Rotate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	at.Wait()
	if ring, err := k.store.Keys(t.Context(), keyring.Tokens); err != nil || len(ring) != 1 {
		t.Fatalf("%d keys in the ring, %v; want one", len(ring), err)
	}
	for _, n := range nodes {
		all, err := n.All(t.Context())
		if err != nil || len(all) != 2 || all[1].ID != k.keys()[1].ID {
			t.Errorf("a node has %+v, %v", all, err)
		}
	}
}

func TestTokenKeyRotatesWhenAsked(t *testing.T) {
	k := newTokens(t, func(c *rollover.TokensConfig) { c.Every = 0 })
	k.now = k.now.Add(10 * every)
	k.keep(false)
	made, err := k.Rotate(t.Context())
	if err != nil || !made.Since.Equal(k.now.Add(rollover.Announce)) {
		t.Fatalf("%+v, %v", made, err)
	}
	again, err := k.Rotate(t.Context())
	if err != nil || again.ID != made.ID {
		t.Errorf("asked twice: %+v, %v", again, err)
	}
	k.wantCurrent(k.c.Configured[0].ID, made.ID)
}

// A stolen key is gone at once, and another one signs at once.
func TestTokenKeyIsDropped(t *testing.T) {
	k := newTokens(t)
	first := k.c.Configured[0].ID
	drop := func(kid string) {
		t.Helper()
		if err := k.Drop(t.Context(), kid); err != nil {
			t.Fatal(err)
		}
		if got := k.current(); len(got) == 0 || slices.Contains(got, kid) {
			t.Errorf("after dropping %s: %q", kid, got)
		}
	}
	drop(first)
	second := k.current()[0]
	k.Tokens = k.node() // the configuration still names the first one
	k.wantCurrent(second)
	drop(second)
	third := k.current()[0]
	k.keep(true)
	k.wantCurrent(third)

	announced, err := k.Rotate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k.wantCurrent(third, announced.ID)
	drop(announced.ID) // the one that signs has no end then
	k.wantCurrent(third)
	k.now = k.now.Add(rollover.Announce + 2*time.Hour)
	k.wantCurrent(third)

	announced, err = k.Rotate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	drop(third) // before the next one's time
	between := k.current()[0]
	if between == announced.ID {
		t.Error("a key signs that nobody can know yet")
	}
	k.now = announced.Since
	k.wantCurrent(announced.ID, between)
	for _, kid := range []string{"", "nobody", third} {
		if err := k.Drop(t.Context(), kid); !errors.Is(err, keyring.ErrNotFound) {
			t.Errorf("dropping %q: %v", kid, err)
		}
	}
	var drops int
	entries, err := k.store.Audit(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Action == audit.KeyDrop && strings.Contains(e.Detail["reason"], "operator") {
			drops++
		}
	}
	if drops != 4 {
		t.Errorf("%d of 4 drops stand in the audit log", drops)
	}
}

// The end of a configured key stays in the ring when the configuration names it no more, and does no harm there.
func TestTokenKeyThatIsConfiguredNoMore(t *testing.T) {
	k := newTokens(t)
	if err := k.Drop(t.Context(), k.c.Configured[0].ID); err != nil {
		t.Fatal(err)
	}
	signs := k.current()[0]
	other := newTokens(t)
	k.c.Configured = other.c.Configured
	k.Tokens = k.node()
	if got := k.current(); got[0] != signs {
		t.Errorf("published %q, want %q first", got, signs)
	}
}

// No key is put into the store beside one that is in a device.
func TestTokenKeyInADevice(t *testing.T) {
	k := newTokens(t, func(c *rollover.TokensConfig) { c.InDevice, c.Every = true, 0 })
	k.now = k.now.Add(10 * every)
	k.keep(false)
	if _, err := k.Rotate(t.Context()); !errors.Is(err, rollover.ErrRefused) {
		t.Errorf("Rotate: %v", err)
	}
	if err := k.Drop(t.Context(), k.c.Configured[0].ID); !errors.Is(err, rollover.ErrRefused) {
		t.Errorf("Drop: %v", err)
	}
	k.wantCurrent(k.c.Configured[0].ID)
}

// A key that was dropped keeps its place in the ring until another one follows it, or that one would get its place, and
// a node that had not heard of the drop would hold the two for one.
func TestADroppedKeyKeepsItsPlace(t *testing.T) {
	k := newTokens(t)
	first, err := k.Rotate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Tokens.Drop(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	places := func() (ids []string) {
		ring, err := k.store.Keys(t.Context(), keyring.Tokens)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range ring {
			ids = append(ids, key.ID)
		}
		return ids
	}
	k.now = k.now.Add(time.Minute)
	before := places()
	if _, err := k.Keep(t.Context()); err != nil || len(before) != 1 {
		t.Fatal(before, err)
	}
	if got := places(); !slices.Equal(got, before) {
		t.Fatalf("in the ring %v, want %v", got, before)
	}
	next, err := k.Rotate(t.Context())
	if err != nil || next.ID == first.ID {
		t.Fatal(next, err)
	}
	if _, err := k.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := places(); len(got) != 1 || got[0] == before[0] {
		t.Errorf("in the ring %v after another one followed %v", got, before)
	}
}
