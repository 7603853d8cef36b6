//go:build !unix || aix || solaris

package client

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// tryLock takes a lock. The error is errLocked if another holds it. Without flock the lock is the file's
// existence; one that is older than anyone may hold it was left by a crash.
func tryLock(name string) (unlock func(), err error) {
	const stale = 5 * lockPatience
	if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > stale {
		os.Remove(name)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, errLocked
	}
	if err != nil {
		return nil, err
	}
	return func() { f.Close(); os.Remove(name) }, nil
}
