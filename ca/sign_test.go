package ca_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
)

// lyingSigner is the real signer, but for what a test makes it do to the template before.
type lyingSigner struct {
	ca.Signer
	key     crypto.Signer
	fail    error
	pub     crypto.PublicKey                   // signed instead of the one asked for
	lie     func(*x509.Certificate)            // changes a copy of the template
	forge   crypto.Signer                      // signs in the issuer's place
	lieCRL  func(digest, signature []byte) []byte // returned as the signature
	garbage []byte                             // returned as it is
}

func (s *lyingSigner) SignCertificate(ctx context.Context, template *x509.Certificate, pub crypto.PublicKey) ([]byte, error) {
	switch {
	case s.fail != nil:
		return nil, s.fail
	case s.garbage != nil:
		return s.garbage, nil
	case s.lie == nil && s.forge == nil && s.pub == nil:
		return s.Signer.SignCertificate(ctx, template, pub)
	}
	own, parent, key := *template, s.Certificate(), s.key
	own.SubjectKeyId = []byte{1, 2, 3}
	if s.lie != nil {
		s.lie(&own)
	}
	if s.pub != nil {
		pub = s.pub
	}
	if s.forge != nil {
		forged := *parent
		forged.PublicKey = s.forge.Public()
		parent, key = &forged, s.forge
	}
	return x509.CreateCertificate(rand.Reader, &own, parent, pub, key)
}

func (s *lyingSigner) SignCRL(ctx context.Context, list ca.TBSCertList) ([]byte, error) {
	signature, err := s.Signer.SignCRL(ctx, list)
	if err == nil && s.lieCRL != nil {
		signature = s.lieCRL(list.Digest(), signature)
	}
	return signature, err
}

// otherName is a subject alternative name that crypto/x509 skips.
func otherName(dns string) pkix.Extension {
	value, err := asn1.Marshal([]asn1.RawValue{
		{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(dns)},
		{Class: asn1.ClassContextSpecific, Tag: 8, Bytes: []byte{0x2a, 0x03}}, // registeredID 1.2.3
	})
	if err != nil {
		panic(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}
}

// TestSignerMayNotLie is invariant 3: whatever the signer changes, nothing is recorded and nothing leaves.
func TestSignerMayNotLie(t *testing.T) {
	for what, lie := range map[string]func(*x509.Certificate){
		"serial":               func(c *x509.Certificate) { c.SerialNumber = big.NewInt(1) },
		"common name":          func(c *x509.Certificate) { c.Subject.CommonName = "root" },
		"organisation":         func(c *x509.Certificate) { c.Subject.Organization = []string{"Example"} },
		"two common names":     twoCommonNames,
		"DNS added":            func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames[:1:1], "evil.example.com") },
		"DNS removed":          func(c *x509.Certificate) { c.DNSNames = nil },
		"DNS changed":          func(c *x509.Certificate) { c.DNSNames = []string{"evil.example.com"} },
		"DNS twice":            func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames[:1:1], c.DNSNames[0]) },
		"DNS turned to URI":    func(c *x509.Certificate) { c.DNSNames, c.URIs = nil, []*url.URL{{Opaque: c.DNSNames[0]}} },
		"IP added":             func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} },
		"URI added":            func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "urn", Opaque: "a:b"}} },
		"e-mail added":         func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.com"} },
		"unseen name added":    func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{otherName(c.DNSNames[0])} },
		"not before":           func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(time.Second) },
		"not after":            func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) },
		"key usage":            func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"extended key usage":   func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage[:1:1], x509.ExtKeyUsageServerAuth) },
		"no extended usage":    func(c *x509.Certificate) { c.ExtKeyUsage = nil },
		"unknown usage":        func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} },
		"a CA":                 func(c *x509.Certificate) { c.IsCA = true },
		"no basic constraints": func(c *x509.Certificate) { c.BasicConstraintsValid = false },
		"CRL elsewhere":        func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://evil.test/crl"} },
		"no CRL":               func(c *x509.Certificate) { c.CRLDistributionPoints = nil },
		"issuer elsewhere":     func(c *x509.Certificate) { c.IssuingCertificateURL = []string{"http://evil.test/crt"} },
		"OCSP":                 func(c *x509.Certificate) { c.OCSPServer = []string{"http://evil.test/ocsp"} },
		"another extension": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}}}
		},
		"key usage not critical": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: []byte{3, 2, 7, 0x80}}}
		},
	} {
		t.Run(what, func(t *testing.T) { refusesLie(t, func(s *lyingSigner) { s.lie = lie }) })
	}
	t.Run("key", func(t *testing.T) { refusesLie(t, func(s *lyingSigner) { s.pub = newKey(t).Public() }) })
	t.Run("signature", func(t *testing.T) { refusesLie(t, func(s *lyingSigner) { s.forge = newKey(t) }) })
	t.Run("garbage", func(t *testing.T) { refusesLie(t, func(s *lyingSigner) { s.garbage = []byte("certificate") }) })
	t.Run("another's certificate", func(t *testing.T) {
		refusesLie(t, func(s *lyingSigner) { s.garbage = s.Certificate().Raw })
	})
	t.Run("the truth", func(t *testing.T) {
		b := newBench(t)
		b.signer.lie = func(*x509.Certificate) {} // goes through the same code as the lies
		b.issue()
	})
}

func twoCommonNames(c *x509.Certificate) {
	cn := asn1.ObjectIdentifier{2, 5, 4, 3}
	raw, err := asn1.Marshal(pkix.RDNSequence{{{Type: cn, Value: "root"}}, {{Type: cn, Value: c.Subject.CommonName}}})
	if err != nil {
		panic(err)
	}
	c.RawSubject = raw
}

func refusesLie(t *testing.T, set func(*lyingSigner)) {
	t.Helper()
	b := newBench(t)
	set(b.signer)
	issued, err := b.Issue(t.Context(), b.request(newCSR(t, newKey(t), nil)))
	if !errors.Is(err, ca.ErrMismatch) || issued != nil {
		t.Errorf("got %v", err)
	}
	if n := b.count(); n != 0 {
		t.Errorf("%d certificates recorded", n)
	}
}
