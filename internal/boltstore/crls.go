package boltstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/pkid/pkid/crl"
)

// A CRL's number and times are in the store, so that its place in the order of lists is durable before anybody sees
// it. Its text, tens of megabytes if a million certificates are revoked, is in a file beside the store, which follows
// when there is time (texts.go). A fingerprint in the store tells whether a text is that list's.

// Replace implements crl.Store.
func (s *Store) Replace(ctx context.Context, prev, next crl.Signed) error {
	if err := checkID("issuer", next.Shard.Issuer); err != nil {
		return err
	}
	key, value := shardKey(next.Shard), encodeCRL(next)
	text := s.texts.offer(next)
	err := s.update(ctx, func(t *tx) error {
		latest := uint64(0) // none
		if v := t.get(crls, key); v != nil {
			latest = uint64(number(v))
		}
		if latest != prev.Number {
			return fmt.Errorf("%w: number %d stands, not %d", crl.ErrConflict, latest, prev.Number)
		}
		return t.put(crls, key, value)
	})
	s.texts.settle(text, err == nil)
	return err
}

// Latest implements crl.Store.
func (s *Store) Latest(ctx context.Context, shard crl.Shard, have uint64) (crl.Signed, error) {
	for before := uint64(0); ; {
		var found crl.Signed
		var mark fingerprint
		err := s.view(ctx, func(t *tx) (err error) {
			found, mark, err = decodeCRL(shard, t.get(crls, shardKey(shard)))
			return err
		})
		if err != nil || found.Number == have || found.Number == before {
			return found, err
		}
		if found.DER = s.texts.get(shard, mark); found.DER != nil {
			return found, nil
		}
		before = found.Number // its text is lost, or is that of a newer list by now: look again, and once only if not
	}
}

// fingerprint tells whose text a text is: a list is signed at its end, over all that stands before. Whether each
// octet is as it was signed is for who uses it, and checks the signature, to say.
type fingerprint [sha256.Size]byte

func fingerprintOf(der crl.DER) fingerprint {
	const most = 512
	var end []byte
	for i := len(der) - 1; i >= 0 && len(end) < most; i-- {
		end = join(der[i][max(len(der[i])-(most-len(end)), 0):], end)
	}
	return sha256.Sum256(append(ordered(int64(der.Len())), end...))
}

func encodeCRL(c crl.Signed) []byte {
	mark := fingerprintOf(c.DER)
	return join(ordered(int64(c.Number)), ordered(c.ThisUpdate.UnixMilli()), ordered(c.NextUpdate.UnixMilli()), mark[:])
}

// decodeCRL reads what encodeCRL wrote; nil is a CRL that was never published.
func decodeCRL(shard crl.Shard, v []byte) (crl.Signed, fingerprint, error) {
	const head = 8 + 8 + 8
	switch {
	case v == nil:
		return crl.Signed{}, fingerprint{}, fmt.Errorf("%w: issuer %s", crl.ErrNotPublished, shard.Issuer)
	case len(v) != head+len(fingerprint{}):
		return crl.Signed{}, fingerprint{}, fmt.Errorf("CRL of issuer %s: %w", shard.Issuer, errDamaged)
	}
	return crl.Signed{
		Shard:      shard,
		Number:     uint64(number(v)),
		ThisUpdate: time.UnixMilli(number(v[8:])).UTC(),
		NextUpdate: time.UnixMilli(number(v[16:])).UTC(),
	}, fingerprint(bytes.Clone(v[head:])), nil
}
