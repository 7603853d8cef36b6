package rollover

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/stepca"
	"github.com/pkid/pkid/thumbprint"
)

const (
	// Announce is for how long a token key is published before it signs. Verifiers keep a key set for an hour at the
	// most, those of package tokenbind at least; another hour is for nodes that were away.
	Announce = 2 * time.Hour
	// afterlife is for how long one is published after the next signs: the longest life of a token, an hour, and what
	// clocks may differ by, twice.
	afterlife = time.Hour + 2*time.Minute
	// MinRotation is the shortest time between two rotations. It has room for both of the above, so that there are
	// three keys at the most.
	MinRotation = 24 * time.Hour
)

// TokenKey is a token signing key, as it is at an instant.
type TokenKey struct {
	ID        string // kid
	Algorithm string
	Key       crypto.Signer // nil in a list for people
	InConfig  bool
	CreatedAt time.Time // zero for one of the configuration
	Since     time.Time // from when on it signs; zero: from the start
	End       time.Time // when it is published no more, by what is known now; zero while no other follows it
	Dropped   bool      // before its time: tokens that it signed are not ours

	slot string // its id in the ring
}

// TokensConfig is what Tokens need. All of it is required but InDevice, Every, Follow and Now.
type TokensConfig struct {
	Store      keyring.Store
	Passphrase []byte
	Configured []TokenKey // with ID, Algorithm and Key
	// Born is when the configured keys came into service, as far as that is known.
	Born time.Time
	// InDevice says that a configured key is in a device. Then none is put into the store beside it.
	InDevice bool
	// Every is the time between two rotations; zero: only when somebody asks.
	Every time.Duration
	// Follow is called after this node has changed something.
	Follow func(context.Context) error
	Now    func() time.Time // time.Now if nil
}

// Tokens are the keys that sign access tokens. All methods may be called at once.
type Tokens struct {
	c TokensConfig

	mu     sync.Mutex // held while the ring is read; guards what follows
	opened map[string]opened
}

type opened struct {
	kid    string
	key    crypto.Signer
	sealed []byte // what it was opened from: after a restore, another key may have its id
}

