package ca

import (
	"context"
	"crypto/x509"
	"fmt"
)

// Signer is an issuing CA's key and certificate. It signs what it is given: deciding and writing it come before,
// in Authority, and checking what came out after.
//
// Both signing methods may be called at once. They end early when ctx does if the key sits behind a process
// or a device; a key in memory signs in less than a millisecond and need not look at ctx.
type Signer interface {
	// Certificate returns the issuing CA's certificate.
	Certificate() *x509.Certificate
	// SignCertificate returns the signature over tbs, which it does not change.
	SignCertificate(ctx context.Context, tbs TBSCertificate) (signature []byte, err error)
	// SignCRL returns the signature over list, which it does not change.
	SignCRL(ctx context.Context, list TBSCertList) (signature []byte, err error)
}

// Issuer is an issuing CA in service.
type Issuer struct {
	Signer Signer
	Root   *x509.Certificate // the trust anchor that its certificate chains to
	// Intermediates are the CAs between the issuing CA and the root, the issuing CA's own issuer first. Most have none.
	Intermediates []*x509.Certificate
	CRLURL        string // for the CRL distribution point of what it issues
	AIAURL        string // where its own certificate is published (caIssuers)
}

// ID names the issuer in URLs and records: the first 8 octets of its subject key identifier, in hex.
func (i *Issuer) ID() string { return IssuerID(i.Signer.Certificate()) }

// Chain returns the certificates that a client sends after its own: the issuing CA's and those above, without the root.
func (i *Issuer) Chain() []*x509.Certificate {
	return append([]*x509.Certificate{i.Signer.Certificate()}, i.Intermediates...)
}

// Above returns the certificate of whoever signed the issuing CA's: the root's, or the first intermediate's.
func (i *Issuer) Above() *x509.Certificate {
	if len(i.Intermediates) > 0 {
		return i.Intermediates[0]
	}
	return i.Root
}

// checkChain checks that each certificate up to the root is signed by the next one's key.
func (i *Issuer) checkChain() error {
	chain := append(i.Chain(), i.Root)
	for n, cert := range chain[:len(chain)-1] {
		if err := cert.CheckSignatureFrom(chain[n+1]); err != nil {
			return fmt.Errorf("CA %q is not signed by %q: %w", cert.Subject, chain[n+1].Subject, err)
		}
	}
	return nil
}
