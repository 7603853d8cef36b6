package main

import (
	"os/exec"
	"syscall"
)

// endWithParent has the kernel end a child whose parent was killed and could not do it. The signal comes when
// the thread ends that starts the child; Go keeps its threads but those that LockOSThread ties to a goroutine.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
