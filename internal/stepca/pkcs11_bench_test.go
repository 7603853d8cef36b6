//go:build pkcs11 && cgo

package stepca_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/hsmtest"
	"github.com/pkid/pkid/internal/stepca"
)

// BenchmarkPKCS11 is a signature alone, and issuance with 32 requests at once into a bbolt store, by where the key is.
func BenchmarkPKCS11(b *testing.B) {
	token := hsmtest.New(b)
	passphrase := []byte("correct horse battery staple")
	for name, uri := range map[string]string{"file": filepath.Join(b.TempDir(), "a.key"), "softhsm2": token.URI("01", "bench")} {
		key, err := stepca.CreateKey(b.Context(), uri, ca.P256, passphrase)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("sign/"+name, func(b *testing.B) {
			digest := make([]byte, 32)
			for b.Loop() {
				if _, err := key.Sign(rand.Reader, digest, crypto.SHA256); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("issue/"+name, func(b *testing.B) { benchmarkIssue(b, key) })
	}
}

func benchmarkIssue(b *testing.B, key crypto.Signer) {
	rootKey, err := stepca.GenerateKey(ca.P256)
	if err != nil {
		b.Fatal(err)
	}
	spec := stepca.CeremonySpec{Name: "Bench", RootCRLURL: "http://127.0.0.1/root.crl", RootAIAURL: "http://127.0.0.1/root.crt"}
	root, err := stepca.CreateRoot(spec, rootKey)
	if err != nil {
		b.Fatal(err)
	}
	cert, err := stepca.CreateIssuer(spec, root, rootKey, key.Public())
	if err != nil {
		b.Fatal(err)
	}
	signer, err := stepca.NewSigner(cert, key)
	if err != nil {
		b.Fatal(err)
	}
	store, err := boltstore.Open(filepath.Join(b.TempDir(), "a.db"), boltstore.Options{Create: true, Identity: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	profile, err := ca.NewProfile(ca.ProfileConfig{
		Name: "client", Lifetime: time.Hour, KeyTypes: ca.KeyTypes, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, Policy: anyName{},
	})
	if err != nil {
		b.Fatal(err)
	}
	authority, err := ca.New(ca.Config{
		Issuer:   &ca.Issuer{Signer: signer, Root: root, CRLURL: "http://127.0.0.1/a.crl", AIAURL: "http://127.0.0.1/a.crt"},
		Store:    store,
		Profiles: []*ca.Profile{profile},
	})
	if err != nil {
		b.Fatal(err)
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	proven, err := ca.ProveOwn(leafKey)
	if err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(16) // for each of two cores
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := authority.Issue(context.Background(), ca.Request{Profile: "client", ClientID: "svc", Names: ca.Names{CommonName: "svc"}, Key: proven}); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "certificates/s")
}

type anyName struct{}

func (anyName) Check(ca.Names) error { return nil }
