//go:build unix && !aix && !solaris

package client

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lockDir waits until no other process changes the identity in dir, and keeps others out until unlock is
// called or the process ends.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}
