// Package backup writes and reads a pkid backup: a tar archive that is encrypted with age (age-encryption.org/v1),
// so that it can lie anywhere and `age --decrypt | tar x` opens it without pkid.
//
// The last file of the archive is the manifest, which names every other with its size and SHA-256. A reader unpacks
// into a directory of its own and trusts nothing of it before the manifest was found and everything agrees with it:
// what a cut or changed archive holds is never taken for a backup.
package backup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
	"unicode/utf8"

	"filippo.io/age"

	"github.com/pkid/pkid/internal/audit"
)

const (
	manifestName = "manifest.json"
	format       = 1
	maxManifest  = 1 << 20
	maxFiles     = 1000 // beside the manifest
)

var (
	// ErrFormat: the file is no backup of pkid, or it is cut or damaged. The text says which.
	ErrFormat = errors.New("not a usable pkid backup")
	// ErrIdentity: none of the identities opens it.
	ErrIdentity = errors.New("the backup is not encrypted to this identity")
	// ErrName: a backup cannot hold a file of this name, or not another one.
	ErrName = errors.New("no backup can hold it")
)

// Manifest says what a backup is of.
type Manifest struct {
	Format  int       `json:"format"`
	Created time.Time `json:"created"`
	CA      string    `json:"ca"`    // its name
	Root    string    `json:"root"`  // the root's fingerprint: SHA-256 in hex
	Store   string    `json:"store"` // the engine; a database of another program is not in the backup
	// Audit is the end of the audit log in it; zero where the store is not in the backup.
	Audit audit.Head `json:"audit"`
	// LeftOut are things that serving needs and that are not in the backup: keys in a device, files elsewhere.
	LeftOut []string `json:"left_out,omitempty"`
	Files   []Listed `json:"files"` // in the order of the archive; filled in by Write
}

// Listed is a file of a backup.
type Listed struct {
	Name   string      `json:"name"` // slash-separated, below the data directory
	Mode   fs.FileMode `json:"mode"`
	Size   int64       `json:"size"`
	SHA256 string      `json:"sha256"`
}

// Writer writes a backup. Add files, then Close with the manifest; without that nothing reads it.
type Writer struct {
	sealed io.WriteCloser
	tar    *tar.Writer
	now    time.Time
	listed []Listed
}

// NewWriter begins a backup that any of the recipients can open.
func NewWriter(w io.Writer, now time.Time, recipients ...age.Recipient) (*Writer, error) {
	if len(recipients) == 0 {
		return nil, errors.New("a backup needs a recipient to encrypt to")
	}
	sealed, err := age.Encrypt(w, recipients...)
	if err != nil {
		return nil, fmt.Errorf("encrypting the backup: %w", err)
	}
	return &Writer{sealed: sealed, tar: tar.NewWriter(sealed), now: now.UTC().Truncate(time.Second)}, nil
}

// Add writes a file of exactly size octets. What Extract would refuse is refused here, with ErrName: that must not turn
// out when the backup is needed.
func (w *Writer) Add(name string, mode fs.FileMode, size int64, content io.Reader) error {
	switch {
	case name == manifestName || !utf8.ValidString(name) || !filepath.IsLocal(filepath.FromSlash(name)):
		return fmt.Errorf("%q: %w: give it another name, or move it away", name, ErrName)
	case slices.ContainsFunc(w.listed, func(l Listed) bool { return l.Name == name }):
		return fmt.Errorf("%q: %w a second time: move it away", name, ErrName)
	case len(w.listed) == maxFiles:
		return fmt.Errorf("%q: %w beside %d others: move away what is no part of the CA", name, ErrName, maxFiles)
	}
	sum := sha256.New()
	if err := w.file(name, mode, size, io.TeeReader(content, sum)); err != nil {
		return err
	}
	w.listed = append(w.listed, Listed{Name: name, Mode: mode, Size: size, SHA256: hex.EncodeToString(sum.Sum(nil))})
	return nil
}

