//go:build unix

package crlfile

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
)

// keepOwner gives a new file the owner of the old one, if there is one.
func keepOwner(f *os.File, old fs.FileInfo) error {
	if old == nil {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	was, is := old.Sys().(*syscall.Stat_t), info.Sys().(*syscall.Stat_t)
	if was.Uid == is.Uid && was.Gid == is.Gid {
		return nil
	}
	if err := f.Chown(int(was.Uid), int(was.Gid)); err != nil {
		return fmt.Errorf("the file's owner cannot be kept: remove the file once, or run as its owner: %w", err)
	}
	return nil
}

// shell prepares a command line. Whatever it starts is ended with it.
func shell(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

var shellArgs = []string{"sh", "-c"}
