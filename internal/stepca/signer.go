package stepca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/pkid/pkid/ca"
)

// A key outside the process gets this long to sign, and this many signatures at once.
const (
	signTimeout = 10 * time.Second
	maxInFlight = 32
)

// Signer is a ca.Signer over a key.
type Signer struct {
	cert  *x509.Certificate
	key   crypto.Signer
	slots chan struct{} // nil for a key in memory; otherwise holds one element per signature under way
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
	s := &Signer{cert: cert, key: key}
	switch key.(type) {
	case *ecdsa.PrivateKey, *rsa.PrivateKey, ed25519.PrivateKey:
	default:
		s.slots = make(chan struct{}, maxInFlight)
	}
	return s, nil
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

// sign signs a digest. crypto.Signer has no context, so a key outside the process is waited for from a goroutine,
// which ends when the key answers; slots bounds how many a device that hangs can hold.
func (s *Signer) sign(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
	if len(digest) == 0 {
		return nil, errors.New("nothing to sign")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.slots == nil {
		return s.key.Sign(rand.Reader, digest, hash)
	}
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the issuing key: %w", ctx.Err())
	}
	type answer struct {
		out []byte
		err error
	}
	done := make(chan answer, 1)
	go func() {
		defer func() { <-s.slots }()
		out, err := s.key.Sign(rand.Reader, digest, hash)
		done <- answer{out, err}
	}()
	select {
	case a := <-done:
		return a.out, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the issuing key: %w", ctx.Err())
	}
}
