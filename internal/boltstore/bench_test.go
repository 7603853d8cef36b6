package boltstore

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/thumbprint"
)

// BenchmarkInsert has 1024 callers insert certificates, each durable before the next, into a store that has none or
// many. It reports how many octets of the file one certificate takes, with all that comes with it.
func BenchmarkInsert(b *testing.B) {
	for _, before := range []int{0, 1_000_000} {
		b.Run(fmt.Sprintf("into=%d", before), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "pkid.db")
			s := openTest(b, path)
			fill(b, s, 1024, before)
			used := transactionsOf(b, s)
			b.ResetTimer()
			fill(b, s, 1024, b.N)
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "inserts/s")
			b.ReportMetric(float64(b.N)/float64(transactionsOf(b, s)-used), "inserts/tx")
			report(b, s, before+b.N)
		})
	}
}

// BenchmarkIssuance has callers that work for 150 us before each insert, which is what signing costs.
func BenchmarkIssuance(b *testing.B) {
	for _, callers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := openTest(b, filepath.Join(b.TempDir(), "pkid.db"))
			b.ResetTimer()
			fill(b, s, callers, b.N, func() {
				var block [64 << 10]byte
				for range 2 {
					sink = sha256.Sum256(block[:])
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "inserts/s")
			b.ReportMetric(float64(b.N)/float64(transactionsOf(b, s)), "inserts/tx")
		})
	}
}

var sink [32]byte

// fill inserts n certificates of as many clients by so many callers, who do work before each. They are copies of one,
// with another serial number, name, key, subject key identifier and signature.
func fill(b *testing.B, s *Store, callers, n int, work ...func()) {
	b.Helper()
	der := clientCertificate(b)
	serial := bytes.Index(der, []byte(placeholder))
	keyID := serial + 1 + bytes.Index(der[serial+1:], []byte(placeholder))
	name := bytes.Index(der, []byte("client-12"))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				for _, f := range work {
					f()
				}
				r := newRecord("client-" + strconv.FormatInt(i, 10))
				r.DER = bytes.Clone(der)
				copy(r.DER[serial:], r.Serial[:])
				copy(r.DER[name:], fmt.Sprintf("%09d", i))
				rand.Read(r.DER[keyID:][:len(placeholder)])
				rand.Read(r.DER[name+50:][:64]) // about where the key is
				rand.Read(r.DER[len(der)-64:])
				r.Thumbprint = thumbprint.OfDER(r.DER)
				if err := s.Insert(b.Context(), r, nil, issueEvent(r)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func transactionsOf(b *testing.B, s *Store) (id int) {
	b.Helper()
	if err := s.db.View(func(tx *bolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		b.Fatal(err)
	}
	return id
}

func report(b *testing.B, s *Store, n int) {
	b.Helper()
	err := s.db.View(func(tx *bolt.Tx) error {
		octets := func(buckets ...bucket) float64 {
			sum := 0
			for _, k := range buckets {
				st := tx.Bucket(k.name).Stats()
				sum += st.LeafAlloc + st.BranchAlloc
			}
			return float64(sum) / float64(n)
		}
		b.ReportMetric(float64(tx.Size())/float64(n), "B/cert")
		b.ReportMetric(octets(certificates), "B/record")
		b.ReportMetric(octets(blocks, spans), "B/block")
		b.ReportMetric(octets(byExpiry), "B/expiry")
		b.ReportMetric(octets(log), "B/audit")
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// placeholder stands for the serial number, and for the key identifiers after it.
const placeholder = "serial-number-of"

// clientCertificate returns a certificate like those that package ca signs, for its size.
func clientCertificate(b testing.TB) []byte {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	serial := ca.Serial([]byte(placeholder))
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "pkid Issuing CA"}, SubjectKeyId: serial[:], SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial.Int(), Subject: pkix.Name{CommonName: "client-12"}, NotBefore: time.Now(), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, SubjectKeyId: serial[:], DNSNames: []string{"client-12.example.com"},
		CRLDistributionPoints: []string{"http://127.0.0.1:8080/crl/0123456789abcdef.crl"},
		IssuingCertificateURL: []string{"http://127.0.0.1:8080/issuers/0123456789abcdef.crt"},
	}, issuer, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	return der
}
