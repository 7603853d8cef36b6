//go:build unix && !aix && !solaris

package client

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// tryLock takes a lock that ends with the process. The error is errLocked if another holds it.
func tryLock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return func() { f.Close() }, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return nil, errLocked
	}
	return nil, fmt.Errorf("locking %s: %w", name, err)
}