// NewTokens returns the token keys of a store. It reads nothing yet.
func NewTokens(c TokensConfig) (*Tokens, error) {
	if len(c.Configured) == 0 {
		return nil, errors.New("rollover: a configured token key is required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Follow == nil {
		c.Follow = func(context.Context) error { return nil }
	}
	t := &Tokens{c: c, opened: map[string]opened{}}
	for i := range c.Configured {
		t.c.Configured[i].InConfig = true
		t.c.Configured[i].slot = c.Configured[i].ID
	}
	return t, nil
}

// All returns every key, those of the configuration first and then in the order in which they sign.
func (t *Tokens) All(ctx context.Context) ([]TokenKey, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ring, err := t.c.Store.Keys(ctx, keyring.Tokens)
	if err != nil {
		return nil, fmt.Errorf("reading the ring of token keys: %w", err)
	}
	all := slices.Clone(t.c.Configured)
	for _, k := range ring {
		if n := slices.IndexFunc(all, func(c TokenKey) bool { return c.InConfig && c.slot == k.ID }); n >= 0 {
			all[n].Dropped, all[n].End = true, k.EndsAt // what stands in the ring for a configured key is its end
			continue
		}
		if len(k.Sealed) == 0 && k.URI == "" {
			continue // the end of one that is configured no more
		}
		key, err := t.open(ctx, k)
		if err != nil {
			return nil, fmt.Errorf("token key %s: %w", k.ID, err)
		}
		all = append(all, TokenKey{
			ID: key.kid, Algorithm: k.Algorithm, Key: key.key, CreatedAt: k.CreatedAt, Since: k.ActiveFrom,
			End: k.EndsAt, Dropped: !k.EndsAt.IsZero(), slot: k.ID,
		})
	}
	configured := len(t.c.Configured)
	slices.SortStableFunc(all[configured:], func(x, y TokenKey) int { return x.Since.Compare(y.Since) })
	var next *TokenKey // the one that takes over, if there is one
	for n := len(all) - 1; n >= 0; n-- {
		k := &all[n]
		if k.Dropped {
			continue
		}
		if next != nil {
			k.End = next.Since.Add(afterlife)
		}
		if !k.InConfig {
			next = k
		}
	}
	return all, nil
}

func (t *Tokens) open(ctx context.Context, k keyring.Key) (opened, error) {
	if key, ok := t.opened[k.ID]; ok && bytes.Equal(key.sealed, k.Sealed) {
		return key, nil
	}
	key, err := openKey(ctx, k, t.c.Passphrase)
	if err != nil {
		return opened{}, err
	}
	kid, err := thumbprint.OfKey(key.Public())
	if err != nil {
		return opened{}, err
	}
	t.opened[k.ID] = opened{kid.String(), key, k.Sealed}
	return t.opened[k.ID], nil
}

// Current returns the keys to publish at an instant, the one that signs first. It is empty if every key was dropped.
func Current(all []TokenKey, now time.Time) []TokenKey {
	var out []TokenKey
	signs := -1
	for _, k := range all {
		if k.ended(now) {
			continue
		}
		// Of the configured ones the first signs; a later one of the ring takes over from any before it.
		if !now.Before(k.Since) && (signs < 0 || !k.InConfig) {
			signs = len(out)
		}
		out = append(out, k)
	}
	if signs > 0 {
		first := out[signs]
		out = slices.Insert(slices.Delete(out, signs, signs+1), 0, first)
	}
	if signs < 0 {
		return nil
	}
	return out
}

// signing returns the id of the key that signs at an instant.
func signing(all []TokenKey, now time.Time) string {
	if keys := Current(all, now); len(keys) > 0 {
		return keys[0].ID
	}
	return ""
}

func (k *TokenKey) ended(now time.Time) bool { return !k.End.IsZero() && !now.Before(k.End) }

// Keep makes the next key when it is time, and forgets those that have ended. It reports whether something changed.
func (t *Tokens) Keep(ctx context.Context) (changed bool, err error) {
	all, err := t.All(ctx)
	if err != nil {
		return false, err
	}
	now := t.now()
	for _, k := range all {
		if k.InConfig || !k.ended(now) || k.slot == newest(all).slot { // the next one's id follows from the newest's
			continue
		}
		err := t.c.Store.DropKey(ctx, k.slot, event(ctx, now, audit.KeyDrop, k.ring(), nil))
		if err != nil && !errors.Is(err, keyring.ErrNotFound) { // by another node
			return changed, fmt.Errorf("forgetting token key %s: %w", k.ID, err)
		}
		changed = true
	}
	since := t.c.Born
	for _, k := range all {
		if !k.Dropped && k.Since.After(since) {
			since = k.Since
		}
	}
	if t.c.Every == 0 || now.Before(since.Add(t.c.Every-Announce)) {
		return changed, nil
	}
	_, err = t.add(ctx, all, latest(since.Add(t.c.Every), now.Add(Announce)))
	return true, err
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Rotate makes a key that signs after a time of at least Announce, so that verifiers know it by then. If one is
// announced already, it is that one.
func (t *Tokens) Rotate(ctx context.Context) (*TokenKey, error) {
	all, err := t.All(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range all {
		if !k.Dropped && k.Since.After(t.now()) {
			return &k, nil
		}
	}
	made, err := t.add(ctx, all, t.now().Add(Announce))
	if err != nil {
		return nil, err
	}
	return made, t.c.Follow(ctx)
}

// Drop ends a key at once: no token that it signed counts any more, and if it was the one that signs, another one signs
// from now on. It is for a key that was stolen. Verifiers that check tokens by themselves know of it when they fetch the
// key set again.
func (t *Tokens) Drop(ctx context.Context, kid string) error {
	all, err := t.All(ctx)
	if err != nil {
		return err
	}
	n := slices.IndexFunc(all, func(k TokenKey) bool { return k.ID == kid && !k.ended(t.now()) })
	if n < 0 {
		return fmt.Errorf("token key %.60q: %w", kid, keyring.ErrNotFound)
	}
	now := t.now()
	if signing(all, now) == kid {
		if _, err := t.add(ctx, all, now); err != nil {
			return err
		}
		if all, err = t.All(ctx); err != nil {
			return err
		}
		if signing(all, now) == kid {
			return fmt.Errorf("%w: another node makes a key at this moment; try again", ErrState)
		}
		n = slices.IndexFunc(all, func(k TokenKey) bool { return k.ID == kid })
	}
	k := all[n].ring()
	k.EndsAt = now
	if !all[n].InConfig {
		if k, err = t.stored(ctx, all[n].slot); err != nil {
			return err
		}
		k.EndsAt = now
	}
	if _, err := t.c.Store.PutKey(ctx, k, event(ctx, now, audit.KeyDrop, k, map[string]string{"kid": kid, "reason": "dropped by an operator"})); err != nil {
		return fmt.Errorf("dropping token key %s: %w", kid, err)
	}
	return t.c.Follow(ctx)
}

func (t *Tokens) stored(ctx context.Context, slot string) (keyring.Key, error) {
	ring, err := t.c.Store.Keys(ctx, keyring.Tokens)
	if err != nil {
		return keyring.Key{}, err
	}
	n := slices.IndexFunc(ring, func(k keyring.Key) bool { return k.ID == slot })
	if n < 0 {
		return keyring.Key{}, keyring.ErrNotFound
	}
	return ring[n], nil
}

// newest is the key that was made last: the one that the next one follows.
func newest(all []TokenKey) TokenKey {
	last := all[0]
	for _, k := range all {
		if k.CreatedAt.After(last.CreatedAt) {
			last = k
		}
	}
	return last
}

// add puts the key into the ring that follows the newest one. Its id there follows from that one's, so that of several
// nodes which do this at once one has it made; the others find that key.
func (t *Tokens) add(ctx context.Context, all []TokenKey, from time.Time) (*TokenKey, error) {
	if t.c.InDevice {
		return nil, fmt.Errorf("%w: the token key is in a device, and one in the store would be guarded less: make another there, put it first in tokens.keys and restart", ErrRefused)
	}
	last := newest(all)
	kind, ok := map[string]ca.KeyType{"ES256": ca.P256, "EdDSA": ca.Ed25519, "PS256": ca.RSA3072}[last.Algorithm]
	if !ok {
		return nil, fmt.Errorf("token key %s: algorithm %q", last.ID, last.Algorithm)
	}
	key, err := stepca.GenerateKey(kind)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte("the token key after " + last.slot))
	k := keyring.Key{ID: hex.EncodeToString(sum[:16]), Use: keyring.Tokens, Algorithm: last.Algorithm, CreatedAt: latest(t.now(), last.CreatedAt.Add(time.Millisecond)), ActiveFrom: from.UTC().Truncate(time.Millisecond)}
	if k.Sealed, err = stepca.SealKey(key, t.c.Passphrase); err != nil {
		return nil, err
	}
	kid, err := thumbprint.OfKey(key.Public())
	if err != nil {
		return nil, err
	}
	detail := map[string]string{"kid": kid.String(), "active_from": k.ActiveFrom.Format(time.RFC3339)}
	_, err = t.c.Store.PutKey(ctx, k, event(ctx, t.now(), audit.KeyAdd, k, detail))
	if err != nil && !errors.Is(err, keyring.ErrConflict) {
		return nil, fmt.Errorf("keeping the new token key: %w", err)
	}
	if all, err = t.All(ctx); err != nil {
		return nil, err
	}
	made := newest(all)
	return &made, nil
}

// ring is what stands in the ring for a key, as far as this tells.
func (k *TokenKey) ring() keyring.Key {
	return keyring.Key{ID: k.slot, Use: keyring.Tokens, Algorithm: k.Algorithm, CreatedAt: k.CreatedAt}
}

func (t *Tokens) now() time.Time { return t.c.Now().UTC().Truncate(time.Millisecond) }
