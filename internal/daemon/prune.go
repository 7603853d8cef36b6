package daemon

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/pkid/pkid/ca"
)

// pruneEvery is how often what has expired is dropped, and pruneStep how much of it in one transaction, so that
// other writers get through in between. Certificates, which leave an audit entry behind, go less often.
const (
	pruneEvery             = 10 * time.Second
	pruneCertificatesEvery = time.Hour
	pruneStep              = 500
)

// pruned counts what was dropped since the start.
type pruned struct {
	mu     sync.Mutex // guards counts
	counts ca.Pruned
}

func (p *pruned) add(n ca.Pruned) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts = p.counts.Add(n)
}

// writeMetrics writes the Prometheus text format.
func (p *pruned) writeMetrics(w io.Writer) {
	p.mu.Lock()
	n := p.counts
	p.mu.Unlock()
	fmt.Fprint(w, "# HELP pkid_pruned_total What was dropped since it is over.\n# TYPE pkid_pruned_total counter\n")
	for _, k := range []struct {
		kind string
		n    int
	}{
		{"certificate", n.Certificates},
		{"change", n.Changes},
		{"invitation", n.Invitations},
		{"replay", n.Replays},
		{"shard", n.Shards},
		{"token", n.Tokens},
	} {
		fmt.Fprintf(w, "pkid_pruned_total{kind=%q} %d\n", k.kind, k.n)
	}
}

func (d *Daemon) prune(ctx context.Context) {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	var last time.Time // when certificates were pruned
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			keep := d.retention()
			if now.Sub(last) < pruneCertificatesEvery {
				keep.Certificates = 0
			} else {
				last = now
			}
			if err := d.pruneAll(ctx, now, keep); err != nil && ctx.Err() == nil {
				d.log.Error("dropping what is over", "err", err)
			}
		}
	}
}

func (d *Daemon) retention() ca.Retention {
	return ca.Retention{Certificates: *d.cfg.Retention.Certificates, Invitations: *d.cfg.Retention.Invitations}
}

// pruneAll drops everything that is over by now, step by step, and rests after each for as long as it took, so that a
// backlog leaves the store to others for half of the time.
func (d *Daemon) pruneAll(ctx context.Context, now time.Time, keep ca.Retention) error {
	for {
		began := time.Now()
		n, err := d.store.Prune(ctx, now, keep, pruneStep)
		d.pruned.add(n)
		if n.Total() > 0 {
			d.log.Debug("dropped what is over", "certificates", n.Certificates, "changes", n.Changes, "invitations", n.Invitations,
				"replays", n.Replays, "shards", n.Shards, "tokens", n.Tokens)
		}
		if err != nil || n.Total() < pruneStep {
			return err
		}
		select {
		case <-time.After(time.Since(began)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
