package ca_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/stepca"
)

var start = time.Date(2030, 1, 2, 3, 4, 5, 678_900_000, time.UTC)

// keys holds one key of each type: RSA keys take seconds to make.
var keys = sync.OnceValue(func() map[ca.KeyType]crypto.Signer {
	out := map[ca.KeyType]crypto.Signer{}
	for _, kind := range ca.KeyTypes {
		key, err := stepca.GenerateKey(kind)
		if err != nil {
			panic(err)
		}
		out[kind] = key
	}
	return out
})

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := stepca.GenerateKey(ca.P256)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// bench is an authority with the real signer and store, a clock that the test sets, and seams where faults go.
type bench struct {
	*ca.Authority
	t       testing.TB
	now     time.Time
	store   *faultyStore
	signer  *lyingSigner
	root    *x509.Certificate
	rootKey crypto.Signer

	changes       int
	changedIssuer string // of the last one
}

func newBench(t testing.TB) *bench {
	t.Helper()
	return newBenchAt(t, start, newKey(t))
}

func newBenchAt(t testing.TB, now time.Time, issuerKey crypto.Signer) *bench {
	t.Helper()
	b := &bench{t: t, now: now}
	clock := func() time.Time { return b.now }
	spec := stepca.CeremonySpec{Name: "Test", RootCRLURL: "http://pki.test/root.crl", RootAIAURL: "http://pki.test/root.crt", Now: clock}
	rootKey := newKey(t)
	root, err := stepca.CreateRoot(spec, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := stepca.CreateIssuer(spec, root, rootKey, issuerKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := stepca.NewSigner(cert, issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	store, err := boltstore.Open(filepath.Join(t.TempDir(), "pkid.db"), boltstore.Options{Create: true, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	b.root, b.rootKey = root, rootKey
	b.store = &faultyStore{Store: store, bolt: store}
	b.signer = &lyingSigner{Signer: signer, key: issuerKey}
	b.restart()
	return b
}

// restart makes a new authority over the same store, as after a crash.
func (b *bench) restart() {
	b.t.Helper()
	anyName := stepca.NameRules{CommonNames: []string{"*"}, DNS: []string{"*.example.com"}, IPs: []string{"10.0.0.0/8"}, URIs: []string{"*"}, Emails: []string{"*"}}
	policy, err := stepca.NewNamePolicy(anyName)
	if err != nil {
		b.t.Fatal(err)
	}
	var profiles []*ca.Profile
	for _, c := range []ca.ProfileConfig{
		{Name: "client", Lifetime: 24 * time.Hour, MaxLifetime: 48 * time.Hour, KeyTypes: ca.KeyTypes, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, Policy: policy},
		{Name: "ed", Lifetime: time.Hour, KeyTypes: []ca.KeyType{ca.Ed25519}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, Policy: policy},
		{Name: "any", Lifetime: time.Hour, MaxLifetime: ca.MaxLifetime, KeyTypes: ca.KeyTypes, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, Policy: permitAll{}},
	} {
		p, err := ca.NewProfile(c)
		if err != nil {
			b.t.Fatal(err)
		}
		profiles = append(profiles, p)
	}
	b.Authority, err = ca.New(ca.Config{
		Issuer:   &ca.Issuer{Signer: b.signer, Root: b.root, CRLURL: "http://pki.test/issuing.crl", AIAURL: "http://pki.test/issuing.crt", OCSPURL: "http://pki.test/ocsp"},
		Store:    b.store,
		Profiles: profiles,
		Changed:  func(issuer string, _ uint32) { b.changes++; b.changedIssuer = issuer },
		Now:      func() time.Time { return b.now },
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) request(csr []byte) ca.Request {
	b.t.Helper()
	key, err := ca.ProveCSR(csr)
	if err != nil {
		b.t.Fatal(err)
	}
	return ca.Request{
		Profile: "client", ClientID: "billing", Key: key,
		Names: ca.Names{CommonName: "billing", DNS: []string{"billing.example.com"}},
	}
}

func (b *bench) issue() *ca.Issued {
	b.t.Helper()
	issued, err := b.Issue(b.t.Context(), b.request(newCSR(b.t, newKey(b.t), nil)))
	if err != nil {
		b.t.Fatal(err)
	}
	return issued
}

func (b *bench) count() int {
	b.t.Helper()
	page, err := b.List(b.t.Context(), ca.Query{Limit: 1000})
	if err != nil {
		b.t.Fatal(err)
	}
	return len(page.Records)
}

// invite records an invitation, so that a certificate can use it up.
func (b *bench) invite(id string) {
	b.t.Helper()
	inv := &enroll.Invitation{
		ID: id, ClientID: "billing", Profile: "client", Names: ca.Names{CommonName: "billing"},
		CreatedAt: b.now, ExpiresAt: b.now.Add(time.Hour),
	}
	if err := b.store.bolt.PutInvitation(b.t.Context(), inv, audit.Event{Time: b.now, Action: audit.Invite, Subject: id}); err != nil {
		b.t.Fatal(err)
	}
}

func newCSR(t testing.TB, key crypto.Signer, template *x509.CertificateRequest) []byte {
	t.Helper()
	if template == nil {
		template = &x509.CertificateRequest{Subject: pkix.Name{CommonName: "someone"}}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func leaf(t testing.TB, issued *ca.Issued) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(issued.Record.DER)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

var errFault = errors.New("the disk is full")

// faultyStore fails where a test says: before the real store was asked, or after it has kept everything.
type faultyStore struct {
	ca.Store
	bolt          *boltstore.Store
	before, after bool
	duplicates    int    // how many serials to call taken
	page          int    // the most that a List returns, if set
	onInsert      func() // called before the real Insert
	onDecide      func() // called after the real Decide
}

func (s *faultyStore) Insert(ctx context.Context, rec *ca.Record, spend *ca.Spend, ev audit.Event) error {
	if s.onInsert != nil {
		s.onInsert()
	}
	if s.duplicates > 0 {
		s.duplicates--
		return ca.ErrDuplicate
	}
	return s.faulty(func() error { return s.Store.Insert(ctx, rec, spend, ev) })
}

func (s *faultyStore) List(ctx context.Context, q ca.Query) (*ca.Page, error) {
	if s.page > 0 {
		q.Limit = min(q.Limit, s.page)
	}
	return s.Store.List(ctx, q)
}

func (s *faultyStore) Decide(ctx context.Context, serial ca.Serial, decide func(*ca.Record) (*ca.Revocation, audit.Event, error)) (rec *ca.Record, err error) {
	err = s.faulty(func() (err error) {
		rec, err = s.Store.Decide(ctx, serial, decide)
		if s.onDecide != nil {
			s.onDecide()
		}
		return err
	})
	return rec, err
}

func (s *faultyStore) faulty(act func() error) error {
	if s.before {
		return errFault
	}
	if err := act(); err != nil || !s.after {
		return err
	}
	return errFault
}
