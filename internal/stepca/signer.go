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

	"github.com/smallstep/certificates/cas/apiv1"
	"github.com/smallstep/certificates/cas/softcas"

	"github.com/pkid/pkid/ca"
)

// A key outside the process gets this long to sign, and this many signatures at once.
const (
	signTimeout = 10 * time.Second
	maxInFlight = 32
)

// Signer is a ca.Signer: over softcas for certificates, and over the key for CRLs.
type Signer struct {
	cert  *x509.Certificate
	key   crypto.Signer
	cas   *softcas.SoftCAS
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
	cas, err := softcas.New(context.Background(), apiv1.Options{CertificateChain: []*x509.Certificate{cert}, Signer: key})
	if err != nil {
		return nil, fmt.Errorf("opening softcas: %w", err)
	}
	s := &Signer{cert: cert, key: key, cas: cas}
	switch key.(type) {
	case *ecdsa.PrivateKey, *rsa.PrivateKey, ed25519.PrivateKey:
	default:
		s.slots = make(chan struct{}, maxInFlight)
	}
	return s, nil
}

// Certificate returns the issuing CA's certificate.
func (s *Signer) Certificate() *x509.Certificate { return s.cert }

// SignCertificate signs a leaf. It refuses a template without dates, for which softcas would take its own
// clock, without a serial number, or of a CA. The template is not changed.
func (s *Signer) SignCertificate(ctx context.Context, template *x509.Certificate, pub crypto.PublicKey) ([]byte, error) {
	switch {
	case template.NotBefore.IsZero() || template.NotAfter.IsZero():
		return nil, errors.New("template without NotBefore and NotAfter")
	case template.SerialNumber == nil:
		return nil, errors.New("template without serial number")
	case template.IsCA || template.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return nil, errors.New("template of a CA")
	}
	own := *template // softcas fills in issuer, subject key identifier and algorithm
	own.PublicKey = pub
	return s.call(ctx, func() ([]byte, error) {
		res, err := s.cas.CreateCertificate(&apiv1.CreateCertificateRequest{
			Template: &own, Lifetime: own.NotAfter.Sub(own.NotBefore),
		})
		if err != nil {
			return nil, err
		}
		return res.Certificate.Raw, nil
	})
}

// SignCRL signs a CRL with the key itself: softcas would write the list anew, entry by entry.
func (s *Signer) SignCRL(ctx context.Context, list ca.TBSCertList) (signature []byte, err error) {
	if len(list.Digest()) == 0 {
		return nil, errors.New("no CRL to sign")
	}
	return s.call(ctx, func() ([]byte, error) {
		return s.key.Sign(rand.Reader, list.Digest(), list.Hash())
	})
}

// call runs sign. crypto.Signer has no context, so a key outside the process is waited for from a goroutine,
// which ends when the key answers; slots bounds how many a device that hangs can hold.
func (s *Signer) call(ctx context.Context, sign func() ([]byte, error)) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.slots == nil {
		return sign()
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
		out, err := sign()
		done <- answer{out, err}
	}()
	select {
	case a := <-done:
		return a.out, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the issuing key: %w", ctx.Err())
	}
}
