package stepca

import (
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.step.sm/crypto/pemutil"
)

// ImportKey reads the private key of a CA that is taken over: PKCS #8, SEC 1 or PKCS #1 in PEM, in clear or encrypted in
// any way that OpenSSL or step-ca does. The passphrase is nil if there is none. Errors show nothing of the file.
func ImportKey(path string, passphrase []byte) (crypto.Signer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening key: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	block := privateKeyBlock(text)
	if block == nil {
		return nil, fmt.Errorf("%w %s: no private key in PEM", ErrKey, path)
	}
	asked := false
	options := []pemutil.Options{pemutil.WithFilename(path), pemutil.WithPasswordPrompt("", func(string) ([]byte, error) {
		asked = true
		return nil, errors.New("no passphrase")
	})}
	if len(passphrase) > 0 {
		options = append(options, pemutil.WithPassword(passphrase))
	}
	key, err := pemutil.ParseKey(pem.EncodeToMemory(block), options...)
	switch {
	case asked:
		return nil, fmt.Errorf("%w %s: it is encrypted: say where its passphrase is", ErrKey, path)
	case err != nil && len(passphrase) > 0:
		return nil, fmt.Errorf("%w %s: the passphrase does not open it, or it is of a kind that pkid does not read", ErrKey, path)
	case err != nil:
		return nil, fmt.Errorf("%w %s: of a kind that pkid does not read", ErrKey, path)
	}
	return usable(key, path)
}

// privateKeyBlock finds the key among what else a PEM file may hold, such as the parameters of its curve.
func privateKeyBlock(text []byte) *pem.Block {
	for {
		block, rest := pem.Decode(text)
		if block == nil || strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return block
		}
		text = rest
	}
}

// StoreKey keeps a key that was taken over as CreateKey keeps a new one.
func StoreKey(path string, key crypto.Signer, passphrase []byte) error {
	return storeKey(path, key, passphrase, iterations)
}
