package client

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// KeyTypes are what NewKey makes, the default first.
var KeyTypes = []string{"P-256", "P-384", "P-521", "Ed25519", "RSA-2048", "RSA-3072", "RSA-4096"}

// NewKey makes a private key of one of KeyTypes; an empty type is P-256.
func NewKey(keyType string) (crypto.Signer, error) {
	switch keyType {
	case "", "P-256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "P-384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "P-521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "Ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case "RSA-2048":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "RSA-3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "RSA-4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	default:
		return nil, fmt.Errorf("unknown key type %q: use one of %v", keyType, KeyTypes)
	}
}

// keyTypeOf names the type of a key that NewKey made.
func keyTypeOf(pub crypto.PublicKey) string {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return k.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA-%d", k.N.BitLen())
	default:
		return "Ed25519"
	}
}

// newCSR proves possession of key. It asks for no name: the CA takes names from the invitation or from the
// certificate being renewed.
func newCSR(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("making the certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

func marshalKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey reads a private key from PKCS#8 PEM.
func ParseKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("no PKCS#8 key in PEM form")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("malformed PKCS#8 key") // the parser's text may quote what it saw
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%T cannot sign", key)
	}
	return signer, nil
}

// LoadKey reads a private key from a PKCS#8 PEM file, or makes one of the type and writes the file (0600) if
// there is none, in a directory that is made (0700) if it is missing; of several that do so at once, all get the same key.
// pkictl keeps its DPoP keys with it.
func LoadKey(name, keyType string) (crypto.Signer, error) {
	if !exists(name) {
		if err := createKey(name, keyType); err != nil && !errors.Is(err, fs.ErrExist) { // another was faster
			return nil, err
		}
	}
	text, err := readFile(name)
	if err != nil {
		return nil, err
	}
	key, err := ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}

// createKey writes a new key into a file that must not exist, under the lock of its directory.
func createKey(name, keyType string) error {
	key, err := NewKey(keyType)
	if err != nil {
		return err
	}
	text, err := marshalKey(key)
	if err != nil {
		return err
	}
	unlock, err := openDir(context.Background(), filepath.Dir(name))
	if err != nil {
		return err
	}
	defer unlock()
	return createFile(name, text, 0o600)
}

func samePublicKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// parseCertificate reads exactly one certificate from PEM.
func parseCertificate(text string) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("want one certificate in PEM form")
	}
	return x509.ParseCertificate(block.Bytes)
}

func marshalChain(chain []*x509.Certificate) (text []byte) {
	for _, c := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

// newPair joins a chain, leaf first, with its key. It is an error if they do not belong together.
func newPair(chain []*x509.Certificate, key crypto.Signer) (*tls.Certificate, error) {
	keyText, err := marshalKey(key)
	if err != nil {
		return nil, err
	}
	return parsePair(marshalChain(chain), keyText)
}

func parsePair(chain, key []byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, err
	}
	if pair.Leaf == nil { // GODEBUG x509keypairleaf=0
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &pair, nil
}

func chainText(pair *tls.Certificate) (text []byte) {
	for _, der := range pair.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return text
}

func parseCSR(text []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("no certificate request in PEM form")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}
