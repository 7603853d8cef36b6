package integration

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
)

// A node that went on serving a database while it was restored ends when that is known: it would go on believing in
// invitations and tokens that the others refuse.
func TestNodeThatServesThroughARestore(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{Database: pgtest.Database(t)})
	cfg, err := daemon.Load(s.NewNode(t))
	if err != nil {
		t.Fatal(err)
	}
	d, err := daemon.New(t.Context(), cfg, pkitest.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- d.Serve(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	s.Stop(t)
	if _, err := daemon.Recover(t.Context(), s.Config, pkitest.Logger(t), daemon.Evidence{}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "restored") {
		t.Errorf("Serve = %v; want an error that tells of the restore", err)
	}
}
