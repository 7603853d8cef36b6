package ca

import (
	"context"
	"crypto/x509"
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
	CRLURL string            // for the CRL distribution point of what it issues
	AIAURL string            // where its own certificate is published (caIssuers)
}

// ID names the issuer in URLs and records: the first 8 octets of its subject key identifier, in hex.
func (i *Issuer) ID() string { return IssuerID(i.Signer.Certificate()) }

// Chain returns the certificates that a client sends after its own: the issuing CA's, without the root.
func (i *Issuer) Chain() []*x509.Certificate { return []*x509.Certificate{i.Signer.Certificate()} }
