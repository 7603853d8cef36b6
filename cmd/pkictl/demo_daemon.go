package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/pkid/pkid/client"
)

// ownDaemon is a pkid with a data directory of its own, for as long as the demo lasts.
type ownDaemon struct {
	cmd      *exec.Cmd
	done     chan error // what the process ended with
	operator *client.Identity
}

// startDaemon starts pkid on free ports, with its data under dir, and waits until it answers.
func startDaemon(ctx context.Context, dir string) (*ownDaemon, error) {
	binary, err := findPkid(ctx, dir)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "pkid-data")
	const anyPort = "127.0.0.1:0"
	//nolint:gosec // the program that belongs to this one; stop ends it, not ctx, so that it ends cleanly
	cmd := exec.Command(binary, "quickstart", "--data", data, "--public", anyPort, "--mtls", anyPort, "--status", anyPort, "--ops", anyPort)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d := &ownDaemon{cmd: cmd, done: make(chan error, 1)}
	go func() { d.done <- cmd.Wait() }()
	if err := d.await(ctx, filepath.Join(data, "admin")); err != nil {
		d.stop()
		return nil, errors.Join(err, errors.New(strings.TrimSpace(log.String())))
	}
	return d, nil
}

func (d *ownDaemon) await(ctx context.Context, admin string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if id, err := client.Load(admin); err == nil {
			if _, err := id.API().CA(ctx); err == nil {
				d.operator = id
				return nil
			}
		}
		select {
		case err := <-d.done:
			d.done <- err
			return errors.Join(errors.New("it ended early"), err)
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop ends the process, gently at first.
func (d *ownDaemon) stop() {
	if d.cmd.Process.Signal(os.Interrupt) != nil { // Windows knows no such signal
		_ = d.cmd.Process.Kill()
	}
	select {
	case <-d.done:
	case <-time.After(5 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.done
	}
}

// findPkid looks for pkid beside this program and in PATH, and builds it where this is its source.
func findPkid(ctx context.Context, dir string) (string, error) {
	name := "pkid"
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	if found, err := exec.LookPath(name); err == nil {
		return found, nil
	}
	out, err := exec.CommandContext(ctx, "go", "list", "-m").Output()
	if err != nil || strings.TrimSpace(string(out)) != "github.com/pkid/pkid" {
		return "", errors.New("no pkid beside pkictl, in PATH or as source here: start one with `pkid quickstart` and try again")
	}
	built := filepath.Join(dir, name)
	//nolint:gosec // builds this very program into a directory of ours
	if text, err := exec.CommandContext(ctx, "go", "build", "-o", built, "github.com/pkid/pkid/cmd/pkid").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building pkid: %w: %s", err, text)
	}
	return built, nil
}
