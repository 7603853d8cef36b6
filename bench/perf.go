package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// perfDir is where measure puts a profile of every round of pkid's, if it is set. The daemon has no profiling
// endpoint; Linux perf looks at it from outside: perf report --no-children -i FILE.
var perfDir string

// profile records a server until the function it returns is called.
func (p *process) profile() func() {
	if perfDir == "" || !strings.HasPrefix(p.name, "pkid") {
		return func() {}
	}
	p.profiles++
	file := filepath.Join(perfDir, fmt.Sprintf("%s-%d.perf", p.name, p.profiles))
	cmd := exec.Command("perf", "record", "-q", "-g", "-F", "499", "-o", file, "-p", fmt.Sprint(p.cmd.Process.Pid))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "perf:", err)
		return func() {}
	}
	return func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}
}
