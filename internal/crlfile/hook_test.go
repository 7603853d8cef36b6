package crlfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// hooked counts the runs of a hook, when they began, and what the file had then.
type hooked struct {
	f     *fixture
	mu    sync.Mutex // guards what follows
	begun []time.Time
	saw   []string
	fails int           // so many runs fail from now on
	takes time.Duration // each run
}

func (h *hooked) run(ctx context.Context) error {
	h.mu.Lock()
	h.begun, h.saw = append(h.begun, time.Now()), append(h.saw, h.f.numbers())
	fails, takes := h.fails > 0, h.takes
	if fails {
		h.fails--
	}
	h.mu.Unlock()
	sleep(ctx, takes)
	if fails {
		return errFault
	}
	return ctx.Err()
}

func (h *hooked) with(c *Config) {
	c.Hook, c.HookInterval, c.Interval = h.run, time.Second, 250*time.Millisecond
}

// want checks how many runs there were since the last call, and how long after a time they began.
func (h *hooked) want(since time.Time, after ...time.Duration) {
	h.f.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	var got []time.Duration
	for _, at := range h.begun {
		got = append(got, at.Sub(since).Round(time.Second))
	}
	if fmt.Sprint(got) != fmt.Sprint(after) {
		h.f.Errorf("runs after %s, want %s", got, after)
	}
	h.begun = nil
}

// next publishes a list of A with another number.
func (h *hooked) next(number int64) {
	h.f.publish(urlA, h.f.a.list(h.f, urlA, number, h.f.begun))
}

func TestHookRunsAfterEachChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hooked{f: newFixture(t)}
		h.f.away = errors.New("away")
		stop := h.f.daemon(h.with)
		pass(5 * time.Second)
		h.want(time.Now()) // there is no file yet
		h.f.mu.Lock()
		h.f.away = nil
		h.f.mu.Unlock()
		pass(5 * time.Second)
		h.mu.Lock()
		h.begun = nil
		h.mu.Unlock()

		begun := time.Now()
		for n := range 20 { // a burst: the first at once, and then one each second
			h.next(11 + int64(n))
			pass(600 * time.Millisecond)
		}
		pass(20 * time.Second)
		if got := h.saw[len(h.saw)-1]; got != "A 30, A 10, B 10, Root 10" {
			t.Errorf("the last run saw %s", got)
		}
		h.mu.Lock()
		if n := len(h.begun); n < 10 || n > 13 || h.begun[0].Sub(begun) > 700*time.Millisecond {
			t.Errorf("a burst of 12 s, and at most a run each second: %d runs", n)
		}
		h.mu.Unlock()
		stop()
		if _, err := os.Stat(h.f.file + ".hook-due"); !os.IsNotExist(err) {
			t.Errorf("the note after all was told: %v", err)
		}
	})
}

// TestChangeWhileTheHookRuns leads to another run.
func TestChangeWhileTheHookRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hooked{f: newFixture(t), takes: 10 * time.Second}
		begun := time.Now()
		stop := h.f.daemon(h.with)
		pass(5 * time.Second)
		h.next(11)
		pass(time.Second)
		h.next(12)
		pass(30 * time.Second)
		h.want(begun, 0, 10*time.Second)
		if got := h.saw[1]; got != "A 12, A 10, B 10, Root 10" {
			t.Errorf("the second run saw %s", got)
		}
		stop()
	})
}

// TestHookThatFails is run again, ever more seldom, at once if there is news, and never keeps the file from being replaced.
func TestHookThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hooked{f: newFixture(t), fails: 100}
		begun := time.Now()
		stop := h.f.daemon(h.with)
		pass(10 * time.Second)
		h.want(begun, 0, time.Second, 3*time.Second, 7*time.Second)
		h.next(11)
		pass(800 * time.Millisecond)
		h.f.want("A 11, A 10, B 10, Root 10")
		h.want(begun, 10*time.Second)
		pass(10 * time.Minute)
		h.mu.Lock()
		if n := len(h.begun); n < 9 || n > 14 {
			t.Errorf("%d runs in ten minutes; at most one in a minute is wanted in the end", n)
		}
		h.begun, h.fails = nil, 0
		h.mu.Unlock()
		pass(2 * time.Minute)
		h.mu.Lock()
		if len(h.begun) != 1 {
			t.Errorf("%d runs when the hook does again", len(h.begun))
		}
		h.mu.Unlock()
		stop()
	})
}

// TestHookIsMadeUpFor: a stop, or a crash, between the new file and the hook leaves a server with the old list.
func TestHookIsMadeUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hooked{f: newFixture(t), takes: time.Hour}
		stop := h.f.daemon(h.with)
		pass(5 * time.Second)
		stop() // in the middle of the hook
		h.takes, h.begun = 0, nil
		begun := time.Now()
		stop = h.f.daemon(h.with)
		pass(5 * time.Second)
		h.want(begun, 0)
		stop()
		stop = h.f.daemon(h.with)
		pass(5 * time.Second)
		h.want(begun) // nothing has changed, and the server knows it
		stop()

		if err := os.Rename(h.f.file, h.f.file+".hook-due"); err != nil {
			t.Fatal(err)
		}
		h.f.away = errors.New("away")
		stop = h.f.daemon(h.with)
		pass(5 * time.Second)
		h.want(begun) // a note, and no file to tell of
		stop()
	})
}

