package boltstore

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

// stalled takes what it is given once it is told to.
type stalled struct {
	bytes.Buffer
	entered, released chan struct{}
	once              bool
}

func (s *stalled) Write(p []byte) (int, error) {
	if !s.once {
		s.once = true
		close(s.entered)
		<-s.released
	}
	return s.Buffer.Write(p)
}

// TestSlowSnapshotHoldsNobodyUp makes the file grow to many times its size while somebody takes a copy of it and does not
// go on reading: bbolt maps a file that outgrew its mapping anew, and waits for every reader first.
func TestSlowSnapshotHoldsNobodyUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s, err := Open(path, Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	taker := &stalled{entered: make(chan struct{}), released: make(chan struct{})}
	copied := make(chan error, 1)
	var size int64
	var end audit.Head
	go func() {
		copied <- s.Snapshot(t.Context(), func(n int64, head audit.Head) (io.Writer, error) {
			size, end = n, head
			return taker, nil
		})
	}()
	<-taker.entered

	wrote := make(chan error, 1)
	go func() {
		var err error
		for range 40 { // of 1 MiB
			ev := audit.Event{Time: time.Now(), Action: audit.Initialise, Subject: strings.Repeat("x", 1<<20)}
			if err = s.Record(t.Context(), ev); err != nil {
				break
			}
			if _, err = s.AuditHead(t.Context()); err != nil {
				break
			}
		}
		wrote <- err
	}()
	select {
	case err = <-wrote:
	case <-time.After(30 * time.Second):
		t.Error("a write waits for who takes a copy")
	}
	close(taker.released)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-copied; err != nil || size != int64(taker.Len()) || end.Seq != 0 {
		t.Errorf("the copy: %d octets of %d, up to entry %d, %v", taker.Len(), size, end.Seq, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
