package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
)

// shardsEvery is how often the shards that are published are brought in line with the certificates that there are.
const shardsEvery = time.Minute

// published says how the CRL of a shard is published.
func (d *Daemon) published(shard uint32) crl.PublishedShard {
	url := d.issuer.CRLURLOf(shard)
	p := crl.PublishedShard{Shard: crl.Shard{Issuer: d.issuer.ID(), Number: shard}, URL: url, Issuer: d.issuer.Signer.Certificate()}
	if d.cfg.CRL.Deltas {
		p.DeltaURL = crl.DeltaURL(url)
	}
	return p
}

// openShard is ca.Config.OpenShard.
func (d *Daemon) openShard(ctx context.Context, issuer string, shard uint32) error {
	if err := d.publisher.Add(ctx, d.published(shard)); err != nil {
		d.log.Error("opening another CRL: certificates go on into the one before", "issuer", issuer, "shard", shard, "err", err)
		return err
	}
	d.log.Info("certificates go into another CRL from now on", "issuer", issuer, "shard", shard)
	return nil
}

// openPublisher publishes every shard that somebody may still ask for: the one that certificates go into, those that
// have certificates, and those whose last list may be good still. A list is signed anew at half of its lifetime, so
// none is once twice that is over.
func (d *Daemon) openPublisher(ctx context.Context) error {
	counts, err := d.store.Shards(ctx, d.issuer.ID())
	if err != nil {
		return err
	}
	now, filling := time.Now(), d.authority.Shard(d.issuer.ID())
	shards := []crl.PublishedShard{d.published(filling)}
	for _, c := range counts {
		if c.Number != filling && now.Before(c.NotAfter.Add(2*d.cfg.CRL.Lifetime)) {
			shards = append(shards, d.published(c.Number))
		}
	}
	d.publisher, err = crl.NewPublisher(crl.PublisherConfig{
		Shards: shards, Store: d.store, Revocations: d.store, Signer: d.authority, Lifetime: d.cfg.CRL.Lifetime, Logger: d.log,
		Follow: d.followLists(),
	})
	if err != nil {
		return err
	}
	_, expired := d.splitShards(counts, now)
	d.retire(expired)
	return nil
}

// splitShards tells those whose last certificate has expired from those that are needed.
func (d *Daemon) splitShards(counts []ca.ShardCount, now time.Time) (needed, expired []ca.ShardCount) {
	filling := d.authority.Shard(d.issuer.ID())
	for _, c := range counts {
		if c.Number != filling && now.After(c.NotAfter) {
			expired = append(expired, c)
		} else {
			needed = append(needed, c)
		}
	}
	return needed, expired
}

func (d *Daemon) retire(expired []ca.ShardCount) {
	for _, c := range expired {
		d.publisher.Retire(crl.Shard{Issuer: d.issuer.ID(), Number: c.Number}, c.NotAfter)
	}
}

// keepShards retires shards while the daemon serves, and adds those that the store has come to know of: of another
// node, or of a certificate that was signed for a shard just before the others of it had all expired.
func (d *Daemon) keepShards(ctx context.Context) {
	tick := time.NewTicker(shardsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if err := d.followShards(ctx, now); err != nil && ctx.Err() == nil {
				d.log.Error("not every CRL is published that certificates name", "err", err)
			}
		}
	}
}

func (d *Daemon) followShards(ctx context.Context, now time.Time) error {
	counts, err := d.store.Shards(ctx, d.issuer.ID())
	if err != nil {
		return err
	}
	needed, expired := d.splitShards(counts, now)
	d.retire(expired)
	var errs []error
	for i, c := range needed {
		err := d.publisher.Add(ctx, d.published(c.Number))
		if err == nil && i == len(needed)-1 { // the newest, since the shard that is filled is never expired
			d.authority.ShardFilled(d.issuer.ID(), c)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
