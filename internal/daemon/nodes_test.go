package daemon

import (
	"context"
	"testing"
	"time"

	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/pgstore"
)

// A key that another node put into the ring, or took from it, is followed when the notice of it comes.
func TestNoticeOfKeys(t *testing.T) {
	d := opened(t, created(t))
	n := &nodes{Daemon: d, news: make(chan struct{}, 1), soon: map[crl.Shard]bool{}, opened: map[crl.Shard]bool{}}
	before := d.keys.Load()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.addShards(ctx) }()
	n.tell(pgstore.Notice{Keys: true})
	for deadline := time.Now().Add(time.Minute); d.keys.Load() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the ring was not read again")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("addShards = %v", err)
	}
}
