package stepca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/pkid/pkid/ca"
)

// Signer is a ca.Signer over a key.
type Signer struct {
	cert *x509.Certificate
	key  crypto.Signer
	gate *gate // before a key outside the process; nil for a key in memory
}

var _ ca.Signer = (*Signer)(nil)

// NewSigner puts an issuing CA's certificate and key to use. The key must be the certificate's, and the
// certificate a CA's that may sign certificates and CRLs (RFC 5280 sections 4.2.1.3 and 4.2.1.9).
func NewSigner(cert *x509.Certificate, key crypto.Signer) (*Signer, error) {
	const usage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !pub.Equal(cert.PublicKey):
		return nil, fmt.Errorf("%w: it is not that of certificate %q", ErrKey, cert.Subject)
	case !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&usage != usage:
		return nil, fmt.Errorf("certificate %q is no CA's that may sign certificates and CRLs", cert.Subject)
	case len(cert.SubjectKeyId) == 0:
		return nil, fmt.Errorf("certificate %q has no subject key identifier", cert.Subject)
	}
	if _, err := ca.KeyTypeOf(key.Public()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return &Signer{cert: cert, key: key, gate: gateOf(key)}, nil
}

// Certificate returns the issuing CA's certificate.
func (s *Signer) Certificate() *x509.Certificate { return s.cert }

// SignCertificate signs a leaf.
func (s *Signer) SignCertificate(ctx context.Context, tbs ca.TBSCertificate) (signature []byte, err error) {
	return s.sign(ctx, tbs.Digest(), tbs.Hash())
}

// SignCRL signs a CRL.
func (s *Signer) SignCRL(ctx context.Context, list ca.TBSCertList) (signature []byte, err error) {
	return s.sign(ctx, list.Digest(), list.Hash())
}

// Check is Check of the key.
func (s *Signer) Check(ctx context.Context) error {
	if s.gate == nil {
		return nil
	}
	return s.gate.check(ctx)
}

func (s *Signer) sign(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
	if len(digest) == 0 {
		return nil, errors.New("nothing to sign")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.gate == nil {
		return s.key.Sign(rand.Reader, digest, hash)
	}
	return s.gate.sign(ctx, digest, hash)
}
