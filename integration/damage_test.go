package integration

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/pkitest"
)

// TestPageDamagedWhileServing overwrites the pages of a store that is served: nothing is answered from it any more, the
// readiness says why, and the next start refuses it even if the page is whole again.
func TestPageDamagedWhileServing(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	id := s.Enrol(t, client.InvitationRequest{ClientID: "a"})
	s.Stop(t)
	d, err := daemon.New(t.Context(), s.Config, pkitest.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- d.Serve(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}

	path := s.Config.StorePath()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	overwrite := func(with []byte) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt(with, 8192)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	overwrite(bytes.Repeat([]byte{0xa5}, len(whole)-8192))
	if err := id.Renew(t.Context(), client.RenewOptions{}); err == nil {
		t.Error("a renewal from a damaged store")
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Config.Listen.Ops+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := string(pkitest.ReadAll(t, resp.Body))
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "damaged") {
		t.Errorf("readiness: %s: %s", resp.Status, body)
	}
	stop()
	if err := <-done; !errors.Is(err, boltstore.ErrNotStore) {
		t.Errorf("it ended with %v", err)
	}
	overwrite(whole[8192:])
	d, err = daemon.New(t.Context(), s.Config, pkitest.Logger(t))
	if !errors.Is(err, boltstore.ErrNotStore) || !strings.Contains(err.Error(), ".damaged") {
		t.Errorf("started again: %v", err)
	}
	if err == nil {
		_ = d.Close()
	}
}
