package boltstore

import (
	"bytes"
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

// What the due bucket tells apart.
const (
	dueReplay = iota + 1
	dueToken
	dueInvitation
)

var dueBuckets = map[byte][]bucket{dueReplay: {replays}, dueToken: {tokens}, dueInvitation: {invitations, spent}}

func dueKey(until []byte, kind byte, key []byte) []byte { return join(until, []byte{kind}, key) }

// stamp is an instant in milliseconds, rounded up so that nothing is forgotten before its time.
func stamp(t time.Time) []byte { return ordered(t.Add(time.Millisecond - 1).UnixMilli()) }

// Prune drops what is past its time: at most limit replay records, ids of revoked tokens and, 30 days after
// they expired, invitations. It returns how many; call it again soon if that is limit. One step is one
// transaction, so a limit of some hundreds lets other writers through.
func (s *Store) Prune(ctx context.Context, now time.Time, limit int) (int, error) {
	n := 0
	err := s.update(ctx, func(t *tx) error {
		var past [][]byte
		c, end := t.cursor(due), ordered(now.UnixMilli())
		for k, _ := c.First(); k != nil && len(past) < limit && bytes.Compare(k[:8], end) < 0; k, _ = c.Next() {
			past = append(past, bytes.Clone(k))
		}
		for _, k := range past {
			of, ok := dueBuckets[k[8]]
			if !ok {
				return fmt.Errorf("pruning: %w", errDamaged)
			}
			for _, b := range of {
				if err := t.delete(b, k[9:]); err != nil {
					return err
				}
			}
			if err := t.delete(due, k); err != nil {
				return err
			}
		}
		n = len(past)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}
