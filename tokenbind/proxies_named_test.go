package tokenbind

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// signed makes a certificate of a template, by an issuer or by itself.
func signed(t *testing.T, template, by *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(1)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	if by == nil {
		by = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestA30_CertificateFrom: a proxy's certificate is one for clients, in its time, with one of the names, and leads to the
// roots; the CAs between, the proxy sends.
func TestA30_CertificateFrom(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority := func(name string, by *x509.Certificate) *x509.Certificate {
		c := &x509.Certificate{BasicConstraintsValid: true, IsCA: true}
		c.Subject.CommonName, c.SubjectKeyId = name, []byte(name)
		return signed(t, c, by, key)
	}
	root := authority("root", nil)
	between := authority("between", root)
	leaf := func(edit func(*x509.Certificate)) *x509.Certificate {
		c := &x509.Certificate{
			DNSNames: []string{"Gateway.example"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "example", Path: "/gateway"}},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		c.Subject.CommonName = "gateway"
		if edit != nil {
			edit(c)
		}
		return signed(t, c, between, key)
	}
	good, roots := leaf(nil), x509.NewCertPool()
	roots.AddCert(root)
	chain := func(c *x509.Certificate) []*x509.Certificate { return []*x509.Certificate{c, between} }
	stranger := authority("root", nil) // by the same key, but another certificate
	strangers := x509.NewCertPool()
	strangers.AddCert(authority("stranger", nil))
	long := chain(good)
	for range maxChain {
		long = append(long, stranger)
	}
	for name, tt := range map[string]struct {
		roots *x509.CertPool
		names []string
		peer  []*x509.Certificate
		want  bool
	}{
		"by DNS name":              {roots, []string{"other.example", "gateway.example"}, chain(good), true},
		"by URI":                   {roots, []string{"spiffe://example/gateway"}, chain(good), true},
		"by no name":               {roots, nil, chain(good), false},
		"by its subject":           {roots, []string{"gateway", "example", ""}, chain(good), false},
		"another root":             {strangers, []string{"gateway.example"}, chain(good), false},
		"no roots at all":          {nil, []string{"gateway.example"}, chain(good), false},
		"nobody":                   {roots, []string{"gateway.example"}, nil, false},
		"without the CA between":   {roots, []string{"gateway.example"}, chain(good)[:1], false},
		"with too many":            {roots, []string{"gateway.example"}, long, false},
		"the name is another's":    {roots, []string{"gateway.example"}, []*x509.Certificate{leaf(func(c *x509.Certificate) { c.DNSNames, c.URIs = nil, nil }), between, good}, false},
		"expired":                  {roots, []string{"gateway.example"}, chain(leaf(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })), false},
		"a server's":               {roots, []string{"gateway.example"}, chain(leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), false},
		"a wildcard":               {roots, []string{"gateway.example"}, chain(leaf(func(c *x509.Certificate) { c.DNSNames = []string{"*.example"} })), false},
		"what it leads to is sent": {strangers, []string{"gateway.example"}, []*x509.Certificate{good, between, root}, false},
	} {
		if got, err := CertificateFrom(tt.roots, tt.names...)(t.Context(), tt.peer); got != tt.want || err != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// TestA30_Addresses: an address is the same in each way to write it, and what is none is nobody's.
func TestA30_Addresses(t *testing.T) {
	p := proxies(t)
	for from, want := range map[string]bool{
		"192.0.2.7:1": true, "[::ffff:192.0.2.7]:1": true, "[2001:db8::7]:1": true, "[2001:db8::7%eth0]:1": true,
		"192.0.2.16:1": false, "[::ffff:192.0.2.16]:1": false, "[2001:db8:0:1::7]:1": false, "[::192.0.2.7]:1": false,
		"192.0.2.7": false, "192.0.2.7:https": false, "192.0.2.07:1": false, "": false, "@": false, "/run/192.0.2.7:1": false, "localhost:1": false,
	} {
		r := fromProxy(nil)
		r.RemoteAddr = from
		if got, err := p.Trusts(r); got != want || err != nil {
			t.Errorf("%q: %v, %v", from, got, err)
		}
	}
}

// TestA29_HeaderOfOurChoice: its name is the configuration's, and who is behind does not get it.
func TestA29_HeaderOfOurChoice(t *testing.T) {
	const name = "X-Our-Certificate"
	client := proxyCert(t, "client.pem")
	p := proxies(t, withForm(FormHAProxy), func(c *ProxiesConfig) { c.Header = strings.ToLower(name) })
	got, err := p.Receive(fromProxy(header(name, derOf(client))))
	if err != nil || !got.TLS.PeerCertificates[0].Equal(client) || len(got.Header) > 0 {
		t.Errorf("%v, %v", got, err)
	}
	for _, h := range []http.Header{header("X_Our_Certificate", derOf(client)), header(name, derOf(client), "X-Our_Certificate", "")} {
		if got, err := p.Receive(fromProxy(h)); got != nil || !errors.Is(err, ErrForwarded) {
			t.Errorf("%v: %v, %v", h, got, err)
		}
	}
}

// TestA29_ChainIsTheRequests: what was parsed before is that of the whole chain, not of its first certificate.
func TestA29_ChainIsTheRequests(t *testing.T) {
	c, ca := proxyCert(t, "client.pem"), proxyCert(t, "ca.pem")
	p := proxies(t, withForm(FormRFC9440))
	for want, h := range map[int]http.Header{
		1: header("Client-Cert", ":"+derOf(c)+":"),
		2: header("Client-Cert", ":"+derOf(c)+":", "Client-Cert-Chain", ":"+derOf(ca)+":"),
		3: header("Client-Cert", ":"+derOf(c)+":", "Client-Cert-Chain", ":"+derOf(ca)+":,:"+derOf(ca)+":"),
	} {
		if got, err := p.Receive(fromProxy(h)); err != nil || len(got.TLS.PeerCertificates) != want {
			t.Errorf("%v, %v, want %d", got, err, want)
		}
	}
}
