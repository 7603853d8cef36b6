//go:build !unix || aix || solaris

package client

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// lockDir keeps other processes from changing the identity in dir until unlock is called. Without flock the
// lock is the file's existence; one that is older than any enrolment can take was left by a crash.
func lockDir(dir string) (unlock func(), err error) {
	const stale, patience = 5 * time.Minute, 10 * time.Second
	name := filepath.Join(dir, lockName)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			return func() { f.Close(); os.Remove(name) }, nil
		}
		if !os.IsExist(err) {
			return nil, err
		}
		if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > stale {
			os.Remove(name)
			continue
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("another process is changing %s: if none is running, remove %s", dir, name)
		}
	}
}
