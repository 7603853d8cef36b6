package stepca

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pkid/pkid/internal/durable"
	"github.com/pkid/pkid/internal/secret"
)

// maxKeyFile bounds a key file in octets. An RSA-4096 key has some 3,400.
const maxKeyFile = 64 << 10

// openFile reads and decrypts the one PEM block of a key file that nobody but its owner can read.
func openFile(path, blockType string, passphrase []byte) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening key: %w", err)
	}
	if secret.Exposed(info) {
		return nil, fmt.Errorf("%w %s: others can read it (mode %#o): chmod 600 it", ErrKey, path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	block, _ := pem.Decode(text)
	switch {
	case block == nil:
		return nil, fmt.Errorf("%w %s: no PEM block of type %q", ErrKey, path, blockType)
	case block.Type != blockType && strings.HasSuffix(block.Type, "PRIVATE KEY") && blockType == keyBlock:
		return nil, fmt.Errorf("%w %s: a %q is not encrypted, or the old way: `openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW`", ErrKey, path, block.Type)
	case block.Type != blockType:
		return nil, fmt.Errorf("%w %s: a PEM block of type %q; want %q", ErrKey, path, block.Type, blockType)
	}
	plaintext, err := decrypt(block.Bytes, passphrase)
	if errors.Is(err, errPadding) {
		return nil, fmt.Errorf("key %s: %w", path, ErrPassphrase)
	}
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrKey, path, err)
	}
	return plaintext, nil
}

// createFile encrypts plaintext into a new file that is durable on return. A file that could not be finished
// is taken away again.
func createFile(path, blockType string, plaintext, passphrase []byte, cost int) (err error) {
	if len(passphrase) == 0 {
		return fmt.Errorf("%w %s: no passphrase to encrypt it with", ErrKey, path)
	}
	der, err := encrypt(plaintext, passphrase, cost)
	if err != nil {
		return fmt.Errorf("encrypting key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("creating key: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("writing key: %w", err), os.Remove(path))
		}
	}()
	err = errors.Join(pem.Encode(f, &pem.Block{Type: blockType, Bytes: der}), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return durable.Dir(filepath.Dir(path))
}
