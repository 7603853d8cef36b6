package stepca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"go.step.sm/crypto/kms/apiv1"
	kmsuri "go.step.sm/crypto/kms/uri"

	"github.com/pkid/pkid/ca"
)

var (
	// ErrPassphrase reports a key file that the passphrase does not open.
	ErrPassphrase = errors.New("wrong passphrase: `passphrase` in the configuration says where pkid reads it from")
	// ErrPIN reports a device that refused the PIN. Whoever tries again, or starts again, locks it in the end.
	ErrPIN = errors.New("the device refuses the PIN")
	// ErrKey reports a key that cannot be used as it is. Its text says what to do.
	ErrKey = errors.New("unusable key")
)

// DataKeySize is the length of a data key in octets.
const DataKeySize = 32

const (
	keyBlock  = "ENCRYPTED PRIVATE KEY"
	dataBlock = "ENCRYPTED PKID DATA KEY"
)

// OpenKey opens a private key. uri is the path of an encrypted PKCS #8 file in PEM, also spelled "file:..." or
// "softkms:...", or the URI of a key in any other KMS that this build has (go.step.sm/crypto/kms). A KMS takes
// its PIN from where pin-source in the URI says; the passphrase is for files. The error is ErrPassphrase, ErrKey or what
// the system says.
//
// A key in a KMS waits for it as long as signTimeout allows, and no longer, and connects again where that helps. Check
// tells how it is.
func OpenKey(ctx context.Context, uri string, passphrase []byte) (crypto.Signer, error) {
	path, ok := keyPath(uri)
	if !ok {
		return openKMS(ctx, uri)
	}
	der, err := openFile(path, keyBlock, passphrase)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", path, ErrPassphrase) // one wrong passphrase in 256 gets this far
	}
	return usable(parsed, path)
}

// usable checks that a key can sign and is of a kind that pkid knows.
func usable(key any, where string) (crypto.Signer, error) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w %s: a %T does not sign", ErrKey, where, key)
	}
	if _, err := ca.KeyTypeOf(signer.Public()); err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrKey, where, err)
	}
	return signer, nil
}

// keyPath returns the file that uri names, and false if it names something else. A scheme has at least two
// letters, so that C:\keys\issuer.key is a path.
func keyPath(uri string) (string, bool) {
	scheme, _, ok := strings.Cut(uri, ":")
	if !ok || len(scheme) < 2 || strings.ContainsAny(scheme, `/\`) {
		return uri, true
	}
	if scheme != "file" && scheme != string(apiv1.SoftKMS) {
		return "", false
	}
	u, err := kmsuri.Parse(uri)
	if err != nil {
		return "", false
	}
	for _, path := range []string{u.Get("path"), u.Path, u.Opaque} {
		if path != "" {
			return path, true
		}
	}
	return "", false
}

// CreateKey makes a key where uri says, as OpenKey has it: as an encrypted PKCS #8 PEM file of mode 0600 that is durable
// on return, or in a KMS, which never gives it away. What is there already is not touched.
func CreateKey(ctx context.Context, uri string, kind ca.KeyType, passphrase []byte) (crypto.Signer, error) {
	path, ok := keyPath(uri)
	if !ok {
		return createKMS(ctx, uri, kind)
	}
	return createKey(path, kind, passphrase, iterations)
}

// CreateRootKey is CreateKey for a key that no daemon opens: guessing its passphrase costs twelve times as much.
func CreateRootKey(_ context.Context, path string, kind ca.KeyType, passphrase []byte) (crypto.Signer, error) {
	return createKey(path, kind, passphrase, coldIterations)
}

func createKey(path string, kind ca.KeyType, passphrase []byte, cost int) (crypto.Signer, error) {
	key, err := GenerateKey(kind)
	if err != nil {
		return nil, err
	}
	if err := storeKey(path, key, passphrase, cost); err != nil {
		return nil, err
	}
	return key, nil
}

func storeKey(path string, key crypto.Signer, passphrase []byte, cost int) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding key: %w", err)
	}
	return createFile(path, keyBlock, der, passphrase, cost)
}

// GenerateKey makes a key in memory.
func GenerateKey(kind ca.KeyType) (crypto.Signer, error) {
	switch kind {
	case ca.P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ca.P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case ca.P521:
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case ca.Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case ca.RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case ca.RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case ca.RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	default:
		return nil, fmt.Errorf("%w: unknown key type %q; want one of %v", ErrKey, kind, ca.KeyTypes)
	}
}

// CreateDataKey makes DataKeySize random octets and keeps them at path as CreateKey keeps a key.
func CreateDataKey(path string, passphrase []byte) ([]byte, error) {
	key := make([]byte, DataKeySize)
	rand.Read(key)
	if err := createFile(path, dataBlock, key, passphrase, iterations); err != nil {
		return nil, err
	}
	return key, nil
}

// OpenDataKey opens a file that CreateDataKey made. The error is ErrPassphrase, ErrKey or what the system says.
func OpenDataKey(path string, passphrase []byte) ([]byte, error) {
	key, err := openFile(path, dataBlock, passphrase)
	if err != nil {
		return nil, err
	}
	if len(key) != DataKeySize {
		return nil, fmt.Errorf("key %s: %w", path, ErrPassphrase)
	}
	return key, nil
}
