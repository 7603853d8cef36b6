package boltstore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/pkid/pkid/thumbprint"
)

// BenchmarkInsert has 64 clients insert certificates at once, each durable before the next. It reports how many
// octets of the file one certificate takes with its indexes, and how many its audit entry does.
func BenchmarkInsert(b *testing.B) {
	s := openTest(b, filepath.Join(b.TempDir(), "pkid.db"))
	size := len(clientCertificate(b))
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				r := newRecord("client-" + strconv.Itoa(i))
				r.DER = make([]byte, size)
				rand.Read(r.DER)
				r.Thumbprint = thumbprint.OfDER(r.DER)
				ev := event(r.Serial.String())
				ev.Detail = map[string]string{
					"client": r.ClientID, "profile": r.Profile,
					"not_after": r.NotAfter.Format(time.RFC3339), "x5t#S256": r.Thumbprint.String(),
				}
				if err := s.Insert(b.Context(), r, nil, ev); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	report(b, s)
}

func report(b *testing.B, s *Store) {
	b.Helper()
	err := s.db.View(func(tx *bolt.Tx) error {
		octets := func(buckets ...bucket) float64 {
			n := 0
			for _, k := range buckets {
				st := tx.Bucket(k.name).Stats()
				n += st.LeafAlloc + st.BranchAlloc
			}
			return float64(n) / float64(b.N)
		}
		b.ReportMetric(octets(certificates, byThumbprint, byClient, byExpiry), "B/cert")
		b.ReportMetric(octets(certificates), "B/record")
		b.ReportMetric(octets(log), "B/audit")
		b.ReportMetric(float64(b.N)/float64(tx.ID()), "inserts/tx")
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "inserts/s")
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// clientCertificate returns a certificate like those that package ca signs, for its size.
func clientCertificate(b *testing.B) []byte {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	serial := newRecord("x").Serial
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
