package web

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
)

// Snapshot records in the audit log that the store is copied, and writes a consistent copy of it to what begin returns,
// which is told its size in octets and the end of the audit log in it.
type Snapshot func(ctx context.Context, begin func(size int64, head audit.Head) (io.Writer, error)) error

// snapshots lets one copy of the store be made at a time: each keeps the store's file from using its free room again.
type snapshots struct{ sync.Mutex }

// getSnapshot streams a copy of the store to an operator, which is the part of a backup that only the daemon can
// read while it serves. What is in it that is secret is sealed with keys that are not.
func (s *Server) getSnapshot(w http.ResponseWriter, r *http.Request) error {
	if s.c.Snapshot == nil {
		return refuse(noRoute, "the store is a database of its own: back it up with its own tools, such as pg_dump")
	}
	if !s.snapshots.TryLock() {
		return refuse(unavailable, "another backup is being made")
	}
	defer s.snapshots.Unlock()
	if r.Method == http.MethodHead {
		return nil
	}
	return s.c.Snapshot(r.Context(), func(size int64, head audit.Head) (io.Writer, error) {
		h := w.Header()
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Content-Length", strconv.FormatInt(size, 10))
		h.Set(client.AuditSeqHeader, strconv.FormatUint(head.Seq, 10))
		h.Set(client.AuditHashHeader, head.Hash.String())
		return &steady{w, http.NewResponseController(w)}, nil
	})
}

// steady gives a reader requestTimeout for each step, however long the whole takes, and no more: who stops reading is
// cut.
type steady struct {
	w  io.Writer
	rc *http.ResponseController
}

func (s *steady) Write(p []byte) (n int, err error) {
	const step = 256 << 10
	for len(p) > 0 && err == nil {
		_ = s.rc.SetWriteDeadline(time.Now().Add(requestTimeout)) // a test's recorder has none
		var m int
		m, err = s.w.Write(p[:min(step, len(p))])
		n, p = n+m, p[m:]
	}
	return n, err
}