func (w *Writer) file(name string, mode fs.FileMode, size int64, content io.Reader) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode.Perm()), Size: size, ModTime: w.now, Format: tar.FormatPAX}
	err := w.tar.WriteHeader(h)
	if err == nil {
		_, err = io.CopyN(w.tar, content, size)
	}
	if err != nil {
		return fmt.Errorf("adding %s to the backup: %w", name, err)
	}
	return nil
}

// Close completes the backup. It does not close what the backup is written to.
func (w *Writer) Close(m Manifest) error {
	m.Format, m.Created, m.Files = format, w.now, w.listed
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("completing the backup: %w", err)
	}
	if len(text) > maxManifest {
		return fmt.Errorf("completing the backup: the names of its files are longer than %d octets: move away what is no part of the CA", maxManifest)
	}
	if err := w.file(manifestName, 0o600, int64(len(text)), bytes.NewReader(text)); err != nil {
		return err
	}
	if err := errors.Join(w.tar.Close(), w.sealed.Close()); err != nil {
		return fmt.Errorf("completing the backup: %w", err)
	}
	return nil
}

// Extract unpacks a backup into dir, an empty directory, and returns its manifest. Nothing in dir is to be used if it
// returns an error: ErrIdentity, ErrFormat, or what the file system says.
func Extract(r io.Reader, dir string, identities ...age.Identity) (*Manifest, error) {
	opened, err := age.Decrypt(r, identities...)
	if _, none := errors.AsType[*age.NoIdentityMatchError](err); none {
		return nil, ErrIdentity
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("unpacking the backup: %w", err)
	}
	m, err := extract(tar.NewReader(opened), root)
	if err == nil {
		// Only its last octets show that an age file is whole.
		if _, err = io.Copy(io.Discard, opened); err != nil {
			err = fmt.Errorf("%w: %w", ErrFormat, err)
		}
	}
	if err := errors.Join(err, root.Close()); err != nil {
		return nil, err
	}
	return m, nil
}

func extract(archive *tar.Reader, root *os.Root) (*Manifest, error) {
	var found []Listed
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: it ends before its manifest: it was cut", ErrFormat)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		if h.Name == manifestName {
			return readManifest(archive, found)
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(filepath.FromSlash(h.Name)) || len(found) == maxFiles {
			return nil, fmt.Errorf("%w: it holds %q, which no backup does", ErrFormat, h.Name)
		}
		sum, err := unpack(root, h, archive)
		if err != nil {
			return nil, fmt.Errorf("unpacking %s: %w", h.Name, err)
		}
		found = append(found, Listed{Name: h.Name, Mode: fs.FileMode(h.Mode).Perm(), Size: h.Size, SHA256: sum})
	}
}

// unpack writes a file that must not exist, readable by nobody else than the backup says, and makes it durable.
func unpack(root *os.Root, h *tar.Header, content io.Reader) (sum string, err error) {
	name := filepath.FromSlash(h.Name)
	if err := root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return "", err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(h.Mode).Perm()&0o644)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, hash), content)
	return hex.EncodeToString(hash.Sum(nil)), errors.Join(err, f.Sync(), f.Close())
}

// readManifest reads the last file of the archive.
func readManifest(archive *tar.Reader, found []Listed) (*Manifest, error) {
	text, err := io.ReadAll(io.LimitReader(archive, maxManifest+1))
	if err == nil && len(text) > maxManifest {
		err = fmt.Errorf("it has more than %d octets", maxManifest)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: its manifest is not readable: %w", ErrFormat, err)
	}
	m := &Manifest{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("%w: its manifest is not readable: %w", ErrFormat, err)
	}
	if m.Format != format {
		return nil, fmt.Errorf("%w: it has format %d, and this pkid knows %d", ErrFormat, m.Format, format)
	}
	if !slices.Equal(m.Files, found) {
		return nil, fmt.Errorf("%w: its files are not those of its manifest", ErrFormat)
	}
	if _, err := archive.Next(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows its manifest", ErrFormat)
	}
	return m, nil
}
