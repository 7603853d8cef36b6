package daemon

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

const (
	followEvery  = time.Second
	followPage   = 1000            // entries that are read at once
	followFinish = 5 * time.Second // for the last entries, when the daemon stops
)

// auditReader is what is followed.
type auditReader interface {
	Audit(ctx context.Context, after uint64, limit int) ([]audit.Entry, error)
	AuditBase(ctx context.Context) (audit.Head, error)
}

// auditFollower reads the audit log as it grows, checks that each entry follows from the one before it, exports it and
// signs checkpoints. So a checkpoint is only ever signed of a log that goes on from the last one: it is kept in memory,
// and over a restart in the files, whose last lines tell where to go on. Nothing is signed or exported after a log that
// does not follow; checkAudit tells.
type auditFollower struct {
	store  auditReader
	log    *slog.Logger
	origin string
	key    crypto.Signer // nil: no checkpoints
	marks  io.Writer     // where they go
	export io.Writer     // nil: none

	interval time.Duration
	entries  uint64
	now      func() time.Time

	verifier *audit.Verifier // of run alone, as marked and markedAt are, but for what mu guards
	marked   audit.Head      // the newest checkpoint
	markedAt time.Time

	mu   sync.Mutex // guards what follows
	head audit.Head // everything up to here was checked and exported
	last time.Time  // markedAt
	err  error      // why the follower is behind; nil if it is not
}

// begin reads where an earlier run ended, from the last lines of the files. The errors are those of files that are not
// this log's; that the log is not the one of then is told by status.
func (f *auditFollower) begin(ctx context.Context, marks, export *lineFile) error {
	base, err := f.store.AuditBase(ctx)
	if err != nil {
		return err
	}
	start, known, err := f.lastMark(marks)
	if err != nil {
		return err
	}
	if export != nil {
		if start, err = lastExported(export); err != nil {
			return err
		}
		if start.Seq < base.Seq {
			f.log.Warn("the export of the audit log lacks entries, which were archived before", "from", start.Seq+1, "to", base.Seq)
		}
	}
	if start.Seq < base.Seq {
		start = base
	}
	f.head = start
	if f.verifier, err = audit.NewVerifier(start, known); err == nil {
		err = f.contains(ctx, base, start)
	}
	if _, broken := errors.AsType[*audit.BrokenError](err); broken {
		f.err = err
		f.log.Error("the audit log is not checked, exported and signed", "err", err)
		return nil
	}
	return err
}

// lastMark returns the head of the last checkpoint, and that checkpoint.
func (f *auditFollower) lastMark(file *lineFile) (audit.Head, []audit.Checkpoint, error) {
	if file == nil {
		return audit.Head{}, nil, nil
	}
	line, err := file.last()
	if err != nil || line == "" {
		return audit.Head{}, nil, err
	}
	c, err := audit.ParseCheckpoint(line)
	if err == nil {
		err = c.Verify(f.key.Public())
	}
	if err != nil {
		return audit.Head{}, nil, fmt.Errorf("audit.checkpoints: the last line of %s: %w; move the file away, and keep it", file.path, err)
	}
	f.marked, f.markedAt, f.last = c.Head, c.Time, c.Time
	return c.Head, []audit.Checkpoint{c}, nil
}

func lastExported(file *lineFile) (audit.Head, error) {
	line, err := file.last()
	if err != nil || line == "" {
		return audit.Head{}, err
	}
	for e, err := range audit.ReadLines(strings.NewReader(line)) {
		if err != nil {
			return audit.Head{}, fmt.Errorf("audit.export: the last line of %s is no audit entry: %w; move the file away, and keep it", file.path, err)
		}
		return e.Head(), nil
	}
	return audit.Head{}, nil
}

// contains checks that the log has the entry that following begins after.
func (f *auditFollower) contains(ctx context.Context, base, start audit.Head) error {
	if start.Seq == 0 || start == base {
		return nil
	}
	found, err := f.store.Audit(ctx, start.Seq-1, 1)
	switch {
	case err != nil:
		return err
	case len(found) == 0 || found[0].Seq != start.Seq:
		return &audit.BrokenError{Seq: start.Seq, Why: "it was in the log before pkid was started, and the log ends earlier now" + afterRestore}
	case found[0].Head() != start:
		return &audit.BrokenError{Seq: start.Seq, Why: "it is another one than before pkid was started" + afterRestore}
	}
	return nil
}

