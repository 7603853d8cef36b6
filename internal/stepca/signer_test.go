package stepca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.step.sm/crypto/kms/apiv1"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
)

var (
	start = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	spec  = CeremonySpec{
		Name:       "Test",
		RootCRLURL: "http://127.0.0.1:8080/crl/root.crl",
		RootAIAURL: "http://127.0.0.1:8080/issuers/root.crt",
		Now:        func() time.Time { return start },
	}
)

var rsaKeys = map[ca.KeyType]crypto.Signer{} // they take seconds to make

func mustKey(t *testing.T, kind ca.KeyType) crypto.Signer {
	t.Helper()
	if key, ok := rsaKeys[kind]; ok {
		return key
	}
	key, err := GenerateKey(kind)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := key.(*rsa.PrivateKey); ok {
		rsaKeys[kind] = key
	}
	return key
}

func ceremony(t *testing.T, rootKind, issuerKind ca.KeyType) (root, issuer *x509.Certificate, rootKey, issuerKey crypto.Signer) {
	t.Helper()
	rootKey, issuerKey = mustKey(t, rootKind), mustKey(t, issuerKind)
	root, err := CreateRoot(spec, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err = CreateIssuer(spec, root, rootKey, issuerKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	return root, issuer, rootKey, issuerKey
}

// keeper is a store that keeps nothing.
type keeper struct{ ca.Store }

func (keeper) Insert(context.Context, *ca.Record, *ca.Spend, audit.Event) error { return nil }

func (keeper) Shards(context.Context, string) ([]ca.ShardCount, error) { return nil, nil }

type anyName struct{}

func (anyName) Check(ca.Names) error { return nil }

// issue issues a certificate for key through package ca, which alone can have one signed.
func issue(ctx context.Context, t *testing.T, root *x509.Certificate, s ca.Signer, key crypto.Signer) (*x509.Certificate, error) {
	t.Helper()
	profile, err := ca.NewProfile(ca.ProfileConfig{
		Name: "client", Lifetime: time.Hour, KeyTypes: ca.KeyTypes, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, Policy: anyName{},
	})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := ca.New(ca.Config{
		Issuer: &ca.Issuer{Signer: s, Root: root, CRLURL: "http://127.0.0.1/a.crl", AIAURL: "http://127.0.0.1/a.crt"},
		Store:  keeper{}, Profiles: []*ca.Profile{profile}, Now: func() time.Time { return start.Add(time.Minute) },
	})
	if err != nil {
		t.Fatal(err)
	}
	proven, err := ca.ProveOwn(key)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := authority.Issue(ctx, ca.Request{Profile: "client", ClientID: "svc", Names: ca.Names{CommonName: "svc"}, Key: proven})
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(issued.Record.DER)
}

func TestCeremony(t *testing.T) {
	for _, rootKind := range ca.KeyTypes {
		for _, issuerKind := range []ca.KeyType{ca.P256, ca.Ed25519, ca.RSA2048} {
			t.Run(string(rootKind)+" over "+string(issuerKind), func(t *testing.T) {
				root, issuer, rootKey, issuerKey := ceremony(t, rootKind, issuerKind)
				const usage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
				if !root.IsCA || root.KeyUsage != usage || root.MaxPathLen != -1 || len(root.SubjectKeyId) == 0 {
					t.Errorf("root: %v %v %d", root.IsCA, root.KeyUsage, root.MaxPathLen)
				}
				if !issuer.IsCA || issuer.KeyUsage != usage || !issuer.MaxPathLenZero || len(issuer.SubjectKeyId) == 0 ||
					!bytes.Equal(issuer.AuthorityKeyId, root.SubjectKeyId) {
					t.Errorf("issuer: %v %v %v", issuer.IsCA, issuer.KeyUsage, issuer.MaxPathLenZero)
				}
				if !slices.Equal(issuer.CRLDistributionPoints, []string{spec.RootCRLURL}) || !slices.Equal(issuer.IssuingCertificateURL, []string{spec.RootAIAURL}) {
					t.Errorf("issuer points to %v and %v", issuer.CRLDistributionPoints, issuer.IssuingCertificateURL)
				}
				der, err := CreateRootCRL(root, rootKey, big.NewInt(1), start, issuer.NotAfter)
				if err != nil {
					t.Fatal(err)
				}
				list, err := x509.ParseRevocationList(der)
				if err != nil || !list.NextUpdate.Equal(issuer.NotAfter) || len(list.RevokedCertificateEntries) != 0 {
					t.Errorf("root CRL until %v, %v", list.NextUpdate, err)
				}
				s, err := NewSigner(issuer, issuerKey)
				if err != nil {
					t.Fatal(err)
				}
				tbs, raw := tbsCertList(t, issuer, issuerKey)
				signature, err := s.SignCRL(t.Context(), tbs)
				if err != nil {
					t.Fatal(err)
				}
				if list := (&x509.RevocationList{RawTBSRevocationList: raw, Signature: signature, SignatureAlgorithm: algorithmOf(issuerKind)}); list.CheckSignatureFrom(issuer) != nil {
					t.Error("the signature over the CRL does not verify")
				}
				leaf, err := issue(t.Context(), t, root, s, mustKey(t, ca.P256))
				if err != nil {
					t.Fatal(err)
				}
				roots, between := x509.NewCertPool(), x509.NewCertPool()
				roots.AddCert(root)
				between.AddCert(issuer)
				if _, err := leaf.Verify(x509.VerifyOptions{
					Roots: roots, Intermediates: between, CurrentTime: start.Add(time.Minute),
					KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
				}); err != nil {
					t.Error(err)
				}
				if len(leaf.SubjectKeyId) == 0 || !bytes.Equal(leaf.AuthorityKeyId, issuer.SubjectKeyId) {
					t.Error("leaf without key identifiers")
				}
			})
		}
	}
}

// tbsCertList returns a CRL as it is before it is signed, and its DER.
func tbsCertList(t *testing.T, issuer *x509.Certificate, key crypto.Signer) (ca.TBSCertList, []byte) {
	t.Helper()
	der, err := CreateRootCRL(issuer, key, big.NewInt(1), start, start.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	tbs, err := ca.NewTBSCertList([][]byte{list.RawTBSRevocationList}, issuer)
	if err != nil {
		t.Fatal(err)
	}
	return tbs, list.RawTBSRevocationList
}

func algorithmOf(kind ca.KeyType) x509.SignatureAlgorithm {
	switch kind {
	case ca.Ed25519:
		return x509.PureEd25519
	case ca.RSA2048:
		return x509.SHA256WithRSA
	}
	return x509.ECDSAWithSHA256
}

func TestCeremonyRefuses(t *testing.T) {
	key := mustKey(t, ca.P256)
	root, err := CreateRoot(spec, key)
	if err != nil {
		t.Fatal(err)
	}
	for why, change := range map[string]func(*CeremonySpec){
		"no name":           func(s *CeremonySpec) { s.Name = "" },
		"NUL in name":       func(s *CeremonySpec) { s.Name = "a\x00b" },
		"long name":         func(s *CeremonySpec) { s.Name = string(bytes.Repeat([]byte("x"), 60)) },
		"no CRL URL":        func(s *CeremonySpec) { s.RootCRLURL = "" },
		"short life":        func(s *CeremonySpec) { s.IssuerLifetime = time.Hour },
		"before the root":   func(s *CeremonySpec) { s.Now = func() time.Time { return start.Add(-time.Hour) } },
		"after the root":    func(s *CeremonySpec) { s.Now = func() time.Time { return start.Add(11 * DefaultRootLifetime / 10) } },
		"negative lifetime": func(s *CeremonySpec) { s.IssuerLifetime = -1 },
	} {
		s := spec
		change(&s)
		if _, err := CreateIssuer(s, root, key, key.Public()); err == nil {
			t.Errorf("%s: accepted", why)
		}
	}
	s := spec
	s.IssuerLifetime = 2 * DefaultRootLifetime
	if issuer, err := CreateIssuer(s, root, key, key.Public()); err != nil || !issuer.NotAfter.Equal(root.NotAfter) {
		t.Errorf("an issuing CA outlives its root: %v", err)
	}
	if _, err := CreateIssuer(spec, root, mustKey(t, ca.P256), key.Public()); err == nil {
		t.Error("signed with a key that is not the root's")
	}
}

func TestSignerRefuses(t *testing.T) {
	root, issuer, _, key := ceremony(t, ca.P256, ca.P256)
	if _, err := NewSigner(issuer, mustKey(t, ca.P256)); !errors.Is(err, ErrKey) {
		t.Errorf("another key: %v", err)
	}
	s, err := NewSigner(issuer, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := issue(t.Context(), t, root, s, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSigner(leaf, key); err == nil || errors.Is(err, ErrKey) {
		t.Error("a leaf became an issuer")
	}
	if _, err := s.SignCRL(t.Context(), ca.TBSCertList{}); err == nil {
		t.Error("no CRL at all was signed")
	}
	if _, err := s.SignCertificate(t.Context(), ca.TBSCertificate{}); err == nil {
		t.Error("no certificate at all was signed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := issue(ctx, t, root, s, key); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of the context: %v", err)
	}
}

// hanging is a key outside the process that hangs until it is let go.
type hanging struct {
	crypto.Signer
	free chan struct{}
}

func (d hanging) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	<-d.free
	return d.Signer.Sign(rand, digest, opts)
}

func TestSignerGivesUpOnHangingDevice(t *testing.T) {
	root, issuer, _, key := ceremony(t, ca.P256, ca.P256)
	list, _ := tbsCertList(t, issuer, key)
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		s, err := NewSigner(issuer, hanging{key, free})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := s.SignCRL(t.Context(), list); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		for range maxInFlight { // the last one does not even reach the device
			if _, err := issue(t.Context(), t, root, s, key); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v", err)
			}
		}
		if took := time.Since(begin); took != (maxInFlight+1)*signTimeout {
			t.Errorf("gave up after %v", took)
		}
		close(free)
		synctest.Wait()
		if _, err := issue(t.Context(), t, root, s, key); err != nil {
			t.Errorf("after the device came back: %v", err)
		}
	})
}

// No more than so many wait for a device that hangs: who comes later is told at once.
func TestGateBoundsWhoWaits(t *testing.T) {
	key := mustKey(t, ca.P256)
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		g := newGate(hanging{key, free})
		digest := make([]byte, sha256.Size)
		for range maxInFlight + maxWaiting {
			go g.Sign(rand.Reader, digest, crypto.SHA256)
		}
		synctest.Wait()
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := g.sign(ctx, digest, crypto.SHA256); !errors.Is(err, ca.ErrSignerAway) || time.Since(begun) != 0 {
			t.Errorf("one more, after %s: %v", time.Since(begun), err)
		}
		close(free)
		synctest.Wait()
		if _, err := g.sign(ctx, digest, crypto.SHA256); err != nil {
			t.Errorf("after the device came back: %v", err)
		}
	})
}

