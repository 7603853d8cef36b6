package ca_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
)

// TestWrittenAsByCryptoX509: what this CA writes and what x509.CreateCertificate writes for the same names, dates
// and keys are the same octets.
func TestWrittenAsByCryptoX509(t *testing.T) {
	for issuer, issuerKey := range keys() {
		for _, now := range []time.Time{start, time.Date(2049, 12, 31, 12, 0, 0, 0, time.UTC), time.Date(2050, 1, 1, 0, 0, 30, 0, time.UTC)} {
			b := newBenchAt(t, now, issuerKey)
			for kind, key := range keys() {
				for range 3 {
					names, profile := randomNames(), []string{"client", "any"}[mathrand.IntN(2)]
					if profile == "client" {
						names = ca.Names{CommonName: names.CommonName}
					}
					t.Run(fmt.Sprintf("%s at %d over %s", issuer, now.Year(), kind), func(t *testing.T) { sameOctets(t, b, profile, names, key) })
				}
			}
		}
	}
}

func TestLongNamesAsByCryptoX509(t *testing.T) {
	b := newBench(t)
	for _, octets := range []int{10, 100, 1000, 2039} { // lengths of one octet to four
		names := ca.Names{CommonName: "x"}
		for i := range 32 {
			names.URIs = append(names.URIs, fmt.Sprintf("urn:x:%d:%s", i, strings.Repeat("a", octets)))
			sameOctets(t, b, "any", names, keys()[ca.P256])
		}
	}
}

func sameOctets(t *testing.T, b *bench, profile string, names ca.Names, key crypto.Signer) {
	t.Helper()
	proven, err := ca.ProveOwn(key)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := b.Issue(t.Context(), ca.Request{Profile: profile, ClientID: "x", Names: names, Key: proven})
	if err != nil {
		t.Fatal(err)
	}
	lifetime, usages := time.Hour, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if profile == "client" {
		lifetime, usages = 24*time.Hour, usages[1:]
	}
	template := &x509.Certificate{
		SerialNumber: issued.Record.Serial.Int(), Subject: pkix.Name{CommonName: names.CommonName},
		NotBefore: b.now.Add(-time.Minute), NotAfter: b.now.Add(lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usages, BasicConstraintsValid: true,
		DNSNames: names.DNS, EmailAddresses: names.Emails,
		CRLDistributionPoints: []string{b.Issuer().CRLURL}, IssuingCertificateURL: []string{b.Issuer().AIAURL}, OCSPServer: []string{b.Issuer().OCSPURL},
		SubjectKeyId: leaf(t, issued).SubjectKeyId, // crypto/x509 takes another method for it: see TestIssueEachKeyType
	}
	for _, a := range names.IPs {
		template.IPAddresses = append(template.IPAddresses, net.IP(a.AsSlice()))
	}
	for _, s := range names.URIs {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, b.cert(), key.Public(), b.signer.key)
	if err != nil {
		t.Fatal(err)
	}
	want, got := tbsAndAlgorithm(t, der), tbsAndAlgorithm(t, issued.Record.DER)
	if !bytes.Equal(got, want) {
		t.Errorf("names %q:\ngot  %x\nwant %x", names, got, want)
	}
}

// tbsAndAlgorithm is a certificate without its signature.
func tbsAndAlgorithm(t *testing.T, der []byte) []byte {
	t.Helper()
	var cert struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}
	if rest, err := asn1.Unmarshal(der, &cert); err != nil || len(rest) > 0 {
		t.Fatalf("%v, %d octets more", err, len(rest))
	}
	return append(cert.TBS.FullBytes, cert.Algorithm.FullBytes...)
}

// randomNames returns names of every kind, with every character that their kind may have.
func randomNames() ca.Names {
	pick := func(alphabet string, most int) string {
		var s strings.Builder
		for range 1 + mathrand.IntN(most) {
			s.WriteByte(alphabet[mathrand.IntN(len(alphabet))])
		}
		return s.String()
	}
	const letters, printable = "abcdefghijklmnopqrstuvwxyz0123456789", "ABCXYZabcxyz012789'()+,-./:=?"
	common := printable // half of the common names fit into a PrintableString
	if mathrand.IntN(2) == 0 {
		common += "!\"#$%&;<>@[\\]^_`{|}~"
	}
	n := ca.Names{CommonName: pick(common, 31) + " " + pick(common, 31)}
	for range mathrand.IntN(6) {
		n.DNS = append(n.DNS, pick(letters, 63)+"."+pick(letters, 63)+".example")
		n.Emails = append(n.Emails, pick(letters, 60)+"@example.com")
		n.URIs = append(n.URIs, "spiffe://example.com/"+pick(letters, 300), "urn:x:"+pick(letters, 300))
		n.IPs = append(n.IPs, netip.AddrFrom4([4]byte{10, byte(mathrand.IntN(256)), 0, 1}), netip.AddrFrom16([16]byte{0x20, 1, 15: byte(mathrand.IntN(256))}))
	}
	return n
}

func TestSerialsAreMinimalIntegers(t *testing.T) {
	for _, now := range []time.Time{time.UnixMilli(1), time.UnixMilli(0x80), time.UnixMilli(0xffff), start} {
		b := newBenchAt(t, now, newKey(t))
		if got := leaf(t, b.issue()).SerialNumber; got.Cmp(b.newest().Serial.Int()) != 0 {
			t.Errorf("at %s: %x", now, got)
		}
	}
}

func (b *bench) newest() *ca.Record {
	b.t.Helper()
	page, err := b.List(b.t.Context(), ca.Query{Limit: 1})
	if err != nil || len(page.Records) != 1 {
		b.t.Fatalf("%v, %v", page, err)
	}
	return page.Records[0]
}
