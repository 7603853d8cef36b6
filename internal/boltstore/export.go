package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/migrate"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// proofsKnown is for how long after a crash Export is refused: so long a DPoP proof counts at most, so that after it
// none counts any more that the store does not know of.
const proofsKnown = 5 * time.Minute

// ErrProofsUnknown: pkid was not stopped in order, and what DPoP proofs it had taken just before is not known.
var ErrProofsUnknown = errors.New("pkid was not stopped in order, and proofs that it took just before could be used again elsewhere")

// Export gives up everything that the store holds, for another engine. Nothing else may use the store meanwhile. What
// nobody may use again is in it if it still counts at now.
func (s *Store) Export(ctx context.Context) (migrate.Data, error) {
	now := s.now()
	if since := s.proofs.Since(); !since.IsZero() && now.Before(since.Add(proofsKnown)) {
		return migrate.Data{}, fmt.Errorf("%w: try again after %s", ErrProofsUnknown, since.Add(proofsKnown).UTC().Format(time.RFC3339))
	}
	meta, err := s.exportMeta(ctx)
	if err != nil {
		return migrate.Data{}, err
	}
	return migrate.Data{
		Meta: meta,
		Certificates: rows(ctx, s, certificates, func(t *tx, k, _ []byte) (*ca.Record, error) {
			return t.certificate(ca.Serial(k))
		}),
		Changes: rows(ctx, s, changes, exportChange),
		CRLs:    s.exportCRLs(ctx),
		Shards:  rows(ctx, s, shards, exportShard),
		Invitations: rows(ctx, s, invitations, func(t *tx, k, v []byte) (*enroll.Invitation, error) {
			return decodeInvitation(string(k), v, t.get(spent, k))
		}),
		Clients: rows(ctx, s, clients, func(_ *tx, k, v []byte) (*authserver.Client, error) { return decodeClient(k, v) }),
		Tokens:  valid(rows(ctx, s, tokens, exportOnce), now),
		Uses:    valid(chain(rows(ctx, s, replays, exportOnce), s.exportProofs()), now),
		Audit:   s.exportAudit(ctx, meta.AuditBase),
		Keys:    rows(ctx, s, ring, func(_ *tx, k, v []byte) (keyring.Key, error) { return decodeKey(k, v) }),
	}, nil
}

func (s *Store) exportMeta(ctx context.Context) (m migrate.Meta, err error) {
	if err := s.view(ctx, func(t *tx) error {
		m.Identity, m.Position = string(t.get(meta, ownerKey)), t.b.Bucket(changes.name).Sequence()
		return nil
	}); err != nil {
		return m, err
	}
	if m.AuditBase, err = s.AuditBase(ctx); err != nil {
		return m, err
	}
	if m.AuditHead, err = s.AuditHead(ctx); err != nil {
		return m, err
	}
	m.Restored, err = s.Restored(ctx)
	return m, err
}

// rows walks a bucket within one snapshot.
func rows[T any](ctx context.Context, s *Store, b bucket, read func(t *tx, k, v []byte) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		wanted := true
		err := s.view(ctx, func(t *tx) error {
			c := t.cursor(b)
			for k, v := c.First(); k != nil && wanted; k, v = c.Next() {
				row, err := read(t, k, v)
				if err := errors.Join(err, ctx.Err()); err != nil {
					return fmt.Errorf("reading bucket %s: %w", b.name, err)
				}
				wanted = yield(row, nil)
			}
			return nil
		})
		if err != nil && wanted {
			var none T
			yield(none, err)
		}
	}
}

// shardOf reads what shardKey wrote.
func shardOf(key []byte) (crl.Shard, error) {
	issuer, number, ok := bytes.Cut(key, []byte{0})
	if !ok || len(number) != 4 {
		return crl.Shard{}, fmt.Errorf("key of a CRL: %w", errDamaged)
	}
	return crl.Shard{Issuer: string(issuer), Number: binary.BigEndian.Uint32(number)}, nil
}

func exportChange(_ *tx, k, v []byte) (out migrate.Change, err error) {
	const head, tail = 1 + revocationLen, len(ca.Serial{})
	if len(v) < head+tail {
		return out, errDamaged
	}
	key := v[head:]
	if out.Shard, err = shardOf(key[:len(key)-tail]); err != nil {
		return out, err
	}
	out.Position, out.Released = uint64(number(k)), v[0] != 0
	out.Entry, err = entryOf(key, v[1:head])
	return out, err
}

func exportShard(_ *tx, k, v []byte) (out migrate.Shard, err error) {
	shard, err := shardOf(k)
	if err != nil {
		return out, err
	}
	count, err := decodeShardCount(v)
	return migrate.Shard{Issuer: shard.Issuer, ShardCount: ca.ShardCount{
		Number: shard.Number, Certificates: count.certificates, NotAfter: time.Unix(count.notAfter, 0).UTC(),
	}}, err
}

func exportOnce(_ *tx, k, v []byte) (migrate.Once, error) {
	if len(k) != len(migrate.Once{}.Key) || len(v) != 8 {
		return migrate.Once{}, errDamaged
	}
	return migrate.Once{Key: [32]byte(k), Until: time.UnixMilli(number(v)).UTC()}, nil
}

func (s *Store) exportProofs() iter.Seq2[migrate.Once, error] {
	return func(yield func(migrate.Once, error) bool) {
		for key, until := range s.proofs.memory.All() {
			if !yield(migrate.Once{Key: key, Until: until.UTC()}, nil) {
				return
			}
		}
	}
}

// exportCRLs reads the lists with their texts, each in turn.
func (s *Store) exportCRLs(ctx context.Context) iter.Seq2[crl.Signed, error] {
	names := rows(ctx, s, crls, func(_ *tx, k, _ []byte) (crl.Shard, error) { return shardOf(k) })
	return func(yield func(crl.Signed, error) bool) {
		for shard, err := range names {
			var list crl.Signed
			if err == nil {
				list, err = s.Latest(ctx, shard, 0)
			}
			if !yield(list, err) {
				return
			}
		}
	}
}

func (s *Store) exportAudit(ctx context.Context, base audit.Head) iter.Seq2[audit.Entry, error] {
	return func(yield func(audit.Entry, error) bool) {
		for after := base.Seq; ; {
			page, err := s.Audit(ctx, after, chunk)
			if err != nil {
				yield(audit.Entry{}, err)
				return
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
				after = e.Seq
			}
			if len(page) == 0 {
				return
			}
		}
	}
}

// chain walks one sequence after the other.
func chain[T any](all ...iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, one := range all {
			for row, err := range one {
				if !yield(row, err) {
					return
				}
			}
		}
	}
}

// valid leaves out what does not count any more.
func valid(all iter.Seq2[migrate.Once, error], now time.Time) iter.Seq2[migrate.Once, error] {
	return func(yield func(migrate.Once, error) bool) {
		for o, err := range all {
			if (err != nil || !o.Until.Before(now)) && !yield(o, err) {
				return
			}
		}
	}
}
