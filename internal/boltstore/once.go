package boltstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/tokenbind"
)

// Use implements tokenbind.Replay.
func (s *Store) Use(ctx context.Context, key [32]byte, until time.Time) error {
	return s.update(ctx, func(t *tx) error {
		old := t.get(replays, key[:])
		if old != nil && number(old) >= s.now().UnixMilli() {
			return tokenbind.ErrReplayed
		}
		return t.keepUntil(replays, dueReplay, key[:], old, stamp(until))
	})
}

// RevokeToken implements authserver.RevokedTokens. Revoking a token again changes nothing, and is not logged.
func (s *Store) RevokeToken(ctx context.Context, jti string, until time.Time, ev audit.Event) error {
	key := sha256.Sum256([]byte(jti))
	return s.update(ctx, func(t *tx) error {
		old := t.get(tokens, key[:])
		if old != nil && number(old) >= number(stamp(until)) {
			return nil
		}
		return errors.Join(t.keepUntil(tokens, dueToken, key[:], old, stamp(until)), t.seal(ev))
	})
}

// TokenRevoked implements authserver.RevokedTokens.
func (s *Store) TokenRevoked(ctx context.Context, jti string) (bool, error) {
	key := sha256.Sum256([]byte(jti))
	found := false
	err := s.view(ctx, func(t *tx) error {
		found = t.get(tokens, key[:]) != nil
		return nil
	})
	return found, err
}

// keepUntil puts a key that Prune drops after an instant, in place of one with an earlier instant.
func (t *tx) keepUntil(b bucket, kind byte, key, old, until []byte) error {
	var err error
	if old != nil {
		err = t.delete(due, dueKey(old, kind, key))
	}
	return errors.Join(err, t.put(b, key, until), t.put(due, dueKey(until, kind, key), nil))
}

// What the due bucket tells apart. Stores of before invitations had a bucket of their own have them here, 30 days late.
const (
	dueReplay = iota + 1
	dueToken
	dueInvitation
)

var dueBuckets = map[byte][]bucket{dueReplay: {replays}, dueToken: {tokens}, dueInvitation: {invitations, spent}}

func dueKey(until []byte, kind byte, key []byte) []byte { return join(until, []byte{kind}, key) }

// stamp is an instant in milliseconds, rounded up so that nothing is forgotten before its time.
func stamp(t time.Time) []byte { return ordered(t.Add(time.Millisecond - 1).UnixMilli()) }

// RevokedTokens returns until when revoked tokens count, by the SHA-256 of their ids: at most limit of those that have not
// expired by now.
func (s *Store) RevokedTokens(ctx context.Context, now time.Time, limit int) (map[[sha256.Size]byte]time.Time, error) {
	out := map[[sha256.Size]byte]time.Time{}
	err := s.view(ctx, func(t *tx) error {
		c := t.cursor(tokens)
		for k, v := c.First(); k != nil && len(out) < limit; k, v = c.Next() {
			if len(k) != sha256.Size || len(v) != 8 {
				return fmt.Errorf("a revoked token: %w", errDamaged)
			}
			if until := time.UnixMilli(number(v)).UTC(); until.After(now) {
				out[[sha256.Size]byte(k)] = until
			}
		}
		return nil
	})
	return out, err
}
