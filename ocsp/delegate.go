package ocsp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha1" //nolint:gosec // G505: it names a key (RFC 6960 section 4.2.1) and protects nothing
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Delegate signs responses in an issuing CA's name (RFC 6960 section 4.2.2.2). It never changes.
type Delegate struct {
	Certificate *x509.Certificate
	key         crypto.Signer
	keyHash     []byte
}

// NewDelegate checks that clients will believe the delegate: the issuing CA itself issued its certificate, for this.
func NewDelegate(cert *x509.Certificate, key crypto.Signer, issuer *x509.Certificate) (*Delegate, error) {
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || pub.Curve != elliptic.P256() || !pub.Equal(key.Public()):
		return nil, errors.New("ocsp: a responder needs a P-256 key, and the certificate of that key")
	case !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return nil, errors.New("ocsp: the responder's certificate is not for OCSP")
	}
	if err := cert.CheckSignatureFrom(issuer); err != nil {
		return nil, fmt.Errorf("ocsp: the responder's certificate: %w", err)
	}
	bits, err := keyBits(cert)
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum(bits) //nolint:gosec // G401: see the import
	return &Delegate{cert, key, sum[:]}, nil
}

// keyBits are the octets of a certificate's subjectPublicKey, which key identifiers and CertIDs are hashes of.
func keyBits(cert *x509.Certificate) ([]byte, error) {
	in := cryptobyte.String(cert.RawSubjectPublicKeyInfo)
	var info cryptobyte.String
	var bits []byte
	if !in.ReadASN1(&info, cbasn1.SEQUENCE) || !info.SkipASN1(cbasn1.SEQUENCE) || !info.ReadASN1BitStringAsBytes(&bits) {
		return nil, fmt.Errorf("ocsp: the public key of %q is not in DER", cert.Subject)
	}
	return bits, nil
}
