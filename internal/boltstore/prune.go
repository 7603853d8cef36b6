package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
)

// Prune drops what is past its time, at most limit things in one transaction, so that a limit of some hundreds lets
// other writers through. internal/storetest says what goes when. The pages that become free are used again; the file
// does not shrink.
func (s *Store) Prune(ctx context.Context, now time.Time, keep ca.Retention, limit int) (ca.Pruned, error) {
	var p *pruning
	err := s.update(ctx, func(t *tx) error {
		p = &pruning{tx: t, now: now, keep: keep, limit: limit, lists: map[crl.Shard]crl.Signed{}}
		for _, step := range []func() error{p.due, p.invitations, p.changes, p.certificates, p.shards} {
			if err := step(); err != nil {
				return fmt.Errorf("pruning: %w", err)
			}
		}
		if p.done.Certificates == 0 {
			return nil
		}
		cutoff, _ := p.cutoff(keep.Certificates)
		return t.seal(ca.PruneEvent(audit.From(ctx), now, cutoff, p.done.Certificates, p.revoked))
	})
	if err != nil {
		return ca.Pruned{}, err
	}
	s.sound.Clear() // blocks may have been written anew
	for _, shard := range p.ended {
		s.texts.drop(shard)
	}
	return p.done, nil
}

// pruning is one call of Prune.
type pruning struct {
	tx    *tx
	now   time.Time
	keep  ca.Retention
	limit int

	done    ca.Pruned
	revoked int                      // of the certificates
	ended   []crl.Shard              // whose CRLs are dropped
	lists   map[crl.Shard]crl.Signed // newest ones, read once
}

func (p *pruning) left() int { return p.limit - p.done.Total() }

// cutoff is the instant before which what is kept for a time ended that may go; false if it is kept for ever.
func (p *pruning) cutoff(keep time.Duration) (time.Time, bool) { return p.now.Add(-keep), keep > 0 }

// keysBefore returns copies of the first keys of a bucket that begin with less than an instant, as many as may go.
func (p *pruning) keysBefore(b bucket, end int64) [][]byte {
	var keys [][]byte
	c, stop := p.tx.cursor(b), ordered(end)
	for k, _ := c.First(); k != nil && len(keys) < p.left() && bytes.Compare(k[:len(stop)], stop) < 0; k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	return keys
}

// due drops replay records and ids of revoked tokens, and invitations of stores that kept those here.
func (p *pruning) due() error {
	counts := map[byte]*int{dueReplay: &p.done.Replays, dueToken: &p.done.Tokens, dueInvitation: &p.done.Invitations}
	for _, k := range p.keysBefore(due, p.now.UnixMilli()) {
		of, ok := dueBuckets[k[8]]
		if !ok {
			return errDamaged
		}
		for _, b := range of {
			if err := p.tx.delete(b, k[9:]); err != nil {
				return err
			}
		}
		if err := p.tx.delete(due, k); err != nil {
			return err
		}
		*counts[k[8]]++
	}
	return nil
}

func (p *pruning) invitations() error {
	cutoff, ok := p.cutoff(p.keep.Invitations)
	if !ok {
		return nil
	}
	for _, k := range p.keysBefore(ended, cutoff.UnixMilli()) {
		id := k[8:]
		if err := errors.Join(p.tx.delete(invitations, id), p.tx.delete(spent, id), p.tx.delete(ended, k)); err != nil {
			return err
		}
		p.done.Invitations++
	}
	return nil
}

// changes drops the start of the log, up to the first change that stays.
func (p *pruning) changes() error {
	cutoff, _ := p.cutoff(ca.KeepChanges)
	var old [][]byte
	c := p.tx.cursor(changes)
	for k, v := c.First(); k != nil && len(old) < p.left(); k, v = c.Next() {
		if len(v) < 1+revocationLen {
			return fmt.Errorf("change %d: %w", number(k), errDamaged)
		}
		rev, _, err := decodeRevocation(v[1 : 1+revocationLen])
		if err != nil {
			return err
		}
		if !rev.At.Before(cutoff) {
			break
		}
		old = append(old, bytes.Clone(k))
	}
	for _, k := range old {
		if err := p.tx.delete(changes, k); err != nil {
			return err
		}
		p.done.Changes++
	}
	return nil
}

// maxStuck bounds how many certificates that must stay a step looks at, for each one that it may drop. They are those
// whose CRL has not been published for longer than they are kept.
const maxStuck = 10

// expired is a certificate that goes.
type expired struct {
	key     []byte // of byExpiry
	serial  ca.Serial
	revoked []byte // its key there; nil if it is not revoked
	thumb   []byte // of one that is revoked
}

