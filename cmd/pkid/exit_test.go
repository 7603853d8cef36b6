package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/internal/stepca"
)

func TestExitCodes(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for _, tt := range []struct {
		args []string
		want int
	}{
		{[]string{"version"}, 0},
		{[]string{"--help"}, 0},
		{[]string{"serve", "--data", none}, exitFailed},
		{nil, exitUsage},
		{[]string{"sevre"}, exitUsage},
		{[]string{"serve", "--dta", "x"}, exitUsage},
		{[]string{"serve", "extra"}, exitUsage},
		{[]string{"operator", "--data", none}, exitUsage},
	} {
		if got := run(t.Context(), tt.args, io.Discard, io.Discard); got != tt.want {
			t.Errorf("pkid %v exits with %d, want %d", tt.args, got, tt.want)
		}
	}
}

// What starts pkid again by itself does not after a refused PIN: the unit says so, and the code is one of its own.
func TestRefusedPINIsNotTriedAgain(t *testing.T) {
	if got := exitCode(&cobra.Command{}, fmt.Errorf("issuing key: %w", stepca.ErrPIN), io.Discard); got != exitPIN {
		t.Errorf("exits with %d", got)
	}
	unit, err := os.ReadFile("../../deploy/systemd/pkid.service")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(unit), fmt.Sprintf("\nRestartPreventExitStatus=%d\n", exitPIN)) {
		t.Error("the unit starts it again")
	}
}

// Told to stop while it starts, the daemon stops as it does later: a supervisor sees no failure.
func TestStopDuringStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	free := "127.0.0.1:0"
	if code := run(t.Context(), []string{"init", "--data", dir, "--public", free, "--mtls", free, "--status", free, "--ops", free}, io.Discard, io.Discard); code != 0 {
		t.Fatalf("init exits with %d", code)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code := run(ctx, []string{"serve", "--data", dir}, io.Discard, io.Discard); code != 0 {
		t.Errorf("serve exits with %d", code)
	}
}
