package ocsp

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var start = time.Date(2030, 1, 2, 3, 4, 5, 678_900_000, time.UTC)

// bench is a responder for one issuing CA, with records and a clock that the test sets.
type bench struct {
	*Responder
	t         testing.TB
	now       time.Time
	issuer    *x509.Certificate
	issuerKey *ecdsa.PrivateKey

	looked func() // called with each look into the records, if it is there

	mu      sync.Mutex // guards records and away
	records map[string]Status
	away    error
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, now: start, records: map[string]Status{}, issuerKey: newKey(t)}
	b.issuer = b.certificate(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Issuing"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: start.Add(time.Hour * 1000),
	}, b.issuerKey)
	var err error
	b.Responder, err = New(Config{Records: b, Lifetime: 10 * time.Minute, Now: func() time.Time { return b.now }})
	if err != nil {
		t.Fatal(err)
	}
	b.delegate(start.Add(24 * time.Hour))
	return b
}

// Status is Records.
func (b *bench) Status(_ context.Context, issuer string, serial *big.Int) (Status, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.looked != nil {
		b.looked()
	}
	if issuer != "issuing" {
		return Status{}, errors.New("another issuer was asked for")
	}
	return b.records[serial.String()], b.away
}

func (b *bench) set(serial int64, s Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records[big.NewInt(serial).String()] = s
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certificate has the issuing CA sign a template, or the CA's own.
func (b *bench) certificate(template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	b.t.Helper()
	if template.SerialNumber == nil {
		template.SerialNumber = big.NewInt(1)
	}
	template.NotBefore = start.Add(-time.Minute)
	parent := b.issuer
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), b.issuerKey)
	if err != nil {
		b.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		b.t.Fatal(err)
	}
	return cert
}

// delegate gives the issuing CA a new one.
func (b *bench) delegate(notAfter time.Time) {
	b.t.Helper()
	key := newKey(b.t)
	cert := b.certificate(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Responder"}, NotAfter: notAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
	}, key)
	d, err := NewDelegate(cert, key, b.issuer)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.SetIssuers(Issuer{"issuing", b.issuer, d}); err != nil {
		b.t.Fatal(err)
	}
}

// ask is a request to be written: what is nil or zero is not in it.
type ask struct {
	certs      [][]byte // of CertID
	nonce      []byte   // DER of its extnValue's content
	extensions [][]byte // DER of other Extensions
	version    int64
	requestor  bool
	signature  bool
}

// id is the CertID of one of the issuing CA's certificates.
func (b *bench) id(serial int64) []byte {
	b.t.Helper()
	req, err := newRequest(&x509.Certificate{SerialNumber: big.NewInt(serial)}, b.issuer)
	if err != nil {
		b.t.Fatal(err)
	}
	parsed, err := parseRequest(req)
	if err != nil {
		b.t.Fatal(err)
	}
	return []byte(parsed.certs[0].raw)
}

func octets(content []byte) []byte { return built(cbasn1.OCTET_STRING, content) }

func built(tag cbasn1.Tag, parts ...[]byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(tag, func(b *cryptobyte.Builder) {
		for _, p := range parts {
			b.AddBytes(p)
		}
	})
	return b.BytesOrPanic()
}

func (a ask) der() []byte {
	var tbs, list, extensions [][]byte
	if a.version != 0 {
		tbs = append(tbs, built(contextTag(0), []byte{2, 1, byte(a.version)}))
	}
	if a.requestor {
		tbs = append(tbs, built(contextTag(1), built(cbasn1.Tag(2).ContextSpecific(), []byte("host.example"))))
	}
	for _, id := range a.certs {
		list = append(list, built(cbasn1.SEQUENCE, id))
	}
	tbs = append(tbs, built(cbasn1.SEQUENCE, list...))
	if a.nonce != nil {
		extensions = append(extensions, built(cbasn1.SEQUENCE, []byte(nonceExtnID), octets(a.nonce)))
	}
	if extensions = append(extensions, a.extensions...); len(extensions) > 0 {
		tbs = append(tbs, built(contextTag(2), built(cbasn1.SEQUENCE, extensions...)))
	}
	all := [][]byte{built(cbasn1.SEQUENCE, tbs...)}
	if a.signature {
		all = append(all, built(contextTag(0), built(cbasn1.SEQUENCE)))
	}
	return built(cbasn1.SEQUENCE, all...)
}
