package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
)

// compare checks what was signed against what was decided (invariant 3): the signer is a library, a device
// or a service, and what leaves the process is this CA's word.
func (a *Authority) compare(got, want *x509.Certificate, d *decision) error {
	issuer := a.issuer.Signer.Certificate()
	differs := func(what string) error { return fmt.Errorf("%w: %s", ErrMismatch, what) }
	key, ok := got.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	subject, err := asn1.Marshal(want.Subject.ToRDNSequence())
	if err != nil {
		return fmt.Errorf("encoding subject: %w", err)
	}
	switch {
	case got.SerialNumber.Cmp(want.SerialNumber) != 0:
		return differs("serial number")
	case !ok || !key.Equal(d.key):
		return differs("public key")
	case !bytes.Equal(got.RawSubject, subject) || !NamesOf(got).equal(d.names):
		return differs("names")
	case !got.NotBefore.Equal(want.NotBefore) || !got.NotAfter.Equal(want.NotAfter):
		return differs("lifetime")
	case got.KeyUsage != want.KeyUsage || !slices.Equal(got.ExtKeyUsage, want.ExtKeyUsage) || len(got.UnknownExtKeyUsage) > 0:
		return differs("key usage")
	case got.IsCA || !got.BasicConstraintsValid || got.MaxPathLen != -1:
		return differs("basic constraints")
	case !bytes.Equal(got.RawIssuer, issuer.RawSubject) || !bytes.Equal(got.AuthorityKeyId, issuer.SubjectKeyId):
		return differs("issuer")
	case len(got.SubjectKeyId) == 0:
		return differs("subject key identifier")
	case !slices.Equal(got.CRLDistributionPoints, want.CRLDistributionPoints) || !slices.Equal(got.IssuingCertificateURL, want.IssuingCertificateURL) || len(got.OCSPServer) > 0:
		return differs("CRL distribution point or AIA")
	}
	if err := compareExtensions(got.Extensions, d.names); err != nil {
		return err
	}
	if err := got.CheckSignatureFrom(issuer); err != nil {
		return differs("signature: " + err.Error())
	}
	return nil
}

// leafExtensions are those that a leaf may have, and whether they are critical (RFC 5280 section 4.2).
var leafExtensions = map[string]bool{
	"2.5.29.14":         false, // subject key identifier
	"2.5.29.15":         true,  // key usage
	"2.5.29.17":         false, // subject alternative name; the subject is not empty
	"2.5.29.19":         true,  // basic constraints
	"2.5.29.31":         false, // CRL distribution points
	"2.5.29.35":         false, // authority key identifier
	"2.5.29.37":         false, // extended key usage
	"1.3.6.1.5.5.7.1.1": false, // authority information access
}

// compareExtensions finds what crypto/x509 does not show in a certificate's members: other extensions, and
// kinds of subject alternative name that it knows nothing of.
func compareExtensions(extensions []pkix.Extension, names Names) error {
	sans := 0
	for _, e := range extensions {
		critical, ok := leafExtensions[e.Id.String()]
		if !ok || e.Critical != critical {
			return fmt.Errorf("%w: extension %s", ErrMismatch, e.Id)
		}
		if e.Id.String() == "2.5.29.17" {
			var all []asn1.RawValue
			if rest, err := asn1.Unmarshal(e.Value, &all); err != nil || len(rest) > 0 {
				return fmt.Errorf("%w: subject alternative name", ErrMismatch)
			}
			sans = len(all)
		}
	}
	if want := len(names.DNS) + len(names.IPs) + len(names.URIs) + len(names.Emails); sans != want {
		return fmt.Errorf("%w: %d subject alternative names instead of %d", ErrMismatch, sans, want)
	}
	return nil
}
