package crlfile

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/pkid/pkid/internal/durable"
)

const (
	pemType     = "X509 CRL"
	pemStart    = "-----BEGIN " + pemType + "-----"
	defaultMode = 0o644 // a CRL is public, and servers read it as whoever they are
	// maxFile bounds the file: what could not be read again must not be written, or a restart would forget it.
	maxFile  = 1 << 30
	maxLinks = 20
	// leftover is how old what a crash left beside the file is at least. A file that is being written is younger.
	leftover = time.Minute
)

// target is the file that is kept.
type target struct {
	name   string
	mode   fs.FileMode
	der    bool
	usable bool // there is, or was, a file with lists of this CA

	there fs.FileInfo       // as it was read or written last; nil if there was none
	sum   [sha256.Size]byte // of what it held then

	fault func(step string) error // for tests: what goes wrong before a step
}

// resolve returns the file's name without links: a link stays, and what it leads to is replaced.
func resolve(name string) (string, error) {
	name, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	for range maxLinks {
		led, err := filepath.EvalSymlinks(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return led, err
		}
		dir, err := filepath.EvalSymlinks(filepath.Dir(name))
		if err != nil {
			return "", err
		}
		name = filepath.Join(dir, filepath.Base(name))
		to, err := os.Readlink(name) // it may lead to where the first file will be
		if err != nil {
			return name, nil //nolint:nilerr // there is no link
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(dir, to)
		}
		name = to
	}
	return "", fmt.Errorf("%s: too many links", name)
}

// check refuses to replace what is no CRL, such as a key whose name was given by mistake, and removes what crashes left.
func (t *target) check() error {
	if old, err := filepath.Glob(t.pattern()); err == nil {
		for _, name := range old {
			if info, err := os.Lstat(name); err == nil && time.Since(info.ModTime()) > leftover {
				os.Remove(name)
			}
		}
	}
	content, err := t.content()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(content) == 0 || onlyLists(content) {
		return nil
	}
	return fmt.Errorf("%s holds something else than CRLs: name another file, or remove it", t.name)
}

// onlyLists reports whether a file holds lists and, as far as can be seen, nothing else, though they may be damaged.
func onlyLists(content []byte) bool {
	if _, err := x509.ParseRevocationList(content); err == nil {
		return true
	}
	lists := bytes.Count(content, []byte(pemStart))
	return lists > 0 && lists == bytes.Count(content, []byte("-----BEGIN "))
}

func (t *target) exists() bool {
	_, err := os.Stat(t.name)
	return err == nil
}

// content reads the file.
func (t *target) content() ([]byte, error) {
	info, err := os.Stat(t.name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no file", t.name)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s is larger than %d octets", t.name, maxFile)
	}
	return os.ReadFile(t.name)
}

// changed reports whether the file is another one than was read or written last.
func (t *target) changed() bool {
	info, err := os.Stat(t.name)
	if err != nil || t.there == nil {
		return t.there != nil || err == nil
	}
	return !os.SameFile(info, t.there) || info.Size() != t.there.Size() || !info.ModTime().Equal(t.there.ModTime())
}

// read returns the lists in the file, not verified.
func (t *target) read(maxList int64) (lists [][]byte, err error) {
	t.there, t.sum = nil, [sha256.Size]byte{}
	info, err := os.Stat(t.name) // before it is read: what changes in between is seen next time
	if err != nil {
		return nil, err
	}
	t.there = info
	content, err := t.content()
	if err != nil {
		return nil, err
	}
	t.sum = sha256.Sum256(content)
	if len(content) > 0 && content[0] == 0x30 {
		return [][]byte{content}, nil
	}
	for {
		block, rest := pem.Decode(content)
		if block == nil {
			break
		}
		if block.Type == pemType && int64(len(block.Bytes)) <= maxList && len(lists) < maxPoints {
			lists = append(lists, block.Bytes)
		}
		content = rest
	}
	return lists, nil
}

func (t *target) encode(lists [][]byte) []byte {
	if t.der {
		return lists[0]
	}
	var content bytes.Buffer
	for _, der := range lists {
		_ = pem.Encode(&content, &pem.Block{Type: pemType, Bytes: der}) // a Buffer takes everything
	}
	return content.Bytes()
}

// holds reports whether that is what the file has.
func (t *target) holds(content []byte) bool {
	return t.there != nil && t.sum == sha256.Sum256(content)
}

func (t *target) pattern() string {
	return filepath.Join(filepath.Dir(t.name), "."+filepath.Base(t.name)+".new-*")
}

// replace puts content into the file's place in one step, with its owner and mode. After a crash at any point there is
// the old file or the new one.
func (t *target) replace(content []byte) (err error) {
	if len(content) > maxFile {
		return fmt.Errorf("the CRLs together are larger than %d octets", maxFile)
	}
	old, err := os.Stat(t.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(t.name), filepath.Base(t.pattern()))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"write", func() error { _, err := f.Write(content); return err }},
		{"owner", func() error { return keepOwner(f, old) }},
		{"mode", func() error { return t.setMode(f, old) }},
		{"sync", f.Sync},
		{"close", f.Close},
		{"rename", func() error { return os.Rename(f.Name(), t.name) }},
		{"sync directory", func() error { return durable.Dir(filepath.Dir(t.name)) }},
	} {
		if t.fault != nil {
			if err := t.fault(step.name); err != nil {
				return err
			}
		}
		if err := step.do(); err != nil {
			return err
		}
	}
	t.usable, t.sum = true, sha256.Sum256(content)
	t.there, err = os.Stat(t.name)
	return err
}

func (t *target) setMode(f *os.File, old fs.FileInfo) error {
	mode := t.mode
	if mode == 0 {
		mode = defaultMode
		if old != nil {
			mode = old.Mode().Perm()
		}
	}
	if runtime.GOOS == "windows" {
		return nil
	}
	return f.Chmod(mode)
}
