package chaos

import (
	"os/exec"
	"syscall"
)

// endWithParent has the kernel end a daemon whose test was killed and could not do it.
func endWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
