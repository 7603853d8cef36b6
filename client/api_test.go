package client

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"
)

// issuing makes an issuing CA, or what calls itself one, that a fake CA's root signed.
func (f *fakeCA) issuing(isCA bool) *x509.Certificate {
	key := must(NewKey(""))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "issuing"}, IsCA: isCA, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), SubjectKeyId: []byte("issuing"),
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, f.cert, key.Public(), f.key))))
}

func TestIssuers(t *testing.T) {
	ca, other := newFakeCA(t), newFakeCA(t)
	id := ca.identity()
	one, two := ca.issuing(true), ca.issuing(true)
	entry := func(certs ...*x509.Certificate) (out []Issuer) {
		for _, c := range certs {
			out = append(out, Issuer{ID: "x", Certificate: string(marshalChain([]*x509.Certificate{c}))})
		}
		return out
	}
	ca.issuers = entry(one, two)
	got, err := id.API().Issuers(t.Context())
	if err != nil || len(got) != 2 || !got[0].Equal(one) || !got[1].Equal(two) {
		t.Fatalf("%d issuers, %v", len(got), err)
	}
	for want, issuers := range map[string][]Issuer{
		"names no issuing CA":         nil,
		`issuing CA "x": x509`:        entry(one, other.issuing(true)),
		`issuing CA "x": it is no CA`: entry(ca.issuing(false)),
		`issuing CA "bad": want one`:  {{ID: "bad", Certificate: "none"}},
		`issuing CA "two": want one`:  {{ID: "two", Certificate: entry(one)[0].Certificate + entry(two)[0].Certificate}},
	} {
		ca.issuers = issuers
		if got, err := id.API().Issuers(t.Context()); err == nil || got != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %d issuers and %v, want %s", len(got), err, want)
		}
	}
}