// TestAnotherHandsChangeIsTold: what else keeps the file up to date, such as a --once before the server starts, may not
// have told the server.
func TestAnotherHandsChangeIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hooked{f: newFixture(t)}
		stop := h.f.daemon(h.with)
		pass(5 * time.Second)
		h.mu.Lock()
		h.begun = nil
		h.mu.Unlock()
		h.f.mu.Lock()
		h.f.away = errors.New("away")
		h.f.mu.Unlock()
		newer := (&target{}).encode([][]byte{h.f.a.list(t, urlA, 11, h.f.begun), h.f.lists[urlA1], h.f.lists[urlB], h.f.lists[urlR]})
		begun := time.Now()
		if err := os.WriteFile(h.f.file, newer, 0o600); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		h.want(begun, 0)
		h.f.want("A 11, A 10, B 10, Root 10")
		older := (&target{}).encode([][]byte{h.f.lists[urlA], h.f.lists[urlA1], h.f.lists[urlB], h.f.lists[urlR]})
		if err := os.WriteFile(h.f.file, older, 0o600); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		h.f.want("A 11, A 10, B 10, Root 10")
		stop()
	})
}

// TestUnitTellsTheServer: the service writes a file before the server starts. Where the server runs already, as when the
// service alone is started again, that must not go untold.
func TestUnitTellsTheServer(t *testing.T) {
	unit, err := os.ReadFile("../../deploy/systemd/pkictl-crl-sync.service")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for line := range strings.Lines(string(unit)) {
		if strings.HasPrefix(line, "ExecStart") {
			if found++; !strings.Contains(line, "--exec ") {
				t.Errorf("nobody is told: %s", line)
			}
		}
	}
	if found != 2 {
		t.Errorf("%d commands", found)
	}
}

// TestNoteIsNoLink: in a directory of another's, root would write wherever that one wants.
func TestNoteIsNoLink(t *testing.T) {
	h := &hooked{f: newFixture(t)}
	elsewhere := filepath.Join(t.TempDir(), "nologin")
	f := h.f.sync(h.with) // removes a note that is there without a file
	if err := os.Symlink(elsewhere, h.f.file+".hook-due"); err != nil {
		t.Skip(err)
	}
	if err := f.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(elsewhere); !os.IsNotExist(err) {
		t.Errorf("a file where the link leads: %v", err)
	}
	if len(h.begun) != 1 {
		t.Errorf("%d runs of the hook", len(h.begun))
	}
}

func TestOnceTellsTheServer(t *testing.T) {
	h := &hooked{f: newFixture(t), fails: 1}
	if err := h.f.sync(h.with).Once(t.Context()); !errors.Is(err, errFault) {
		t.Errorf("a hook that fails: %v", err)
	}
	h.f.once(h.with) // nothing new, but the server does not know yet
	h.f.once(h.with)
	if len(h.begun) != 2 {
		t.Errorf("%d runs, want 2", len(h.begun))
	}
}

func TestCommand(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the lines are for sh")
	}
	for _, tt := range []struct{ line, err, log string }{
		{`true`, "", ""},
		{`echo "told $PKICTL_CRL_FILE"`, "", "told /crl.pem"},
		{`echo first; yes | head -c 100000; echo last`, "", "last"},
		{`echo no such server >&2; exit 3`, "exit status 3: no such server", ""},
		{`sleep 60 & echo waiting; wait`, "did not end within", ""},
		{`no-such-program`, "no-such-program", ""},
	} {
		var log strings.Builder
		timeout := 10 * time.Second
		if strings.Contains(tt.line, "sleep") {
			timeout = 100 * time.Millisecond
		}
		err := Command(tt.line, "/crl.pem", timeout, slog.New(slog.NewTextHandler(&log, nil)))(t.Context())
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %q", tt.line, err, tt.err)
		}
		if !strings.Contains(log.String(), tt.log) || len(log.String()) > 3*maxOutput {
			t.Errorf("%s: the log has %d octets: %.300s", tt.line, log.Len(), log.String())
		}
	}
}

// TestCommandIsEndedWithAllThatItStarted: a hook that hangs is run again and again, and must not leave its children.
func TestCommandIsEndedWithAllThatItStarted(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no process groups")
	}
	fifo := filepath.Join(t.TempDir(), "alive")
	if err := Command("mkfifo "+fifo, "", 10*time.Second, slog.New(slog.DiscardHandler))(t.Context()); err != nil {
		t.Skip(err)
	}
	hook := Command("(exec 3>"+fifo+"; sleep 600) & wait", "", 100*time.Millisecond, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- hook(t.Context()) }()
	f, err := os.Open(fifo) // until the child has opened it too
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := <-ended; err == nil {
		t.Error("no error from a command that hangs")
	}
	if err := f.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) { // when no process has it open
		t.Errorf("read %d, %v", n, err)
	}
}

func TestElse(t *testing.T) {
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	calls := ""
	hook := func(name string, err error) Hook {
		return func(context.Context) error { calls += name; return err }
	}
	if err := Else(hook("a", nil), hook("b", nil), logger)(t.Context()); err != nil || calls != "a" {
		t.Errorf("the first does: %v, %s", err, calls)
	}
	if err := Else(hook("c", errFault), hook("d", nil), logger)(t.Context()); err != nil || calls != "acd" || !strings.Contains(log.String(), errFault.Error()) {
		t.Errorf("the other does: %v, %s", err, calls)
	}
	if err := Else(hook("e", errFault), nil, logger)(t.Context()); !errors.Is(err, errFault) {
		t.Errorf("there is no other: %v", err)
	}
}
