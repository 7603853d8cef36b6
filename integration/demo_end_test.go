package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/pkitest"
)

// endingDemo is a demo with a daemon of its own, whose process id and temporary directory are known.
type endingDemo struct {
	cmd    *exec.Cmd
	story  *os.File // what it prints
	errs   bytes.Buffer
	pid    string // file with the daemon's
	tmpdir string
}

func startEndingDemo(t *testing.T) *endingDemo {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("/proc tells whether the daemon still runs, on Linux alone")
	}
	pkictl, pkid := pkitest.Build(t, "pkictl"), pkitest.Build(t, "pkid")
	d := &endingDemo{pid: filepath.Join(t.TempDir(), "pid"), tmpdir: t.TempDir()}
	wrapped := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\necho $$ > %s\nexec %s \"$@\"\n", d.pid, pkid)
	if err := os.WriteFile(filepath.Join(wrapped, "pkid"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	d.cmd = exec.Command(pkictl, "demo")
	d.cmd.Dir = t.TempDir()
	d.cmd.Env = append(os.Environ(), "PATH="+wrapped+string(os.PathListSeparator)+os.Getenv("PATH"), "PKICTL_HOME="+t.TempDir(), "TMPDIR="+d.tmpdir)
	story, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d.story, d.cmd.Stdout, d.cmd.Stderr = story, w, &d.errs
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		story.Close()
		d.cmd.Process.Kill()
		d.cmd.Wait()
	})
	if line, err := bufio.NewReader(story).ReadString(':'); err != nil {
		t.Fatalf("it printed %q: %v\n%s", line, err, d.errs.String())
	}
	return d
}

// running reports whether the daemon does. What has ended and was not waited for has no command line.
func (d *endingDemo) running(t *testing.T) bool {
	t.Helper()
	text, err := os.ReadFile(d.pid)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(line, []byte("quickstart"))
}

// `pkictl demo | head` leaves nothing behind, and says nothing of it.
func TestDemoEndsWhenItsReaderLeaves(t *testing.T) {
	d := startEndingDemo(t)
	if !d.running(t) {
		t.Fatal("no daemon runs during the demo")
	}
	d.story.Close()
	if err := d.cmd.Wait(); d.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v", err)
	}
	if d.running(t) {
		t.Error("its daemon still runs")
	}
	if left, err := os.ReadDir(d.tmpdir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if strings.Contains(d.errs.String(), "pipe") {
		t.Errorf("it says:\n%s", d.errs.String())
	}
}

// A demo that is killed cannot end its daemon, so the kernel does.
func TestDemoIsKilled(t *testing.T) {
	d := startEndingDemo(t)
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.cmd.Wait()
	pkitest.Eventually(t, 10*time.Second, func() error {
		if d.running(t) {
			return fmt.Errorf("its daemon still runs")
		}
		return nil
	})
}
