package main

import (
	"os"
	"regexp"
	"syscall"
	"testing"
)

func TestNoCoreFiles(t *testing.T) {
	harden()
	text, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^Max core file size +0 +0 +bytes`).Match(text) {
		t.Errorf("core files are allowed:\n%s", text)
	}
	if dumpable, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_GET_DUMPABLE, 0, 0); dumpable != 0 || errno != 0 {
		t.Errorf("dumpable: %d, %v", dumpable, errno)
	}
}
