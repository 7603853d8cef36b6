//go:build unix

package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// account is who runs the server: PostgreSQL refuses root. Nil is whoever runs the tests.
type account = *credential

type credential struct{ uid, gid uint32 }

// serverAccount returns postgres, or nobody, where root runs the tests.
func serverAccount() (account, error) {
	if os.Getuid() != 0 {
		return nil, nil //nolint:nilnil // documented: who runs the tests
	}
	var errs error
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &credential{uint32(uid), uint32(gid)}, nil
	}
	return nil, fmt.Errorf("no account to run PostgreSQL as: %w", errs)
}

func (c *credential) own(path string) error {
	if c == nil {
		return nil
	}
	return os.Chown(path, int(c.uid), int(c.gid))
}

func (c *credential) become(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.uid, Gid: c.gid}
	}
}
