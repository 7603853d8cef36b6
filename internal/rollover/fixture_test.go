package rollover_test

import (
	"crypto"
	"crypto/x509"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/rollover"
	"github.com/pkid/pkid/internal/stepca"
	"github.com/pkid/pkid/thumbprint"
)

const listLifetime = time.Hour

var passphrase = []byte("of the keys")

// house is a CA with a store and a clock that the test sets.
type house struct {
	t       *testing.T
	now     time.Time
	store   *boltstore.Store
	root    *x509.Certificate
	rootKey crypto.Signer
	first   *ca.Issuer
	c       rollover.IssuersConfig
	*rollover.Issuers
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := stepca.GenerateKey(ca.P256)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, now: time.Now().UTC().Truncate(time.Second), rootKey: newKey(t)}
	clock := func() time.Time { return h.now }
	var err error
	if h.root, err = stepca.CreateRoot(h.spec(), h.rootKey); err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	cert, err := stepca.CreateIssuer(h.spec(), h.root, h.rootKey, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := stepca.NewSigner(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	h.first = &ca.Issuer{Signer: signer, Root: h.root, CRLURL: "http://pki.test/first.crl", AIAURL: "http://pki.test/first.crt"}
	h.store, err = boltstore.Open(filepath.Join(t.TempDir(), "pkid.db"), boltstore.Options{Create: true, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.store.Close(); err != nil {
			t.Error(err)
		}
	})
	h.c = rollover.IssuersConfig{
		Store: h.store, First: h.first, Passphrase: passphrase, Name: "Test", ListLifetime: listLifetime, Now: clock,
		URLs: func(id string) (crl, aia string) {
			return "http://pki.test/" + id + ".crl", "http://pki.test/" + id + ".crt"
		},
	}
	h.Issuers = rollover.NewIssuers(h.c)
	return h
}

func (h *house) spec() stepca.CeremonySpec {
	return stepca.CeremonySpec{
		Name: "Test", RootCRLURL: "http://pki.test/root.crl", RootAIAURL: "http://pki.test/root.crt", Now: func() time.Time { return h.now },
	}
}

// request asks for an issuing CA.
func (h *house) request() *rollover.Issuer {
	h.t.Helper()
	i, err := h.Request(h.t.Context(), rollover.Request{})
	if err != nil {
		h.t.Fatal(err)
	}
	return i
}

// sign has the root sign a request.
func (h *house) sign(i *rollover.Issuer) *x509.Certificate {
	h.t.Helper()
	cert, err := stepca.SignIssuerRequest(h.spec(), h.root, h.rootKey, i.Key.Request)
	if err != nil {
		h.t.Fatal(err)
	}
	return cert
}

// rotate brings another issuing CA into service.
func (h *house) rotate(lead time.Duration) *rollover.Issuer {
	h.t.Helper()
	i := h.request()
	i, err := h.Install(h.t.Context(), i.ID(), rollover.Installation{Certificate: h.sign(i)}, lead)
	if err != nil {
		h.t.Fatal(err)
	}
	return i
}

// states returns what each issuing CA does now.
func (h *house) states() (out []rollover.State) {
	h.t.Helper()
	for _, i := range h.all() {
		out = append(out, i.State)
	}
	return out
}

func (h *house) all() []rollover.Issuer {
	h.t.Helper()
	all, err := h.All(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

// issue records a certificate of an issuing CA that expires in a while.
func (h *house) issue(issuer string, in time.Duration) {
	h.t.Helper()
	der := []byte(issuer + h.now.String() + in.String())
	t := thumbprint.OfDER(der)
	rec := &ca.Record{
		Serial: ca.Serial(t[:16]), Issuer: issuer, ClientID: "x", Profile: "client", DER: der, Thumbprint: t,
		NotBefore: h.now, NotAfter: h.now.Add(in), IssuedAt: h.now,
	}
	if err := h.store.Insert(h.t.Context(), rec, nil, audit.Event{Time: h.now, Action: audit.Issue, Subject: "x"}); err != nil {
		h.t.Fatal(err)
	}
}
