package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
)

// check reads back what was signed and holds it against what was decided (invariant 3). It shares nothing with what
// wrote the certificate: that may err, and the signer is a library, a device or a service, while what leaves the
// process is this CA's word.
func check(der []byte, d *decision, serial Serial) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	if err := compare(cert, d, serial); err != nil {
		return fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	return nil
}

func compare(got *x509.Certificate, d *decision, serial Serial) error {
	issuer := d.issuer.cert
	key, ok := got.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case got.Version != 3:
		return errors.New("version")
	case got.SerialNumber.Cmp(serial.Int()) != 0:
		return errors.New("serial number")
	case !ok || !key.Equal(d.key):
		return errors.New("public key")
	case !onlyCommonName(got) || !NamesOf(got).equal(d.names):
		return errors.New("names")
	case !got.NotBefore.Equal(d.notBefore) || !got.NotAfter.Equal(d.notAfter):
		return errors.New("lifetime")
	case got.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(got.ExtKeyUsage, d.profile.c.ExtKeyUsage) || len(got.UnknownExtKeyUsage) > 0:
		return errors.New("key usage")
	case got.IsCA || !got.BasicConstraintsValid || got.MaxPathLen != -1:
		return errors.New("basic constraints")
	case !bytes.Equal(got.RawIssuer, issuer.RawSubject) || !bytes.Equal(got.AuthorityKeyId, issuer.SubjectKeyId):
		return errors.New("issuer")
	case len(got.SubjectKeyId) == 0:
		return errors.New("subject key identifier")
	case !atMostOne(got.CRLDistributionPoints, d.crlURL()) || !one(got.IssuingCertificateURL, d.issuer.AIAURL) || !atMostOne(got.OCSPServer, d.ocspURL()):
		return errors.New("CRL distribution point or AIA")
	}
	if err := compareExtensions(got.Extensions, d.names); err != nil {
		return err
	}
	if err := compareNoCheck(got.Extensions, d.profile == responderProfile); err != nil {
		return err
	}
	if err := got.CheckSignatureFrom(issuer); err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	return nil
}

func one(list []string, want string) bool { return len(list) == 1 && list[0] == want }

// atMostOne reports whether a list has what is wanted and nothing else; nothing at all, if nothing is wanted.
func atMostOne(list []string, want string) bool {
	if want == "" {
		return len(list) == 0
	}
	return one(list, want)
}

// onlyCommonName reports whether the subject is one common name and nothing else: that and the headers around
// it, none of them longer than 2 octets, fill all of its octets.
func onlyCommonName(c *x509.Certificate) bool {
	const around = 2 + 2 + 2 + 5 + 2 // SEQUENCE, SET, SEQUENCE, the type with its header, the string's header
	return len(c.Subject.Names) == 1 && len(c.RawSubject) == around+len(c.Subject.CommonName)
}

// leafExtensions are those that a leaf may have, and whether they are critical (RFC 5280 section 4.2).
var leafExtensions = []pkix.Extension{
	{Id: asn1.ObjectIdentifier{2, 5, 29, 14}},                  // subject key identifier
	{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true},  // key usage
	{Id: subjectAltName},                                       // not critical: the subject is not empty
	{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true},  // basic constraints
	{Id: asn1.ObjectIdentifier{2, 5, 29, 31}},                  // CRL distribution points
	{Id: asn1.ObjectIdentifier{2, 5, 29, 35}},                  // authority key identifier
	{Id: asn1.ObjectIdentifier{2, 5, 29, 37}},                  // extended key usage
	{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 1}},     // authority information access
	{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}}, // OCSP no check: see compareNoCheck
}

var ocspNoCheck = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}

// compareNoCheck finds a certificate that asks not to be checked for revocation, unless it is an OCSP responder's, which
// must ask for it (RFC 6960 section 4.2.2.2.1).
func compareNoCheck(extensions []pkix.Extension, wanted bool) error {
	n := slices.IndexFunc(extensions, func(e pkix.Extension) bool { return e.Id.Equal(ocspNoCheck) })
	if (n >= 0) != wanted || wanted && !bytes.Equal(extensions[n].Value, asn1.NullBytes) {
		return errors.New("extension id-pkix-ocsp-nocheck")
	}
	return nil
}

var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// compareExtensions finds what crypto/x509 does not show in a certificate's members: other extensions, and
// kinds of subject alternative name that it knows nothing of.
func compareExtensions(extensions []pkix.Extension, names Names) error {
	sans := 0
	for _, e := range extensions {
		allowed := slices.ContainsFunc(leafExtensions, func(l pkix.Extension) bool { return l.Id.Equal(e.Id) && l.Critical == e.Critical })
		if !allowed {
			return fmt.Errorf("extension %s", e.Id)
		}
		if e.Id.Equal(subjectAltName) {
			var err error
			if sans, err = elements(e.Value); err != nil {
				return fmt.Errorf("subject alternative name: %w", err)
			}
		}
	}
	if want := names.count(); sans != want {
		return fmt.Errorf("%d subject alternative names instead of %d", sans, want)
	}
	return nil
}

// elements counts what the SEQUENCE that der consists of holds.
func elements(der []byte) (n int, err error) {
	var outer, inner asn1.RawValue
	rest, err := asn1.Unmarshal(der, &outer)
	if err != nil || len(rest) > 0 || outer.Tag != asn1.TagSequence {
		return 0, errors.New("not one SEQUENCE")
	}
	for rest = outer.Bytes; len(rest) > 0; n++ {
		if rest, err = asn1.Unmarshal(rest, &inner); err != nil {
			return 0, err
		}
	}
	return n, nil
}