// certificates drops expired certificates, those first that expired first. One whose record cannot be read stays: it
// cannot be told which CRL would have to speak of it.
func (p *pruning) certificates() error {
	cutoff, ok := p.cutoff(p.keep.Certificates)
	if !ok || p.left() <= 0 {
		return nil
	}
	var gone []expired
	visits, stop := (maxStuck+1)*p.left(), ordered(cutoff.Unix())
	c := p.tx.cursor(byExpiry)
	for k, _ := c.First(); k != nil && visits > 0 && len(gone) < p.left() && bytes.Compare(k[:8], stop) < 0; k, _ = c.Next() {
		visits--
		x := expired{key: bytes.Clone(k), serial: ca.Serial(k[8:])}
		if p.mayGo(&x) {
			gone = append(gone, x)
		}
	}
	serials := make([]ca.Serial, 0, len(gone))
	for _, x := range gone {
		if err := p.dropCertificate(&x); err != nil {
			return err
		}
		serials = append(serials, x.serial)
	}
	return p.tx.thinBlocks(serials)
}

// mayGo reports whether an expired certificate may be dropped, and finds out what belongs to it.
func (p *pruning) mayGo(x *expired) bool {
	r, err := p.tx.record(x.serial)
	if errors.Is(err, ca.ErrNotFound) {
		return true // the index has what is not there
	}
	if err != nil {
		return false
	}
	shard := crl.Shard{Issuer: r.issuer, Number: r.shard}
	key := revokedKey(shard, x.serial[:])
	if p.tx.get(revoked, key) == nil {
		return true
	}
	list := p.list(shard)
	if !list.ThisUpdate.After(r.expiry()) && !p.over(shard, list) {
		return false
	}
	rec, err := r.copy(nil)
	if err != nil {
		return false
	}
	x.revoked, x.thumb = key, rec.Thumbprint[:]
	return true
}

func (p *pruning) dropCertificate(x *expired) error {
	err := errors.Join(p.tx.delete(certificates, x.serial[:]), p.tx.delete(byExpiry, x.key))
	if x.revoked != nil {
		p.revoked++
		err = errors.Join(err, p.tx.delete(revoked, x.revoked), p.tx.delete(revokedThumb, x.thumb))
	}
	p.done.Certificates++
	return err
}

// list returns the newest CRL of a shard, without its text; the zero one if none was published.
func (p *pruning) list(shard crl.Shard) crl.Signed {
	if list, ok := p.lists[shard]; ok {
		return list
	}
	list, _, err := decodeCRL(shard, p.tx.get(crls, shardKey(shard)))
	if err != nil && !errors.Is(err, crl.ErrNotPublished) {
		list.ThisUpdate, list.NextUpdate = time.Time{}, time.UnixMilli(math.MaxInt64) // damaged: nothing of it may go
	}
	p.lists[shard] = list
	return list
}

// over reports whether a shard's last certificate and its last list both ended so long ago that nobody publishes it:
// there will be no list any more that a certificate would have to wait for.
func (p *pruning) over(shard crl.Shard, list crl.Signed) bool {
	cutoff, ok := p.cutoff(p.keep.Certificates)
	count, err := decodeShardCount(p.tx.get(shards, shardKey(shard)))
	return ok && err == nil && time.Unix(count.notAfter, 0).Before(cutoff) && list.NextUpdate.Before(cutoff)
}

// shards drops the counts and the CRL of shards that are over, but for the highest number of each issuer.
func (p *pruning) shards() error {
	var gone [][]byte
	c := p.tx.cursor(shards)
	k, _ := c.First()
	for k != nil && len(gone) < p.left() {
		key := bytes.Clone(k)
		k, _ = c.Next()
		issuer := len(key) - 4
		if issuer < 1 || key[issuer-1] != 0 {
			return fmt.Errorf("counts of a CRL: %w", errDamaged)
		}
		if highest := k == nil || len(k) != len(key) || !bytes.Equal(k[:issuer], key[:issuer]); highest {
			continue
		}
		shard := crl.Shard{Issuer: string(key[:issuer-1]), Number: binary.BigEndian.Uint32(key[issuer:])}
		if p.over(shard, p.list(shard)) && !p.hasRevocation(key) {
			gone = append(gone, key)
			p.ended = append(p.ended, shard)
		}
	}
	for _, key := range gone {
		if err := errors.Join(p.tx.delete(shards, key), p.tx.delete(crls, key)); err != nil {
			return err
		}
		p.done.Shards++
	}
	return nil
}

func (p *pruning) hasRevocation(shard []byte) bool {
	k, _ := p.tx.cursor(revoked).Seek(shard)
	return bytes.HasPrefix(k, shard)
}
