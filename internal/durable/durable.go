// Package durable keeps names of files over a loss of power.
package durable

import (
	"errors"
	"os"
	"runtime"
)

// Dir makes what was created, renamed and removed in a directory durable. Windows has no such call, and journals it itself.
func Dir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
