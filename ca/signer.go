package ca

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"
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

// Issuer is an issuing CA: the one that signs certificates now, one before it, which still signs CRLs, or one after it,
// whose CRL is published before it signs anything else. It never changes.
type Issuer struct {
	Signer Signer
	Root   *x509.Certificate // the trust anchor that its certificate chains to
	// Intermediates are the CAs between the issuing CA and the root, the issuing CA's own issuer first. Most have none.
	Intermediates []*x509.Certificate
	// Cross are certificates that lead from the issuing CA to another root than Root, for those who know only that one:
	// Root's name and key in a certificate by the root before it, or the issuing CA's own.
	Cross  []*x509.Certificate
	CRLURL string // for the CRL distribution point of what it issues
	AIAURL string // where its own certificate is published (caIssuers)
	// OCSPURL is where it can be asked about its certificates. Empty: nowhere, and they do not say.
	OCSPURL string
	// Whole says that its CRL speaks of each of its certificates, whatever they say about a CRL: another program issued
	// some. Its certificates share one CRL, however many they are.
	Whole bool
	// Name is its id in URLs and records. Empty: what IssuerID says of its certificate.
	Name string
	// From is the instant from which on it signs certificates, until that of another one comes.
	From time.Time
}

// ID names the issuer in URLs and records.
func (i *Issuer) ID() string { return cmp.Or(i.Name, IssuerID(i.Signer.Certificate())) }

// Chain returns the certificates that a client sends after its own: the issuing CA's and those above, without the root,
// and those that lead to another root.
func (i *Issuer) Chain() []*x509.Certificate {
	return slices.Concat([]*x509.Certificate{i.Signer.Certificate()}, i.Intermediates, i.Cross)
}

// Above returns the certificate of whoever signed the issuing CA's: the root's, or the first intermediate's.
func (i *Issuer) Above() *x509.Certificate {
	if len(i.Intermediates) > 0 {
		return i.Intermediates[0]
	}
	return i.Root
}

// LeadsTo reports whether who trusts an anchor and is sent Chain finds a way from the issuing CA to the anchor. It is
// not asked whether the dates are right by now: an issuing CA is known for longer than it is valid.
func (i *Issuer) LeadsTo(anchor *x509.Certificate) error {
	_, err := i.WaysTo(anchor)
	return err
}

// WaysTo returns the ways that LeadsTo finds, each from the issuing CA to the anchor.
func (i *Issuer) WaysTo(anchor *x509.Certificate) ([][]*x509.Certificate, error) {
	roots, above := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(anchor)
	at := anchor.NotBefore
	for _, c := range i.Chain() {
		above.AddCert(c)
		if c.NotBefore.After(at) {
			at = c.NotBefore
		}
	}
	var ways [][]*x509.Certificate
	var failed error
	for _, cert := range i.Chain() { // the issuing CA may have a cross certificate of its own
		if !bytes.Equal(cert.RawSubjectPublicKeyInfo, i.Signer.Certificate().RawSubjectPublicKeyInfo) {
			continue
		}
		found, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: above, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err != nil {
			failed = fmt.Errorf("CA %q has no chain to %q: %w", cert.Subject, anchor.Subject, err)
		}
		ways = append(ways, found...)
	}
	if len(ways) == 0 {
		return nil, failed
	}
	return ways, nil
}

// checkChain checks that each certificate up to the root is signed by the next one's key.
func (i *Issuer) checkChain() error {
	chain := slices.Concat([]*x509.Certificate{i.Signer.Certificate()}, i.Intermediates, []*x509.Certificate{i.Root})
	for n, cert := range chain[:len(chain)-1] {
		if err := cert.CheckSignatureFrom(chain[n+1]); err != nil {
			return fmt.Errorf("CA %q is not signed by %q: %w", cert.Subject, chain[n+1].Subject, err)
		}
	}
	return nil
}
