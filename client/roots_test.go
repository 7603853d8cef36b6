package client

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

// A new root is believed only if the one before signed, for its name and key, what a root may do. Whoever has another
// key that the CA certified can sign a root of that name and key, and must get nowhere with it.
func TestSuccession(t *testing.T) {
	f, nextKey := newFakeCA(t), must(NewKey(""))
	sign := func(signer *x509.Certificate, by crypto.Signer, alter func(*x509.Certificate)) *x509.Certificate {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "next"}, IsCA: true, BasicConstraintsValid: true, MaxPathLen: -1,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
		}
		if alter != nil {
			alter(c)
		}
		if signer == nil {
			signer = c
		}
		return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, c, signer, nextKey.Public(), by))))
	}
	next := sign(nil, nextKey, nil)
	between := must(NewKey(""))
	sub := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(8), Subject: pkix.Name{CommonName: "between"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}, f.cert, between.Public(), f.key))))
	cross := func(alter func(*x509.Certificate)) []*x509.Certificate {
		return []*x509.Certificate{sign(f.cert, f.key, alter)}
	}
	for name, tt := range map[string]struct {
		root  *x509.Certificate
		chain []*x509.Certificate
		want  bool
	}{
		"vouched for":               {next, cross(nil), true},
		"for one CA below":          {next, cross(func(c *x509.Certificate) { c.MaxPathLen = 1 }), true},
		"nothing":                   {next, nil, false},
		"itself":                    {next, []*x509.Certificate{next}, false},
		"a server's certificate":    {next, cross(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature }), false},
		"an issuing CA's":           {next, cross(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }), false},
		"a CRL signer's":            {next, cross(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), false},
		"for some names only":       {next, cross(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"robots.test"} }), false},
		"for one purpose only":      {next, cross(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }), false},
		"another's name":            {next, cross(func(c *x509.Certificate) { c.Subject.CommonName = "other" }), false},
		"no longer":                 {next, cross(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), false},
		"by a CA below":             {next, []*x509.Certificate{sign(sub, between, nil), sub}, false},
		"another's key":             {newFakeCA(t).cert, cross(func(c *x509.Certificate) { c.Subject.CommonName = "root" }), false},
		"a root that is over":       {sign(nil, nextKey, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), cross(nil), false},
		"a root that is no CA":      {sign(nil, nextKey, func(c *x509.Certificate) { c.IsCA = false }), cross(nil), false},
		"a root that others signed": {sign(f.cert, f.key, nil), cross(nil), false},
	} {
		answer := &Certificate{Root: string(marshalChain([]*x509.Certificate{tt.root}))}
		for _, c := range tt.chain {
			answer.Chain = append(answer.Chain, string(marshalChain([]*x509.Certificate{c})))
		}
		roots, err := succession([]*x509.Certificate{f.cert}, answer)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := roots[0].Equal(tt.root); got != tt.want || !roots[len(roots)-1].Equal(f.cert) || (len(roots) == 2) != tt.want {
			t.Errorf("%s: believed: %t, want %t; %d roots", name, got, tt.want, len(roots))
		}
	}
}
