package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
)

// TBSCertList is the DER of what is signed of a CRL (RFC 5280 section 5.1.2). Only NewTBSCertList makes one,
// so that whoever may have CRLs signed cannot have a certificate signed thereby.
type TBSCertList struct {
	der       []byte
	algorithm crlAlgorithm
}

// crlAlgorithm is what an issuing key signs its CRLs with.
type crlAlgorithm struct {
	id   x509.SignatureAlgorithm
	hash crypto.Hash
	der  string // the AlgorithmIdentifier
}

// RFC 5758 section 3.2, RFC 4055 section 5, RFC 8410 section 3.
var (
	crlECDSA256 = crlAlgorithm{x509.ECDSAWithSHA256, crypto.SHA256, "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"}
	crlRSA256   = crlAlgorithm{x509.SHA256WithRSA, crypto.SHA256, "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"}

	crlAlgorithms = map[KeyType]crlAlgorithm{
		P256:    crlECDSA256,
		P384:    {x509.ECDSAWithSHA384, crypto.SHA384, "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"},
		P521:    {x509.ECDSAWithSHA512, crypto.SHA512, "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04"},
		Ed25519: {x509.PureEd25519, 0, "\x30\x05\x06\x03\x2b\x65\x70"},
		RSA2048: crlRSA256, RSA3072: crlRSA256, RSA4096: crlRSA256,
	}
)

// NewTBSCertList takes the DER of a TBSCertList of version 2 that names issuer and the algorithm of its key.
// It looks at the outermost fields, and so at a list of any length in no time; that the entries and extensions
// are right is for whoever wrote them to say. The list must not be changed afterwards.
func NewTBSCertList(der []byte, issuer *x509.Certificate) (TBSCertList, error) {
	kind, err := KeyTypeOf(issuer.PublicKey)
	if err != nil {
		return TBSCertList{}, err
	}
	list := TBSCertList{der: der, algorithm: crlAlgorithms[kind]}
	fields, err := sequence(der)
	if err != nil {
		return TBSCertList{}, err
	}
	var ok bool
	for _, front := range []struct {
		what string
		der  []byte
	}{
		{"version", []byte{asn1.TagInteger, 1, 1}}, // v2; a certificate request has 0, a v3 certificate another tag
		{"algorithm", []byte(list.algorithm.der)},
		{"issuer", issuer.RawSubject},
	} {
		if fields, ok = bytes.CutPrefix(fields, front.der); !ok {
			return TBSCertList{}, fmt.Errorf("not a CRL of %q to be signed with its key: another %s", issuer.Subject, front.what)
		}
	}
	if !endsLikeCertList(fields) {
		return TBSCertList{}, errors.New("not a CRL: after the issuer come other fields")
	}
	return list, nil
}

// sequence returns the content of the SEQUENCE that der consists of.
func sequence(der []byte) ([]byte, error) {
	var outer asn1.RawValue
	rest, err := asn1.Unmarshal(der, &outer)
	if err != nil || len(rest) > 0 || outer.FullBytes[0] != asn1.TagSequence|0x20 {
		return nil, errors.New("not a CRL: not one SEQUENCE in DER")
	}
	return outer.Bytes, nil
}

// endsLikeCertList tells a CRL from a certificate of version 1 with the serial number 1, which begins alike:
// thisUpdate and nextUpdate, then perhaps revokedCertificates, then crlExtensions.
func endsLikeCertList(fields []byte) bool {
	var tags []byte
	for len(fields) > 0 && len(tags) < 5 {
		var field asn1.RawValue
		rest, err := asn1.Unmarshal(fields, &field)
		if err != nil {
			return false
		}
		tag := field.FullBytes[0]
		if tag == asn1.TagGeneralizedTime {
			tag = asn1.TagUTCTime
		}
		tags, fields = append(tags, tag), rest
	}
	const times = "\x17\x17"
	return string(tags) == times+"\xa0" || string(tags) == times+"\x30\xa0"
}

// DER returns what is to be signed. It must not be changed.
func (l TBSCertList) DER() []byte { return l.der }

// Hash is that of the signature algorithm; zero for Ed25519, which takes the message itself.
func (l TBSCertList) Hash() crypto.Hash { return l.algorithm.hash }

// checkSignature checks the signature, and that the issuer may sign CRLs.
func (l TBSCertList) checkSignature(signature []byte, issuer *x509.Certificate) error {
	signed := x509.RevocationList{RawTBSRevocationList: l.der, Signature: signature, SignatureAlgorithm: l.algorithm.id}
	return signed.CheckSignatureFrom(issuer)
}

// SignCRL signs a CRL of one of this authority's issuers, given as the DER of its TBSCertList, and checks that
// what came back is the signature over these very octets: a revocation that got lost on the way would be a
// revoked certificate that works.
func (a *Authority) SignCRL(ctx context.Context, issuer string, tbs []byte) (signature []byte, err error) {
	if issuer != a.issuer.ID() {
		return nil, fmt.Errorf("signing CRL: %w: issuer %q", ErrNotFound, issuer)
	}
	cert := a.issuer.Signer.Certificate()
	list, err := NewTBSCertList(tbs, cert)
	if err != nil {
		return nil, fmt.Errorf("signing CRL: %w", err)
	}
	signature, err = a.issuer.Signer.SignCRL(ctx, list)
	if err != nil {
		return nil, fmt.Errorf("signing CRL: %w", err)
	}
	if err := list.checkSignature(signature, cert); err != nil {
		return nil, fmt.Errorf("signing CRL: %w: signature: %w", ErrMismatch, err)
	}
	return signature, nil
}