const afterRestore = ": an older copy of the store stands in its place, or the log was written anew; after a restore from a backup, " +
	"move the files of audit.checkpoints and audit.export away, and keep them"

// run follows until ctx ends, and then to the end of the log.
func (f *auditFollower) run(ctx context.Context) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		f.turn(ctx, false)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), followFinish)
	defer cancel()
	f.turn(ctx, true)
}

// turn catches up with the log, and signs a checkpoint if one is due, or if it is the last chance to.
func (f *auditFollower) turn(ctx context.Context, final bool) {
	err := f.catchUp(ctx)
	if err == nil {
		err = f.mark(final)
	}
	if ctx.Err() != nil && err != nil {
		return
	}
	f.mu.Lock()
	before := f.err
	f.err = err
	f.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		f.log.Error("the audit log is not checked, exported and signed", "err", err)
	}
}

func (f *auditFollower) catchUp(ctx context.Context) error {
	if broken, ok := errors.AsType[*audit.BrokenError](f.status()); ok {
		return broken // it stays
	}
	for {
		page, err := f.store.Audit(ctx, f.verifier.Head().Seq, followPage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return f.verifier.End()
		}
		if err := f.take(page); err != nil {
			return err
		}
	}
}

// take checks entries and exports those that follow. What could not be exported is checked again the next time.
func (f *auditFollower) take(page []audit.Entry) error {
	var lines []byte
	var broken error
	next := *f.verifier
	for _, e := range page {
		if broken = next.Add(e); broken != nil {
			break
		}
		if f.export != nil {
			var err error
			if lines, err = audit.AppendLine(lines, e); err != nil {
				return err
			}
		}
	}
	if len(lines) > 0 {
		if _, err := f.export.Write(lines); err != nil {
			return fmt.Errorf("exporting audit entries: %w", err)
		}
	}
	*f.verifier = next
	f.mu.Lock()
	f.head = next.Head()
	f.mu.Unlock()
	return broken
}

// mark signs a checkpoint if there is something new, and it is time.
func (f *auditFollower) mark(final bool) error {
	head, now := f.verifier.Head(), f.now()
	due := final || now.Sub(f.markedAt) >= f.interval || now.Before(f.markedAt) || head.Seq-f.marked.Seq >= f.entries
	if f.key == nil || head == f.marked || !due {
		return nil
	}
	line, err := audit.SignCheckpoint(f.key, f.origin, head, now)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(f.marks, line+"\n"); err != nil {
		return fmt.Errorf("writing a checkpoint: %w", err)
	}
	f.marked, f.markedAt = head, now
	f.mu.Lock()
	f.last = now
	f.mu.Unlock()
	return nil
}

func (f *auditFollower) status() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// covers reports whether entries up to a number were checked and, if they are to be, exported.
func (f *auditFollower) covers(seq uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.head.Seq >= seq
}

// writeMetrics writes the Prometheus text format.
func (f *auditFollower) writeMetrics(w io.Writer) {
	f.mu.Lock()
	seq, last := f.head.Seq, f.last
	f.mu.Unlock()
	at := int64(0)
	if !last.IsZero() {
		at = last.Unix()
	}
	fmt.Fprintf(w, "# HELP pkid_audit_followed_entry Number of the newest audit entry that was checked and exported.\n"+
		"# TYPE pkid_audit_followed_entry gauge\npkid_audit_followed_entry %d\n"+
		"# HELP pkid_audit_checkpoint_time_seconds When the newest checkpoint was signed, Unix time; 0 if none was.\n"+
		"# TYPE pkid_audit_checkpoint_time_seconds gauge\npkid_audit_checkpoint_time_seconds %d\n", seq, at)
}

// checkAuditKey refuses keys that a checkpoint cannot be checked with.
func checkAuditKey(key crypto.Signer) error {
	if _, ok := key.Public().(*ecdsa.PublicKey); !ok {
		return fmt.Errorf("audit.key: want an EC key, not a %T", key.Public())
	}
	return nil
}
