package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
)

// TBSCertList is what is signed of a CRL (RFC 5280 section 5.1.2), as a digest: the list may have a million entries,
// and is read but once. Only NewTBSCertList makes one, so that whoever may have CRLs signed cannot have a
// certificate signed thereby.
type TBSCertList struct {
	digest    []byte
	algorithm crlAlgorithm
}

// crlAlgorithm is what an issuing key signs its CRLs with.
type crlAlgorithm struct {
	hash crypto.Hash
	der  string // the AlgorithmIdentifier
}

// RFC 5758 section 3.2, RFC 4055 section 5, RFC 8410 section 3.
var (
	crlRSA256 = crlAlgorithm{crypto.SHA256, "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"}

	crlAlgorithms = map[KeyType]crlAlgorithm{
		P256:    {crypto.SHA256, "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"},
		P384:    {crypto.SHA384, "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"},
		P521:    {crypto.SHA512, "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04"},
		Ed25519: {0, "\x30\x05\x06\x03\x2b\x65\x70"},
		RSA2048: crlRSA256, RSA3072: crlRSA256, RSA4096: crlRSA256,
	}
)

// NewTBSCertList takes the DER, in parts, of a TBSCertList of version 2 that names issuer and the algorithm of its
// key. It looks at the outermost fields, and takes the digest of all; that the entries and extensions are right is
// for whoever wrote them to say.
func NewTBSCertList(der [][]byte, issuer *x509.Certificate) (TBSCertList, error) {
	kind, err := KeyTypeOf(issuer.PublicKey)
	if err != nil {
		return TBSCertList{}, err
	}
	list := TBSCertList{algorithm: crlAlgorithms[kind]}
	in := newCursor(der)
	if tag, length, ok := in.header(); !ok || tag != tagSequence || length != in.left {
		return TBSCertList{}, errors.New("not a CRL: not one SEQUENCE in DER")
	}
	for _, front := range []struct{ what, der string }{
		{"version", "\x02\x01\x01"}, // v2; a certificate request has 0, a v3 certificate another tag
		{"algorithm", list.algorithm.der},
		{"issuer", string(issuer.RawSubject)},
	} {
		if string(in.take(len(front.der))) != front.der {
			return TBSCertList{}, fmt.Errorf("not a CRL of %q to be signed with its key: another %s", issuer.Subject, front.what)
		}
	}
	if !in.endsLikeCertList() {
		return TBSCertList{}, errors.New("not a CRL: after the issuer come other fields")
	}
	list.digest = list.algorithm.digest(der)
	return list, nil
}

// digest is what a key is given to sign: the hash of the parts or, for Ed25519, a copy of them.
func (a crlAlgorithm) digest(parts [][]byte) []byte {
	if a.hash == 0 {
		return bytes.Join(parts, nil)
	}
	h := a.hash.New()
	for _, part := range parts {
		h.Write(part)
	}
	return h.Sum(nil)
}

// Digest returns what the key is to sign: the digest by Hash or, if that is zero, the list itself.
func (l TBSCertList) Digest() []byte { return bytes.Clone(l.digest) }

// Hash is that of the signature algorithm; zero for Ed25519, which takes the message itself.
func (l TBSCertList) Hash() crypto.Hash { return l.algorithm.hash }

// checkSignature checks the signature, and that the issuer may sign CRLs.
func (l TBSCertList) checkSignature(signature []byte, issuer *x509.Certificate) error {
	if !issuer.IsCA || issuer.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return fmt.Errorf("%q may not sign CRLs", issuer.Subject)
	}
	good := false
	switch pub := issuer.PublicKey.(type) {
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(pub, l.digest, signature)
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(pub, l.algorithm.hash, l.digest, signature) == nil
	case ed25519.PublicKey:
		good = ed25519.Verify(pub, l.digest, signature)
	}
	if !good {
		return errors.New("it is not the issuing key's over this list")
	}
	return nil
}

// SignCRL signs a CRL of one of this authority's issuers, given as the DER of its TBSCertList, in parts, and checks
// that what came back is the signature over these very octets: a revocation that got lost on the way would be a
// revoked certificate that works.
func (a *Authority) SignCRL(ctx context.Context, issuer string, tbs [][]byte) (signature []byte, err error) {
	i := a.issuers.Load().find(issuer)
	if i == nil {
		return nil, fmt.Errorf("signing CRL: %w: issuer %q", ErrNotFound, issuer)
	}
	list, err := NewTBSCertList(tbs, i.cert)
	if err != nil {
		return nil, fmt.Errorf("signing CRL: %w", err)
	}
	signature, err = i.Signer.SignCRL(ctx, list)
	if err != nil {
		return nil, fmt.Errorf("signing CRL: %w", err)
	}
	if err := list.checkSignature(signature, i.cert); err != nil {
		return nil, fmt.Errorf("signing CRL: %w: signature: %w", ErrMismatch, err)
	}
	return signature, nil
}

// cursor reads DER that lies in parts.
type cursor struct {
	rest  []byte   // of the part that is being read
	parts [][]byte // after it
	left  int      // octets in both
}

func newCursor(parts [][]byte) *cursor {
	c := &cursor{parts: parts}
	for _, part := range parts {
		c.left += len(part)
	}
	return c
}

// next returns up to n octets, as many as lie together; none at the end.
func (c *cursor) next(n int) []byte {
	for len(c.rest) == 0 && len(c.parts) > 0 {
		c.rest, c.parts = c.parts[0], c.parts[1:]
	}
	n = min(n, len(c.rest))
	b := c.rest[:n]
	c.rest, c.left = c.rest[n:], c.left-n
	return b
}

// take returns the next n octets, or fewer at the end. It is for short fields.
func (c *cursor) take(n int) []byte {
	b := make([]byte, 0, n)
	for len(b) < n && c.left > 0 {
		b = append(b, c.next(n-len(b))...)
	}
	return b
}

// header takes tag and length of an element. It accepts only what DER allows: a definite length in its shortest
// form, of at most four octets here.
func (c *cursor) header() (tag byte, length int, ok bool) {
	b := c.take(2)
	if len(b) < 2 || b[0]&0x1f == 0x1f { // tags above 30 take more octets; a CRL has none
		return 0, 0, false
	}
	if b[1] < 0x80 {
		return b[0], int(b[1]), int(b[1]) <= c.left
	}
	octets := int(b[1] & 0x7f)
	if octets == 0 || octets > 4 {
		return 0, 0, false
	}
	long := c.take(octets)
	for _, o := range long {
		length = length<<8 | int(o)
	}
	shortest := len(long) == octets && long[0] != 0 && length >= 0x80
	return b[0], length, shortest && length <= c.left
}

// endsLikeCertList tells a CRL from a certificate of version 1 with the serial number 1, which begins alike:
// thisUpdate and nextUpdate, then perhaps revokedCertificates, then crlExtensions.
func (c *cursor) endsLikeCertList() bool {
	var tags []byte
	for c.left > 0 && len(tags) < 5 {
		tag, length, ok := c.header()
		if !ok {
			return false
		}
		for length > 0 {
			length -= len(c.next(length))
		}
		if tag == asn1.TagGeneralizedTime {
			tag = asn1.TagUTCTime
		}
		tags = append(tags, tag)
	}
	const times = "\x17\x17"
	return string(tags) == times+"\xa0" || string(tags) == times+"\x30\xa0"
}
