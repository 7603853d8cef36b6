//go:build !windows

package stepca

import (
	"errors"
	"os"
)

// exposed reports whether group or others have any right on the file.
func exposed(info os.FileInfo) bool { return info.Mode().Perm()&0o077 != 0 }

// syncDir makes a new file's name durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
