package main

import (
	"io"
	"path/filepath"
	"testing"
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
