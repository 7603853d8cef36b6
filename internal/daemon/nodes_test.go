package daemon

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pgstore"
)

// A key that another node put into the ring, or took from it, is followed when the notice of it comes.
func TestNoticeOfKeys(t *testing.T) {
	dir, free := filepath.Join(t.TempDir(), "d"), "127.0.0.1:0"
	if err := Init(t.Context(), InitSpec{Dir: dir, Listen: config.Listen{Public: free, MTLS: free, Status: free, Ops: free}}); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
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
