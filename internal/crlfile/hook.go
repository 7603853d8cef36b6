package crlfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/pkid/pkid/internal/durable"
)

// Hook tells a server that the file has changed.
type Hook func(context.Context) error

const (
	defaultHookInterval = 500 * time.Millisecond
	// After a failure the next attempt comes after retryMin, and after twice as long each time, up to retryMax.
	retryMin = time.Second
	retryMax = time.Minute
	// maxOutput is how much of what a command printed is told: its end.
	maxOutput = 2 << 10
)

// runner runs the hook after each change, one run at a time. What changes while it runs leads to another run.
//
// That a run is due is noted beside the file before the file is replaced, so that a run that a crash prevented is made
// up for: the server would go on with the old list.
type runner struct {
	hook     Hook
	interval time.Duration
	note     string // the file's name
	log      *slog.Logger
	awake    chan struct{} // holds one when a run is due

	mu      sync.Mutex // guards what follows
	changes uint64     // that were noted
}

func newRunner(hook Hook, interval time.Duration, note string, log *slog.Logger) *runner {
	return &runner{hook: hook, interval: interval, note: note, log: log, awake: make(chan struct{}, 1)}
}

// due notes that a run will be due.
func (r *runner) due() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes++
	// Never through a link: the directory may be another's, and this process root's.
	f, err := os.OpenFile(r.note, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("noting that the hook is due: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	return durable.Dir(filepath.Dir(r.note))
}

// wake has the hook run.
func (r *runner) wake() {
	select {
	case r.awake <- struct{}{}:
	default:
	}
}

// pending reports whether a run is due, and of which change.
func (r *runner) pending() (change uint64, due bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := os.Lstat(r.note)
	return r.changes, err == nil
}

// settle removes the note, unless there was another change since.
func (r *runner) settle(change uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if change != r.changes {
		return
	}
	if err := os.Remove(r.note); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.log.Warn("the note that the hook is due cannot be removed: it runs once more after the next start", "error", err)
	}
}

// once runs the hook if a run is due.
func (r *runner) once(ctx context.Context) error {
	change, due := r.pending()
	if !due {
		return nil
	}
	begun := time.Now()
	if err := r.hook(ctx); err != nil {
		return fmt.Errorf("telling the server: %w", err)
	}
	r.log.Info("the server was told of the new CRLs", "took", time.Since(begun).Round(time.Millisecond))
	r.settle(change)
	return nil
}

// run runs the hook whenever it is due, until ctx ends. A run that failed does not keep the file from being replaced.
func (r *runner) run(ctx context.Context) {
	if _, due := r.pending(); due {
		r.wake()
	}
	wait := newAlarm() // until the next attempt after a failure
	defer wait.stop()
	retry := retryMin
	for {
		select {
		case <-r.awake:
		case <-wait.C:
		case <-ctx.Done():
			return
		}
		wait.stop()
		begun := time.Now()
		switch err := r.once(ctx); {
		case ctx.Err() != nil:
			return // the note stays
		case err != nil:
			r.log.Error("the server does not know the new CRLs yet; the next attempt comes by itself", "error", err, "in", retry)
			wait.set(retry)
			retry = min(2*retry, retryMax)
		default:
			retry = retryMin
		}
		sleep(ctx, r.interval-time.Since(begun))
	}
}

// alarm is a timer that need not be set.
type alarm struct{ *time.Timer }

func newAlarm() alarm {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return alarm{t}
}

func (a alarm) set(d time.Duration) { a.Reset(d) }
func (a alarm) stop()               { a.Stop() }

// Command is a hook that runs a command line in a shell, with the file's name as PKICTL_CRL_FILE in its environment. What
// it prints is logged. After the timeout it is killed, with all that it started.
func Command(line, file string, timeout time.Duration, log *slog.Logger) Hook {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, shellArgs[0], shellArgs[1], line) //nolint:gosec // the operator's own command
		cmd.Env = append(os.Environ(), "PKICTL_CRL_FILE="+file)
		var out tail
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.WaitDelay = time.Second // for who holds the pipe in another process group
		shell(cmd)
		err := cmd.Run()
		printed := string(bytes.TrimSpace(out.end))
		switch {
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("running %q: it did not end within %s: %s", line, timeout, printed)
		case err != nil && !errors.Is(err, exec.ErrWaitDelay):
			return fmt.Errorf("running %q: %w: %s", line, err, printed)
		case printed != "":
			log.Info("the command printed", "output", printed)
		}
		return nil
	}
}

// tail keeps the end of what is written.
type tail struct{ end []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.end = append(t.end, p[max(0, len(p)-maxOutput):]...)
	t.end = t.end[max(0, len(t.end)-maxOutput):]
	return len(p), nil
}

// Else is a hook that runs another one where the first fails. The other may be nil.
func Else(first, other Hook, log *slog.Logger) Hook {
	if other == nil {
		return first
	}
	return func(ctx context.Context) error {
		err := first(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		log.Warn("the other way is taken to tell the server", "error", err)
		return other(ctx)
	}
}
