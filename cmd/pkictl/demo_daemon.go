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
	stop     func() // ends the process, gently at first, and waits for it
	ended    chan struct{}
	err      error // what the process ended with, once ended is closed
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
	life, end := context.WithCancel(context.WithoutCancel(ctx)) // the demo's last steps need it
	//nolint:gosec // G204: the program that belongs to this one
	cmd := exec.CommandContext(life, binary, "quickstart", "--data", data, "--public", anyPort, "--mtls", anyPort, "--status", anyPort, "--ops", anyPort)
	cmd.Cancel = func() error {
		if cmd.Process.Signal(os.Interrupt) != nil { // Windows knows no such signal
			return cmd.Process.Kill()
		}
		return nil
	}
	cmd.WaitDelay = 5 * time.Second
	endWithParent(cmd)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		end()
		return nil, err
	}
	d := &ownDaemon{ended: make(chan struct{})}
	d.stop = func() {
		end()
		<-d.ended
	}
	go func() {
		d.err = cmd.Wait()
		close(d.ended)
	}()
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
		case <-d.ended:
			return errors.Join(errors.New("it ended early"), d.err)
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
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
