package crl

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// file is where a source's list is kept: issuer key and URL make the name, so that lists cannot be mixed up.
func (k *Checker) file(s *source, of kind) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%x %s", s.issuer.RawSubjectPublicKeyInfo, s.url))
	name := hex.EncodeToString(sum[:16])
	if of == deltaList {
		name += "-delta"
	}
	return filepath.Join(k.dir, name+".crl")
}

// keep keeps a list on disk, before it is used: a restart does not go back. A full disk is no reason to let a revoked
// certificate pass.
func (k *Checker) keep(s *source, of kind, der []byte) {
	if k.dir == "" {
		return
	}
	if err := k.write(k.file(s, of), der); err != nil {
		k.log.Error("keeping the CRL on disk; a restart now would go back to an older one", "url", s.from, "error", err)
	}
}

// write writes a file beside the old one, and then puts it in its place.
func (k *Checker) write(name string, content []byte) (err error) {
	f, err := os.CreateTemp(k.dir, "new-*.crl")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func prepareDir(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("crl: directory for CRLs: %w", err)
	}
	return nil
}