// fakeKMS stands for a KMS that is compiled in.
type fakeKMS struct {
	apiv1.KeyManager
	key crypto.Signer
}

func (f fakeKMS) CreateSigner(*apiv1.CreateSignerRequest) (crypto.Signer, error) {
	if f.key == nil {
		return nil, errors.New("no such slot")
	}
	return f.key, nil
}

func (fakeKMS) Close() error { return nil }

func TestOpenKeyInKMS(t *testing.T) {
	key := mustKey(t, ca.P384)
	apiv1.Register("fakekms", func(_ context.Context, o apiv1.Options) (apiv1.KeyManager, error) {
		if o.URI == "fakekms:empty" {
			return fakeKMS{}, nil
		}
		return fakeKMS{key: hanging{Signer: key}}, nil
	})
	got, err := OpenKey(t.Context(), "fakekms:slot=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	samePublic(t, key, got)
	if _, err := OpenKey(t.Context(), "fakekms:empty", nil); err == nil {
		t.Error("a slot without key was opened")
	}
}

// broken is a device whose driver panics while it is not well.
type broken struct {
	crypto.Signer
	well *bool
}

func (b broken) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if !*b.well {
		panic("index out of range")
	}
	return b.Signer.Sign(rand, digest, opts)
}

// A driver that panics ends neither the process nor, in the end, the room for signatures.
func TestGateSurvivesPanics(t *testing.T) {
	well := false
	g := newGate(broken{mustKey(t, ca.P256), &well})
	sum := sha256.Sum256([]byte("text"))
	for range 2 * maxInFlight {
		if _, err := g.Sign(rand.Reader, sum[:], crypto.SHA256); !errors.Is(err, ca.ErrSignerAway) {
			t.Fatalf("while its driver panics: %v", err)
		}
	}
	well = true
	if _, err := g.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
