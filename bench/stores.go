package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// boltOctets is how much of a bbolt file is in use, up to its last page that ever was. The file itself grows in
// larger steps. It is read from the newer of the two meta pages, which works while the store is open: another
// process's lock does not keep anybody from reading.
func boltOctets(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	const magic, header = 0xED0CDAED, 16
	// A page's header; then magic, version, page size, flags; root, its sequence, freelist, pages, transaction.
	meta := make([]byte, header+16+5*8)
	if _, err := f.ReadAt(meta, 0); err != nil {
		return 0, err
	}
	pageSize := int64(binary.NativeEndian.Uint32(meta[header+8:]))
	pages, newest := uint64(0), uint64(0)
	for i := range int64(2) {
		if _, err := f.ReadAt(meta, i*pageSize); err != nil {
			return 0, err
		}
		if binary.NativeEndian.Uint32(meta[header:]) != magic {
			return 0, fmt.Errorf("%s: not a bbolt file", path)
		}
		if tx := binary.NativeEndian.Uint64(meta[header+48:]); tx >= newest {
			newest, pages = tx, binary.NativeEndian.Uint64(meta[header+40:])
		}
	}
	return int64(pages) * pageSize, nil
}

// treeOctets is what a directory's files take on disk, without what they reserve beyond.
func treeOctets(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return ignoreGone(err)
		}
		info, err := os.Lstat(path)
		if err != nil {
			return ignoreGone(err)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() {
			sum += min(stat.Blocks*512, info.Size())
		}
		return nil
	})
	return sum, err
}

// ignoreGone: a running store may remove a file at any time.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
