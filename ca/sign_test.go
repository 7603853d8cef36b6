package ca_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
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

// lyingSigner is the real signer, but for what a test makes it return.
type lyingSigner struct {
	ca.Signer
	key    crypto.Signer
	fail   error
	lie    func(digest, signature []byte) []byte // returned as a certificate's signature
	lieCRL func(digest, signature []byte) []byte // returned as a CRL's
}

func (s *lyingSigner) SignCertificate(ctx context.Context, tbs ca.TBSCertificate) ([]byte, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	signature, err := s.Signer.SignCertificate(ctx, tbs)
	if err == nil && s.lie != nil {
		signature = s.lie(tbs.Digest(), signature)
	}
	return signature, err
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

// TestSignerMayNotLie is invariant 3: what is no signature over the certificate is neither recorded nor does it leave.
func TestSignerMayNotLie(t *testing.T) {
	forger, other := newKey(t), newBench(t).issue()
	for what, lie := range map[string]func(digest, signature []byte) []byte{
		"nothing":             func(_, _ []byte) []byte { return nil },
		"garbage":             func(_, _ []byte) []byte { return []byte("signature") },
		"a bit":               func(_, s []byte) []byte { s[len(s)-1] ^= 1; return s },
		"an octet more":       func(_, s []byte) []byte { return append(s, 0) },
		"another key":         func(digest, _ []byte) []byte { return signed(t, forger, digest) },
		"a whole certificate": func(_, _ []byte) []byte { return other.Record.DER },
	} {
		t.Run(what, func(t *testing.T) { refusesLie(t, func(b *bench) { b.signer.lie = lie }) })
	}
	t.Run("another certificate's", func(t *testing.T) {
		refusesLie(t, func(b *bench) {
			cert := leaf(t, b.issue())
			b.signer.lie = func(_, _ []byte) []byte { return cert.Signature }
		})
	})
	t.Run("a CRL's", func(t *testing.T) {
		refusesLie(t, func(b *bench) {
			list := sha256.Sum256(tbsOf(t, b.cert(), b.signer.key, start))
			b.signer.lie = func(_, _ []byte) []byte { return signed(t, b.signer.key, list[:]) }
		})
	})
}

func refusesLie(t *testing.T, set func(*bench)) {
	t.Helper()
	b := newBench(t)
	set(b)
	before := b.count()
	issued, err := b.Issue(t.Context(), b.request(newCSR(t, newKey(t), nil)))
	if !errors.Is(err, ca.ErrMismatch) || issued != nil {
		t.Errorf("got %v", err)
	}
	if n := b.count() - before; n != 0 {
		t.Errorf("%d certificates recorded", n)
	}
}

// TestCheckFindsWhatDiffers is invariant 3 on the other side: a certificate that says anything else than what was
// decided does not pass, though it is signed well.
func TestCheckFindsWhatDiffers(t *testing.T) {
	for what, change := range map[string]func(*x509.Certificate){
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
		"OCSP elsewhere":       func(c *x509.Certificate) { c.OCSPServer = []string{"http://evil.test/ocsp"} },
		"OCSP twice":           func(c *x509.Certificate) { c.OCSPServer = append(c.OCSPServer[:1:1], c.OCSPServer[0]) },
		"no OCSP":              func(c *x509.Certificate) { c.OCSPServer = nil },
		"an OCSP responder":    func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} },
		"not to be checked":    func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{noCheck} },
		"another extension": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}}}
		},
		"key usage not critical": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: []byte{3, 2, 7, 0x80}}}
		},
		"no key identifier": func(c *x509.Certificate) { c.SubjectKeyId = nil },
	} {
		t.Run(what, func(t *testing.T) { findsForgery(t, forgery{change: change}) })
	}
	t.Run("key", func(t *testing.T) { findsForgery(t, forgery{pub: newKey(t).Public()}) })
	t.Run("signature", func(t *testing.T) { findsForgery(t, forgery{key: newKey(t)}) })
	t.Run("garbage", func(t *testing.T) { findsForgery(t, forgery{der: []byte("certificate")}) })
	t.Run("another's certificate", func(t *testing.T) { findsForgery(t, forgery{der: newBench(t).cert().Raw}) })
	t.Run("the truth", func(t *testing.T) {
		b := newBench(t)
		f := forgery{change: func(*x509.Certificate) {}} // goes through the same code as the others
		if err := b.Check(t.Context(), b.request(newCSR(t, newKey(t), nil)), f.forge(b)); err != nil {
			t.Error(err)
		}
	})
}

// forgery is a certificate like the one that was decided, but for what is set here.
type forgery struct {
	change func(*x509.Certificate)
	pub    crypto.PublicKey
	key    crypto.Signer // signs in the issuer's place
	der    []byte        // all of it
}

func findsForgery(t *testing.T, f forgery) {
	t.Helper()
	b := newBench(t)
	if err := b.Check(t.Context(), b.request(newCSR(t, newKey(t), nil)), f.forge(b)); !errors.Is(err, ca.ErrMismatch) {
		t.Errorf("got %v", err)
	}
}

func (f forgery) forge(b *bench) func(der []byte) []byte {
	return func(der []byte) []byte {
		if f.der != nil {
			return f.der
		}
		template, err := x509.ParseCertificate(der)
		if err != nil {
			b.t.Fatal(err)
		}
		template.RawSubject = nil
		pub, parent, key := template.PublicKey, b.cert(), b.signer.key
		if f.change != nil {
			f.change(template)
		}
		if f.pub != nil {
			pub = f.pub
		}
		if f.key != nil {
			forged := *parent
			forged.PublicKey = f.key.Public()
			parent, key = &forged, f.key
		}
		out, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
		if err != nil {
			b.t.Fatal(err)
		}
		return out
	}
}

func twoCommonNames(c *x509.Certificate) {
	cn := asn1.ObjectIdentifier{2, 5, 4, 3}
	raw, err := asn1.Marshal(pkix.RDNSequence{{{Type: cn, Value: "root"}}, {{Type: cn, Value: c.Subject.CommonName}}})
	if err != nil {
		panic(err)
	}
	c.RawSubject = raw
}
