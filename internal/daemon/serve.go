package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// shutdownGrace is how long requests under way may take once the daemon is told to stop.
const shutdownGrace = 10 * time.Second

// Serve binds the listeners, reports ready and serves until ctx ends. A port in use is an error before
// anything is served. It closes what New opened, and returns nil after a clean stop.
func (d *Daemon) Serve(ctx context.Context, ready func()) error {
	servers, err := d.listen(ctx)
	if err == nil {
		d.responders.keep(ctx)
		if err = d.cert.renew(ctx); err != nil {
			stop(servers)
		}
	}
	if err != nil {
		return errors.Join(err, d.store.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var background sync.WaitGroup
	background.Go(func() { d.cert.run(ctx) })
	if d.responders != nil {
		background.Go(func() { d.responders.run(ctx) })
	}
	background.Go(func() { d.prune(ctx) })
	background.Go(func() { d.reviewClients(ctx) })
	if d.follower != nil {
		background.Go(func() { d.follower.run(ctx) })
	}
	background.Go(func() { d.feed.Run(ctx) })
	background.Go(func() { d.keepRing(ctx) })
	background.Go(func() {
		if err := d.publisher.Run(ctx); err != nil {
			d.log.Error("publishing CRLs ended", "err", err)
		}
	})
	failed := make(chan error, len(servers)+1)
	background.Go(func() {
		if err := d.followNodes(ctx); err != nil {
			failed <- err
		}
	})
	ready() // the listeners are bound: who connects from now on is answered, and nobody is answered before
	for _, s := range servers {
		background.Go(func() { failed <- s.serve() })
	}

	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serving: %w", err)
	}
	stop(servers)
	cancel()
	background.Wait()
	return errors.Join(err, d.store.Close())
}
