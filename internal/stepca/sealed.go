package stepca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"

	kmsuri "go.step.sm/crypto/kms/uri"

	"github.com/pkid/pkid/ca"
)

// maxSealed bounds a sealed key in octets.
const maxSealed = 16 << 10

// SealKey encrypts a private key with the passphrase, as PKCS #8 in DER: what CreateKey writes into a file, for a key
// that is kept in a store.
func SealKey(key crypto.Signer, passphrase []byte) ([]byte, error) {
	if len(passphrase) == 0 {
		return nil, fmt.Errorf("%w: no passphrase to encrypt it with", ErrKey)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding key: %w", err)
	}
	return encrypt(der, passphrase, iterations)
}

// OpenSealed opens what SealKey returned. The error is ErrPassphrase or ErrKey.
func OpenSealed(sealed, passphrase []byte) (crypto.Signer, error) {
	if len(sealed) > maxSealed {
		return nil, fmt.Errorf("%w: larger than %d octets", ErrKey, maxSealed)
	}
	der, err := decrypt(sealed, passphrase)
	if errors.Is(err, errPadding) {
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, ErrPassphrase // one wrong passphrase in 256 gets this far
	}
	return usable(parsed, "of the ring")
}

// IsDevice reports whether a key URI names a key in a device or service, and no file.
func IsDevice(uri string) bool {
	_, file := keyPath(uri)
	return !file
}

// onHost are the attributes of key URIs that name what is on pkid's own machine: a library that is loaded into the
// process, files that are read, and whom what is in them is sent to.
var onHost = []string{
	"module-path", "pin-source", "credentials-file", "device", "storage-directory",
	"attestation-ca-url", "attestation-ca-root", "attestation-ca-insecure",
}

// CheckDevice refuses the URI of a key that names something on this machine which none of the configured keys names.
// Who may ask for keys over the network is not one who may have the process load a library.
func CheckDevice(uri string, configured []string) error {
	u, err := kmsuri.Parse(uri)
	if err != nil {
		return fmt.Errorf("%w: not a well-formed key URI", ErrKey)
	}
	known := func(attribute string) bool {
		return slices.ContainsFunc(configured, func(text string) bool {
			c, err := kmsuri.Parse(text)
			return err == nil && strings.EqualFold(c.Scheme, u.Scheme) && c.Has(attribute) && c.Get(attribute) == u.Get(attribute)
		})
	}
	for _, attribute := range onHost {
		if u.Has(attribute) && !known(attribute) {
			return fmt.Errorf("%w: %s: want what a key in pkid.yaml has there, in issuer.key or tokens.keys", ErrKey, attribute)
		}
	}
	return nil
}

// CreateIssuerRequest makes the CSR of an issuing CA. Beside name and key it asks for what the certificate must have
// (RFC 5280 sections 4.2.1.3 and 4.2.1.9), for signers that copy that.
func CreateIssuerRequest(commonName string, key crypto.Signer) ([]byte, error) {
	if commonName == "" || len(commonName) > 64 || !printable(commonName) {
		return nil, fmt.Errorf("name %q: want 1 to 64 printable ASCII characters", commonName)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: commonName},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 6, 1, 1, 0xff, 2, 1, 0}}, // CA, path length 0
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 1, 6}},                   // keyCertSign, cRLSign
		},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("creating the CSR: %w", err)
	}
	return der, nil
}

// SignIssuerRequest is CreateIssuer for the key and the subject of a CSR, whose self-signature is checked.
func SignIssuerRequest(spec CeremonySpec, root *x509.Certificate, rootKey crypto.Signer, csr []byte) (*x509.Certificate, error) {
	if len(csr) > ca.MaxCSR {
		return nil, fmt.Errorf("%w: larger than %d octets", ca.ErrCSR, ca.MaxCSR)
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ca.ErrCSR, err)
	}
	if _, err := ca.KeyTypeOf(req.PublicKey); err != nil {
		return nil, err
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ca.ErrCSR, err)
	}
	spec.rawSubject = req.RawSubject
	return CreateIssuer(spec, root, rootKey, req.PublicKey)
}
