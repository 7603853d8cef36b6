package client

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// maxRoots bounds the roots that an identity trusts: that of now and those that were before it.
const maxRoots = 4

// parseRoots reads the roots of an identity, the one of now first.
func parseRoots(text []byte) (roots []*x509.Certificate, err error) {
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "CERTIFICATE" || len(roots) == maxRoots {
			return nil, fmt.Errorf("want 1 to %d certificates in PEM form", maxRoots)
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		roots, text = append(roots, root), rest
	}
	if len(roots) == 0 {
		return nil, errors.New("want a certificate in PEM form")
	}
	return roots, nil
}

func pool(certs ...*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

// succession returns the roots to trust after the CA has answered with a root, over a connection that a trusted one
// proved. A root that is not known yet must be vouched for as well by one that is, with a certificate in the chain. So
// whoever can speak in the CA's place, with a key of a server, cannot bring in a root.
func succession(roots []*x509.Certificate, answer *Certificate) ([]*x509.Certificate, error) {
	if answer.Root == "" {
		return roots, nil
	}
	next, err := parseCertificate(answer.Root)
	if err != nil {
		return nil, fmt.Errorf("the CA's root: %w", err)
	}
	if slices.ContainsFunc(roots, next.Equal) {
		return roots, nil
	}
	vouched := false
	for _, text := range answer.Chain {
		cert, err := parseCertificate(text)
		if err != nil {
			return nil, fmt.Errorf("the CA's answer: %w", err)
		}
		vouched = vouched || vouches(cert, next, roots)
	}
	if !vouched {
		return roots, nil // what is trusted goes on being enough: the chain was checked against it
	}
	out := append([]*x509.Certificate{next}, roots...)
	return out[:min(len(out), maxRoots)], nil
}

// vouches reports whether a certificate is one that a trusted root signed for the next root, with its name and key, and
// that says of it what is true of a root: it may have CAs below it, for whatever names and purposes. Otherwise the key
// of any server, client or issuing CA would do, since its holder can sign a root of that name and key.
func vouches(cross, next *x509.Certificate, roots []*x509.Certificate) bool {
	if !bytes.Equal(cross.RawSubject, next.RawSubject) || !bytes.Equal(cross.RawSubjectPublicKeyInfo, next.RawSubjectPublicKeyInfo) {
		return false
	}
	if !cross.IsCA || cross.MaxPathLen == 0 || len(cross.ExtKeyUsage)+len(cross.UnknownExtKeyUsage) > 0 || slices.ContainsFunc(cross.Extensions, isNameConstraints) {
		return false
	}
	if now := time.Now(); next.CheckSignatureFrom(next) != nil || now.Before(next.NotBefore) || now.After(next.NotAfter) {
		return false
	}
	if cross.KeyUsage != 0 && cross.KeyUsage&x509.KeyUsageCertSign == 0 {
		return false
	}
	_, err := cross.Verify(x509.VerifyOptions{Roots: pool(roots...), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

// isNameConstraints: RFC 5280 section 4.2.1.10.
func isNameConstraints(e pkix.Extension) bool { return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 30}) }

// leadsTo reports whether who trusts the anchors finds a way up from an issuing CA, through the certificates that come
// with it. The dates are left aside: an issuing CA is named for longer than it is valid.
func leadsTo(cert *x509.Certificate, chain []*x509.Certificate, anchors ...*x509.Certificate) error {
	at := cert.NotBefore
	for _, c := range slices.Concat(chain, anchors) {
		if c.NotBefore.After(at) {
			at = c.NotBefore
		}
	}
	var failed error
	for _, c := range append([]*x509.Certificate{cert}, chain...) { // it may have been cross-signed itself
		if !bytes.Equal(c.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo) {
			continue
		}
		_, err := c.Verify(x509.VerifyOptions{
			Roots: pool(anchors...), Intermediates: pool(chain...), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if err == nil {
			return nil
		}
		failed = err
	}
	return failed
}

// VerifiedIssuers returns the certificates of c.Issuers that lead to one of the roots, in their order. One that leads
// to another root of the CA instead is left out: who does not trust that root has no use for it. It is an error if one
// leads nowhere, or if none is left.
func (c *CA) VerifiedIssuers(roots ...*x509.Certificate) ([]*x509.Certificate, error) {
	if len(c.Issuers) == 0 {
		return nil, errors.New("the CA names no issuing CA")
	}
	var others []*x509.Certificate
	for _, text := range append([]string{c.Root}, c.OtherRoots...) {
		if other, err := parseCertificate(text); err == nil {
			others = append(others, other)
		}
	}
	var certs []*x509.Certificate
	var failed error
	for _, i := range c.Issuers {
		cert, chain, err := i.parse()
		if err == nil {
			err = leadsTo(cert, chain, roots...)
		}
		switch {
		case err == nil:
			certs = append(certs, cert)
		case cert != nil && leadsTo(cert, chain, others...) == nil:
			failed = fmt.Errorf("issuing CA %q: %w", i.ID, err)
		default:
			return nil, fmt.Errorf("issuing CA %q: %w", i.ID, err)
		}
	}
	if len(certs) == 0 {
		return nil, failed
	}
	return certs, nil
}

// IssuerOf returns what c says of an issuing CA with this certificate, or nil.
func (c *CA) IssuerOf(cert *x509.Certificate) *Issuer {
	for n := range c.Issuers {
		if own, err := parseCertificate(c.Issuers[n].Certificate); err == nil && own.Equal(cert) {
			return &c.Issuers[n]
		}
	}
	return nil
}

// parse reads an issuing CA's certificate and those that come with it.
func (i *Issuer) parse() (cert *x509.Certificate, chain []*x509.Certificate, err error) {
	if cert, err = parseCertificate(i.Certificate); err != nil {
		return nil, nil, err
	}
	if !cert.IsCA {
		return nil, nil, errors.New("it is no CA")
	}
	if len(i.Chain) > maxChain {
		return nil, nil, fmt.Errorf("a chain of %d certificates", len(i.Chain))
	}
	for _, text := range i.Chain {
		above, err := parseCertificate(text)
		if err != nil {
			return nil, nil, fmt.Errorf("its chain: %w", err)
		}
		chain = append(chain, above)
	}
	return cert, chain, nil
}
