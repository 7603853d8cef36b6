package daemon

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/rollover"
)

// published says how the CRL of a shard is published.
func (d *Daemon) published(issuer *ca.Issuer, shard uint32) crl.PublishedShard {
	url := issuer.CRLURLOf(shard)
	p := crl.PublishedShard{Shard: crl.Shard{Issuer: issuer.ID(), Number: shard}, URL: url, Issuer: issuer.Signer.Certificate(), Whole: issuer.Whole}
	if d.cfg.CRL.Deltas {
		p.DeltaURL = crl.DeltaURL(url)
	}
	return p
}

// openShard is ca.Config.OpenShard.
func (d *Daemon) openShard(ctx context.Context, issuer string, shard uint32) error {
	i, known := d.authority.FindIssuer(issuer)
	if !known {
		return ca.ErrIssuer
	}
	if err := d.publisher.Add(ctx, d.published(i, shard)); err != nil {
		d.log.Error("opening another CRL: certificates go on into the one before", "issuer", issuer, "shard", shard, "err", err)
		return err
	}
	d.log.Info("certificates go into another CRL from now on", "issuer", issuer, "shard", shard)
	return nil
}

// openPublisher publishes every shard that somebody may still ask for: the one that certificates go into, those that
// have certificates, and those whose last list may be good still. A list is signed anew at half of its lifetime, so
// none is once twice that is over.
func (d *Daemon) openPublisher(ctx context.Context, issuers []rollover.Issuer) error {
	now := time.Now()
	var shards []crl.PublishedShard
	var ending []retirement
	for _, i := range issuers {
		needed, expired, err := d.shardsOf(ctx, &i, now)
		if err != nil {
			return err
		}
		for _, c := range needed {
			shards = append(shards, d.published(i.Issuer, c.Number))
		}
		for _, c := range expired {
			if now.Before(c.NotAfter.Add(2 * d.cfg.CRL.Lifetime)) {
				shards = append(shards, d.published(i.Issuer, c.Number))
			}
			ending = append(ending, retirement{crl.Shard{Issuer: i.ID(), Number: c.Number}, c.NotAfter})
		}
	}
	var err error
	d.publisher, err = crl.NewPublisher(crl.PublisherConfig{
		Shards: shards, Store: d.store, Revocations: d.store, Signer: d.authority, Lifetime: d.cfg.CRL.Lifetime, Logger: d.log,
		Follow: d.followLists(),
	})
	if err != nil {
		return err
	}
	d.retire(ending)
	return nil
}

// shardsOf tells the shards of an issuing CA that are needed from those whose last certificate has expired. One that has
// no certificate, or has ended, has none.
func (d *Daemon) shardsOf(ctx context.Context, i *rollover.Issuer, now time.Time) (needed, expired []ca.ShardCount, err error) {
	if i.State == rollover.Requested || i.State == rollover.Ended {
		return nil, nil, nil
	}
	counts, err := d.store.Shards(ctx, i.ID())
	if err != nil {
		return nil, nil, err
	}
	needed, expired = d.splitShards(i, counts, now)
	return needed, expired, nil
}

// splitShards is shardsOf for what the store counts. The shard that certificates go into is needed whether or not it has
// any, until another issuing CA takes over.
func (d *Daemon) splitShards(i *rollover.Issuer, counts []ca.ShardCount, now time.Time) (needed, expired []ca.ShardCount) {
	filling := d.authority.Shard(i.ID())
	if !slices.ContainsFunc(counts, func(c ca.ShardCount) bool { return c.Number == filling }) {
		counts = append(slices.Clone(counts), ca.ShardCount{Number: filling, NotAfter: i.Until})
	}
	for _, c := range counts {
		if c.Number == filling && i.State != rollover.Retiring || !now.After(c.NotAfter) {
			needed = append(needed, c)
		} else {
			expired = append(expired, c)
		}
	}
	return needed, expired
}

// retirement is a shard whose last certificate has expired.
type retirement struct {
	shard   crl.Shard
	expired time.Time
}

func (d *Daemon) retire(shards []retirement) {
	for _, s := range shards {
		d.publisher.Retire(s.shard, s.expired)
	}
}

// followShards retires shards while the daemon serves, and adds those that the store has come to know of: of another
// issuing CA, of another node, or of a certificate that was signed for a shard just before the others of it had all
// expired.
func (d *Daemon) followShards(ctx context.Context, issuers []rollover.Issuer, now time.Time) error {
	var errs []error
	for _, i := range issuers {
		needed, expired, err := d.shardsOf(ctx, &i, now)
		if err != nil {
			return err
		}
		for _, c := range expired {
			d.retire([]retirement{{crl.Shard{Issuer: i.ID(), Number: c.Number}, c.NotAfter}})
		}
		for n, c := range needed {
			err := d.publisher.Add(ctx, d.published(i.Issuer, c.Number))
			if err == nil && n == len(needed)-1 && i.State != rollover.Retiring && d.cfg.StoreIsShared() { // the newest, which is filled
				d.authority.ShardFilled(i.ID(), c)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
