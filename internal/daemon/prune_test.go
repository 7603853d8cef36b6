package daemon

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/boltstore"
)

// What expired while the daemon was busy or away is dropped at the next turn, however much it is.
func TestPruneKeepsUp(t *testing.T) {
	store, err := boltstore.Open(filepath.Join(t.TempDir(), "pkid.db"), boltstore.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	const n = 2*pruneStep + 7
	until := time.Now().Add(time.Minute)
	done := make(chan error, n)
	for i := range n {
		go func() { done <- store.Use(t.Context(), [32]byte{byte(i), byte(i >> 8)}, until) }()
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	d := &Daemon{store: store, log: slog.New(slog.DiscardHandler)}
	if err := d.pruneAll(t.Context(), until.Add(time.Second), ca.Retention{}); err != nil {
		t.Fatal(err)
	}
	if left, err := store.Prune(t.Context(), until.Add(time.Second), ca.Retention{}, n); err != nil || left.Total() != 0 {
		t.Errorf("%d records were left, %v", left, err)
	}
}
