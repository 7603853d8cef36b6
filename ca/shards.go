package ca

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ShardCount is one of an issuer's CRLs, as its certificates tell.
type ShardCount struct {
	Number       uint32
	Certificates uint64    // that name it
	NotAfter     time.Time // the latest of these: then the list is of no more use
}

// CRLURLOf returns where a shard's CRL is published: CRLURL for shard 0, and for shard n the same with -n before ".crl".
// It stands in certificates, so its form must never change.
func (i *Issuer) CRLURLOf(shard uint32) string {
	if shard == 0 {
		return i.CRLURL
	}
	return i.crlURL(strconv.FormatUint(uint64(shard), 10))
}

// CRLTemplate returns CRLURLOf of every shard but 0, with {shard} in place of the number.
func (i *Issuer) CRLTemplate() string { return i.crlURL("{shard}") }

func (i *Issuer) crlURL(shard string) string {
	base, found := strings.CutSuffix(i.CRLURL, ".crl")
	if found {
		shard += ".crl"
	}
	return base + "-" + shard
}

const (
	openTimeout   = 5 * time.Second  // for opening a shard; the request that does it waits
	retryOpening  = 100              // certificates that go on into a full shard before the next is tried again
	countsTimeout = 10 * time.Second // for the store's counts, when an authority is made
)

// shard is one of the issuer's CRLs, as certificates name it. It never changes.
type shard struct {
	number    uint32
	url       string
	extension []byte // crlPoint(url)
}

// shards fixes for each certificate which CRL will speak of it. The shard that is being filled changes when it has
// as many certificates as it should, and then only to one whose first CRL is served.
type shards struct {
	issuer *Issuer
	id     string // the issuer's
	store  Store
	size   uint64 // zero: a shard is never full
	open   func(ctx context.Context, issuer string, shard uint32) error

	mu      sync.Mutex // guards what follows; held for a moment only, never while a shard is opened
	current *shard
	used    uint64 // certificates that were assigned to it, and those of the store at the start
	full    uint64 // the number of these at which the next shard is opened
	opening bool   // somebody is at it
}

func newShards(i *Issuer, store Store, size uint64, open func(ctx context.Context, issuer string, shard uint32) error) (*shards, error) {
	s := &shards{issuer: i, id: i.ID(), store: store, size: size, open: open, full: size}
	ctx, cancel := context.WithTimeout(context.Background(), countsTimeout)
	defer cancel()
	newest, err := s.newest(ctx)
	if err != nil {
		return nil, err
	}
	s.current, s.used = s.shard(newest.Number), newest.Certificates
	return s, nil
}

// newest returns the shard with the highest number that the store knows of.
func (s *shards) newest(ctx context.Context) (ShardCount, error) {
	counts, err := s.store.Shards(ctx, s.id)
	if err != nil {
		return ShardCount{}, fmt.Errorf("reading which CRLs there are: %w", err)
	}
	if len(counts) == 0 {
		return ShardCount{}, nil
	}
	return counts[len(counts)-1], nil
}

func (s *shards) shard(number uint32) *shard {
	url := s.issuer.CRLURLOf(number)
	return &shard{number, url, crlPoint(url)}
}

// assign returns the shard of one more certificate. Of many callers that find it full, one opens the next while the
// others go on filling it. So do all if that fails: certificates matter more than the size of a list.
//
// What is counted is close to what the store counts, not the same: a certificate that was assigned may fail to be
// recorded, and other nodes count theirs, of which this one hears through ShardFilled only now and then.
func (s *shards) assign(ctx context.Context) *shard {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size > 0 && s.used >= s.full && !s.opening {
		s.opening = true
		s.fillNext(ctx, s.current.number)
		s.opening = false
	}
	s.used++
	return s.current
}

// fillNext makes the shard after current the one that is filled. It gives up the mutex while it opens it.
func (s *shards) fillNext(ctx context.Context, current uint32) {
	s.mu.Unlock()
	next, used, err := s.openNext(ctx, current)
	s.mu.Lock()
	if err != nil {
		s.full = s.used + retryOpening
		return
	}
	if next.number > s.current.number { // or catchUp was faster
		s.current, s.used, s.full = next, used, s.size
	}
}

// openNext opens the shard after current, or the newest one of those that other nodes have opened since. A number is
// never used again, also when its shard is gone, since the store keeps the count of the highest that there was. That the
// client of this very request goes away is no reason to stop.
func (s *shards) openNext(ctx context.Context, current uint32) (*shard, uint64, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
	defer cancel()
	next, err := s.newest(ctx)
	if err != nil {
		return nil, 0, err
	}
	if next.Number <= current {
		next = ShardCount{Number: current + 1}
	}
	if err := s.open(ctx, s.id, next.Number); err != nil {
		return nil, 0, err
	}
	return s.shard(next.Number), next.Certificates, nil
}

// ShardFilled says what the store counts of the newest CRL of an issuer that is published here, so that certificates of
// other nodes count here too, and those of this node go into the same CRL. It never leads back to an earlier one.
func (a *Authority) ShardFilled(issuer string, newest ShardCount) {
	if i := a.issuers.Load().find(issuer); i != nil {
		i.shards.catchUp(newest)
	}
}

func (s *shards) catchUp(newest ShardCount) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case newest.Number > s.current.number:
		s.current, s.used, s.full = s.shard(newest.Number), newest.Certificates, s.size
	case newest.Number == s.current.number:
		s.used = max(s.used, newest.Certificates)
	}
}

// Shard returns the number of the CRL that the next certificate of an issuer will name, or 0 if the issuer is not known.
func (a *Authority) Shard(issuer string) uint32 {
	i := a.issuers.Load().find(issuer)
	if i == nil {
		return 0
	}
	i.shards.mu.Lock()
	defer i.shards.mu.Unlock()
	return i.shards.current.number
}
