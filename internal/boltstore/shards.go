package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
)

// shardCount is what is counted of the certificates that name a CRL.
type shardCount struct {
	certificates uint64
	notAfter     int64 // s, of the last to expire
}

const shardCountLen = 8 + 8

// count notes that a record is inserted. The counts are written once for a transaction.
func (t *tx) count(rec *ca.Record) {
	if t.counts == nil {
		t.counts = map[crl.Shard]shardCount{}
	}
	shard := crl.Shard{Issuer: rec.Issuer, Number: rec.Shard}
	c := t.counts[shard]
	t.counts[shard] = c.with(shardCount{1, rec.NotAfter.Unix()})
}

func (c shardCount) with(d shardCount) shardCount {
	if c.certificates == 0 {
		return d
	}
	return shardCount{c.certificates + d.certificates, max(c.notAfter, d.notAfter)}
}

// storeCounts writes what count noted.
func (t *tx) storeCounts() error {
	for shard, more := range t.counts {
		key := shardKey(shard)
		old, err := decodeShardCount(t.get(shards, key))
		if err != nil {
			return err
		}
		now := old.with(more)
		if err := t.put(shards, key, join(ordered(int64(now.certificates)), ordered(now.notAfter))); err != nil {
			return err
		}
	}
	return nil
}

// decodeShardCount reads what storeCounts wrote; nil is a shard without certificates.
func decodeShardCount(v []byte) (shardCount, error) {
	switch len(v) {
	case 0:
		return shardCount{}, nil
	case shardCountLen:
		return shardCount{uint64(number(v)), number(v[8:])}, nil
	}
	return shardCount{}, fmt.Errorf("counts of a CRL: %w", errDamaged)
}

// Shards implements ca.Store.
func (s *Store) Shards(ctx context.Context, issuer string) ([]ca.ShardCount, error) {
	var all []ca.ShardCount
	err := s.view(ctx, func(t *tx) error {
		prefix := append([]byte(issuer), 0)
		c := t.cursor(shards)
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
			count, err := decodeShardCount(v)
			if err != nil || len(k) != len(prefix)+4 {
				return fmt.Errorf("CRLs of issuer %s: %w", issuer, errDamaged)
			}
			all = append(all, ca.ShardCount{
				Number: binary.BigEndian.Uint32(k[len(prefix):]), Certificates: count.certificates, NotAfter: time.Unix(count.notAfter, 0).UTC(),
			})
		}
		return nil
	})
	return all, err
}
