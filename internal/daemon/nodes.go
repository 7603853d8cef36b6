package daemon

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/pgstore"
)

// shared is a store that other nodes write to at the same time.
type shared interface {
	// Watch calls tell with what is new in the store, whoever did it, until ctx ends. tell must not block.
	Watch(ctx context.Context, every time.Duration, tell func(pgstore.Notice)) error
}

const (
	// lookEvery is how often a node looks for what others did, should the notice of it be lost.
	lookEvery = time.Second
	// listEvery is how often each CRL is looked for by itself, should even that not find it.
	listEvery = 10 * time.Second
	// othersFirst is how long the other nodes leave a revocation to the one that made it: that publishes within some
	// milliseconds, and they take over its list. If it does not, because it died, they publish.
	othersFirst = 150 * time.Millisecond
)

// followLists is crl.PublisherConfig.Follow.
func (d *Daemon) followLists() time.Duration {
	if _, ok := d.store.(shared); ok {
		return listEvery
	}
	return 0
}

// nodes keeps this node's CRLs in line with what the others of its store do.
//
// It is all that has to be kept in line. Whether a certificate, a client or a token counts is asked of the store with
// each request, so what another node acknowledged is refused here from the next request on; nothing of it is remembered.
type nodes struct {
	*Daemon
	news chan struct{} // one token: a shard may be new

	mu     sync.Mutex         // guards what follows
	soon   map[crl.Shard]bool // changed elsewhere; the publisher will be told in a moment
	opened map[crl.Shard]bool // published elsewhere, and not here yet
	ring   bool               // a key came, changed or went: one that was taken away must not be used until the next look
}

// errRestored ends the service: what this node knows of before the restore is not to be believed, and it starts anew.
var errRestored = errors.New("the store was restored from a backup while this node served it: start it again")

// followNodes runs until ctx ends, or the store is not the one any more that this node opened. It does nothing with a
// store that no other node has.
func (d *Daemon) followNodes(ctx context.Context) error {
	s, ok := d.store.(shared)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n := &nodes{Daemon: d, news: make(chan struct{}, 1), soon: map[crl.Shard]bool{}, opened: map[crl.Shard]bool{}}
	var adding sync.WaitGroup
	var restored error
	adding.Go(func() {
		restored = n.addShards(ctx)
		cancel()
	})
	if err := s.Watch(ctx, lookEvery, n.tell); err != nil && ctx.Err() == nil {
		d.log.Error("not following the other nodes any more", "err", err)
	}
	adding.Wait()
	return restored
}

func (n *nodes) tell(notice pgstore.Notice) {
	if notice.All || notice.Clients || len(notice.Changed) > 0 {
		n.feed.Poke()
	}
	if notice.All || notice.Back {
		n.publisher.Recheck()
		n.look()
	}
	if notice.Keys {
		n.mu.Lock()
		n.ring = true
		n.mu.Unlock()
		n.look()
	}
	for _, shard := range notice.Published {
		if _, known := n.publisher.Current(shard); known {
			n.publisher.Published(shard)
		} else {
			n.open(shard)
		}
	}
	for _, shard := range notice.Changed {
		n.changed(shard)
	}
}

// changed tells the publisher of a revocation that another node made, or this one, unless it is about to anyway.
func (n *nodes) changed(shard crl.Shard) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.soon[shard] {
		return
	}
	n.soon[shard] = true
	time.AfterFunc(othersFirst, func() {
		n.mu.Lock()
		delete(n.soon, shard)
		n.mu.Unlock()
		if _, known := n.publisher.Current(shard); known {
			n.publisher.Changed(shard)
		} else {
			n.look() // a new shard begins with a list of everything
		}
	})
}

func (n *nodes) open(shard crl.Shard) {
	n.mu.Lock()
	n.opened[shard] = true
	n.mu.Unlock()
	n.look()
}

func (n *nodes) look() {
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// addShards adds the shards that other nodes opened, so that every node serves the list that a certificate names. Its
// error is errRestored.
func (n *nodes) addShards(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.news:
		}
		switch at, err := n.store.Restored(ctx); {
		case err != nil:
			time.AfterFunc(lookEvery, n.look)
		case !at.Equal(n.restored):
			return errRestored
		}
		n.mu.Lock()
		opened, ring := n.opened, n.ring
		n.opened, n.ring = map[crl.Shard]bool{}, false
		n.mu.Unlock()
		if err := n.add(ctx, opened, ring); err != nil && ctx.Err() == nil {
			n.log.Error("not every CRL of the other nodes is published here", "err", err)
		}
	}
}

// add adds what was opened, and whatever else the store knows of, and follows the ring of keys if that is new too. What
// cannot be added now is when there are news again, as there are once the database is back.
func (n *nodes) add(ctx context.Context, opened map[crl.Shard]bool, ring bool) error {
	var errs []error
	for shard := range opened {
		if _, known := n.authority.FindIssuer(shard.Issuer); !known { // it was installed just now
			ring = true
		}
	}
	if ring {
		errs = append(errs, n.followRing(ctx))
	}
	errs = append(errs, n.followShards(ctx, *n.known.Load(), time.Now()))
	for shard := range opened {
		issuer, known := n.authority.FindIssuer(shard.Issuer)
		if !known {
			continue
		}
		if err := n.publisher.Add(ctx, n.published(issuer, shard.Number)); err != nil {
			errs = append(errs, err)
			n.mu.Lock()
			n.opened[shard] = true
			n.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}
