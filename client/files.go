package client

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/pkid/pkid/internal/durable"
)

// maxFile bounds what is read from an identity directory; a key and a chain are a few kilobytes.
const maxFile = 1 << 20

// writeFile puts data in place of name in one step: a reader, or the next start after a crash, sees the old
// file or the new one, never a part.
func writeFile(name string, data []byte, perm fs.FileMode) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+".*") // O_EXCL, 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(perm); err != nil && runtime.GOOS != "windows" {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return err
	}
	return durable.Dir(dir)
}

// createFile is writeFile for a file that must not exist. The directory's lock keeps other processes of this
// package out between the check and the rename.
func createFile(name string, data []byte, perm fs.FileMode) error {
	if exists(name) {
		return fmt.Errorf("%s: %w", name, fs.ErrExist)
	}
	return writeFile(name, data, perm)
}

// removeFile removes a file that may be missing.
func removeFile(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.Dir(filepath.Dir(name))
}

// readFile reads a whole file of at most maxFile octets.
func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: larger than %d octets", name, maxFile)
	}
	return os.ReadFile(name)
}

// unreadable says of a file that cannot be read which one it is and why.
func unreadable(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("cannot read %s: %w", e.Path, e.Err)
	}
	return err
}

// missingDirs returns dir and those above it that do not exist, the deepest first.
func missingDirs(dir string) (missing []string) {
	for dir = filepath.Clean(dir); !exists(dir); dir = filepath.Dir(dir) {
		missing = append(missing, dir)
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return missing
}

// removeMade removes directories, the deepest first, as far as nothing but a lock is in them.
func removeMade(dirs []string) {
	for _, dir := range dirs {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 1 {
			return
		}
		os.Remove(filepath.Join(dir, lockName))
		if os.Remove(dir) != nil {
			return
		}
	}
}

// exists reports whether something is there, a dangling link included.
func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}
