package daemon_test

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/thumbprint"
)

// A data directory whose newest certificate lies in the future is not served, until an operator says that
// the clock is right now.
func TestClockBehindTheStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	free := "127.0.0.1:0"
	if err := daemon.Init(t.Context(), daemon.InitSpec{Dir: dir, Listen: config.Listen{Public: free, MTLS: free, Status: free, Ops: free}}); err != nil {
		t.Fatal(err)
	}
	cfg, err := daemon.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	putFuture(t, cfg)
	log := slog.New(slog.DiscardHandler)
	_, err = daemon.New(t.Context(), cfg, log)
	if !errors.Is(err, ca.ErrClock) || !strings.Contains(err.Error(), "insecure_accept_clock") {
		t.Fatalf("got %v, want a clock error that says what to do", err)
	}
	cfg.InsecureAcceptClock = true
	d, err := daemon.New(t.Context(), cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func putFuture(t *testing.T, cfg *config.Config) {
	t.Helper()
	store, err := boltstore.Open(cfg.StorePath(), boltstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	future := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
	rec := &ca.Record{
		Serial: ca.Serial{0: 0x7f, 15: 1}, Issuer: "x", ClientID: "x", Profile: "client", DER: []byte("x"),
		Thumbprint: thumbprint.OfDER([]byte("x")), NotBefore: future, NotAfter: future.Add(time.Hour), IssuedAt: future, Names: []string{"x"},
	}
	if err := errors.Join(store.Insert(t.Context(), rec, nil, audit.Event{Time: future, Action: audit.Issue}), store.Close()); err != nil {
		t.Fatal(err)
	}
}
