package ca_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
)

// noCheck is id-pkix-ocsp-nocheck (RFC 6960 section 4.2.2.2.1).
var noCheck = pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: []byte{5, 0}}

const week = 7 * 24 * time.Hour

func (b *bench) responder(until time.Time) ca.ResponderRequest {
	b.t.Helper()
	key, err := ca.ProveOwn(keys()[ca.P256])
	if err != nil {
		b.t.Fatal(err)
	}
	return ca.ResponderRequest{Issuer: b.Issuer().ID(), ClientID: "pkid", Key: key, Until: until}
}

// A responder's certificate is the same octets as crypto/x509 writes, and is recorded as any other.
func TestResponderCertificate(t *testing.T) {
	for _, issuerKey := range keys() {
		b := newBenchAt(t, start, issuerKey)
		issued, err := b.IssueResponder(t.Context(), b.responder(time.Time{}))
		if err != nil {
			t.Fatal(err)
		}
		cert := leaf(t, issued)
		template := &x509.Certificate{
			SerialNumber: cert.SerialNumber, Subject: pkix.Name{CommonName: "OCSP responder " + b.Issuer().ID()},
			NotBefore: b.now.Add(-time.Minute), NotAfter: b.now.Add(week),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}, BasicConstraintsValid: true,
			IssuingCertificateURL: []string{b.Issuer().AIAURL},
			SubjectKeyId:          cert.SubjectKeyId, ExtraExtensions: []pkix.Extension{noCheck},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, b.cert(), cert.PublicKey, b.signer.key)
		if err != nil {
			t.Fatal(err)
		}
		if want, got := tbsAndAlgorithm(t, der), tbsAndAlgorithm(t, issued.Record.DER); !bytes.Equal(got, want) {
			t.Errorf("got  %x\nwant %x", got, want)
		}
		if rec := b.newest(); rec.Serial != issued.Record.Serial || rec.Profile != ca.ResponderProfile || rec.ClientID != "pkid" {
			t.Errorf("recorded: %+v", rec)
		}
	}
}

func TestResponderIsCheckedAfterSigning(t *testing.T) {
	for what, change := range map[string]func(*x509.Certificate){
		"the truth":         func(*x509.Certificate) {},
		"to be checked":     func(c *x509.Certificate) { c.ExtraExtensions = nil },
		"no NULL":           func(c *x509.Certificate) { c.ExtraExtensions[0].Value = nil },
		"critical":          func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = true },
		"another usage":     func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} },
		"one more usage":    func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage[:1:1], x509.ExtKeyUsageClientAuth) },
		"longer":            func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) },
		"a CRL for itself":  func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://pki.test/issuing.crl"} },
		"OCSP for itself":   func(c *x509.Certificate) { c.OCSPServer = []string{"http://pki.test/ocsp"} },
		"another's subject": func(c *x509.Certificate) { c.Subject.CommonName = "OCSP responder" },
		"a name":            func(c *x509.Certificate) { c.DNSNames = []string{"evil.example.com"} },
	} {
		b := newBench(t)
		f := forgery{change: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{noCheck}
			change(c)
		}}
		if err := b.CheckResponder(t.Context(), b.responder(time.Time{}), f.forge(b)); errors.Is(err, ca.ErrMismatch) != (what != "the truth") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestResponderUntil(t *testing.T) {
	b := newBench(t)
	issued, err := b.IssueResponder(t.Context(), b.responder(start.Add(time.Minute)))
	if err != nil || !issued.Record.NotAfter.Equal(start.Add(time.Minute).Truncate(time.Second)) {
		t.Errorf("%+v, %v", issued, err)
	}
	if _, err := b.IssueResponder(t.Context(), b.responder(start.Add(-time.Minute))); !errors.Is(err, ca.ErrLifetime) {
		t.Errorf("nothing is left: %v", err)
	}
	r := b.responder(time.Time{})
	r.Issuer = "none"
	if _, err := b.IssueResponder(t.Context(), r); !errors.Is(err, ca.ErrIssuer) {
		t.Errorf("another issuer: %v", err)
	}
	other, err := ca.ProveOwn(keys()[ca.Ed25519])
	if err != nil {
		t.Fatal(err)
	}
	for what, key := range map[string]ca.ProvenKey{"no key": {}, "a key of another kind": other} {
		r = b.responder(time.Time{})
		r.Key = key
		if _, err := b.IssueResponder(t.Context(), r); !errors.Is(err, ca.ErrKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Nobody but IssueResponder comes by a certificate that may speak for the CA.
func TestNobodyElseIsAResponder(t *testing.T) {
	b := newBench(t)
	config := ca.ProfileConfig{Name: "mine", Lifetime: time.Hour, KeyTypes: ca.KeyTypes, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}, Policy: permitAll{}}
	if _, err := ca.NewProfile(config); err == nil {
		t.Error("a profile with OCSPSigning")
	}
	config.Name, config.ExtKeyUsage = ca.ResponderProfile, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	taken, err := ca.NewProfile(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.New(ca.Config{Issuer: b.Issuer(), Store: b.store, Profiles: []*ca.Profile{taken}}); err == nil {
		t.Error("a profile of the reserved name")
	}
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 9}})
	if err != nil {
		t.Fatal(err)
	}
	asked := newCSR(t, newKey(t), &x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: usage}, noCheck}})
	issued, err := b.Issue(t.Context(), b.request(asked))
	if err != nil {
		t.Fatal(err)
	}
	if c := leaf(t, issued); len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || bytes.Contains(c.Raw, []byte("\x2b\x06\x01\x05\x05\x07\x30\x01\x05")) {
		t.Errorf("a CSR that asks for it: %v", c.ExtKeyUsage)
	}
	r := b.request(asked)
	r.Profile = ca.ResponderProfile
	if _, err := b.Issue(t.Context(), r); !errors.Is(err, ca.ErrProfile) {
		t.Errorf("the profile: %v", err)
	}
	own, err := b.IssueResponder(t.Context(), b.responder(time.Time{}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Renew(t.Context(), ca.Renewal{Current: leaf(t, own), Record: own.Record, Key: b.responder(time.Time{}).Key}); !errors.Is(err, ca.ErrProfile) {
		t.Errorf("a renewal: %v", err)
	}
}
