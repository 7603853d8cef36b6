package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a contender's server.
type process struct {
	name    string
	cmd     *exec.Cmd
	log     string
	started time.Time
	ended   chan struct{}
	err     error // of its end; valid once ended is closed

	perf     string // where to record a profile to
	profiles int    // that were recorded; see profile
}

// settle waits until what was written so far is on the disk, so that it does not delay what is measured next.
func settle() { syscall.Sync() }

// start runs a server whose output goes to a file.
func (b *bench) start(name, dir string, env []string, program string, args ...string) (*process, error) {
	log := filepath.Join(b.dir, name+".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &process{name: name, cmd: exec.Command(program, args...), log: log, ended: make(chan struct{})} //nolint:gosec,noctx // G204: a contender; stop ends it
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = dir, append(os.Environ(), env...), f, f
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// stop ends the server and waits for it.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// ready waits until check succeeds.
func (p *process) ready(ctx context.Context, limit time.Duration, check func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.ended:
			return fmt.Errorf("%s ended: %w\n%s", p.name, p.err, p.tail())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %s: %w\n%s", p.name, limit, err, p.tail())
		}
	}
}

// tail is the end of the log, for an error.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return ""
	}
	return string(text[max(0, len(text)-2000):])
}

// cpu is the processor time used so far, of all threads: clock_getcpuclockid(3) and clock_gettime(2).
func (p *process) cpu() (time.Duration, error) {
	var t unix.Timespec
	const sched = 2 // CPUCLOCK_SCHED
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|sched), &t); err != nil {
		return 0, fmt.Errorf("processor time of %s: %w", p.name, err)
	}
	return time.Duration(t.Nano()), nil
}

// ownCPU is the processor time that this process used so far.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// memory is the anonymous resident memory in octets: without the pages of mapped files. The kernel counts it
// page by page in smaps_rollup, which it shows to root alone of a process that lets nobody read its memory, as pkid does;
// the running counters of status, which everybody may read, can be a little behind.
func (p *process) memory() (int64, error) {
	n, err := p.kilobytes("smaps_rollup", "Anonymous:")
	if errors.Is(err, os.ErrPermission) {
		n, err = p.kilobytes("status", "RssAnon:")
	}
	return n << 10, err
}

func (p *process) kilobytes(file, key string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("no %s in /proc/PID/%s", key, file)
}

// freeAddress returns a loopback address that is free now.
func freeAddress() (string, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// get reads a URL once, for readiness and setup.
func get(ctx context.Context, url string, c *tls.Config) (*http.Response, error) {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}, Timeout: time.Minute}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return client.Do(r)
}

// answers reports whether a URL is answered with 200.
func answers(ctx context.Context, url string, c *tls.Config) error {
	resp, err := get(ctx, url, c)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return nil
}

// output runs a command to its end.
func output(ctx context.Context, dir string, env []string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // G204: what the bench itself says
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
