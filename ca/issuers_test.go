package ca_test

import (
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/stepca"
)

// rotation is a bench with more issuing CAs below its root.
type rotation struct {
	*bench
	issuers []*ca.Issuer
}

// add makes an issuing CA that signs from an instant on.
func (r *rotation) add(name string, from time.Time) *ca.Issuer {
	r.t.Helper()
	key := newKey(r.t)
	spec := stepca.CeremonySpec{
		Name: name, RootCRLURL: "http://pki.test/root.crl", RootAIAURL: "http://pki.test/root.crt", Now: func() time.Time { return r.now },
	}
	cert, err := stepca.CreateIssuer(spec, r.root, r.rootKey, key.Public())
	if err != nil {
		r.t.Fatal(err)
	}
	signer, err := stepca.NewSigner(cert, key)
	if err != nil {
		r.t.Fatal(err)
	}
	i := &ca.Issuer{Signer: signer, Root: r.root, CRLURL: "http://pki.test/" + name + ".crl", AIAURL: "http://pki.test/" + name + ".crt", From: from}
	r.issuers = append(r.issuers, i)
	if err := r.SetIssuers(r.issuers...); err != nil {
		r.t.Fatal(err)
	}
	return i
}

func newRotation(t testing.TB) *rotation {
	r := &rotation{bench: newBench(t)}
	r.issuers = []*ca.Issuer{r.Issuer()}
	return r
}

func (r *rotation) signedBy(issued *ca.Issued, want *ca.Issuer) {
	r.t.Helper()
	cert := leaf(r.t, issued)
	if err := cert.CheckSignatureFrom(want.Signer.Certificate()); err != nil {
		r.t.Error(err)
	}
	if issued.Record.Issuer != want.ID() || !slices.Equal(cert.CRLDistributionPoints, []string{want.CRLURL}) ||
		!slices.Equal(cert.IssuingCertificateURL, []string{want.AIAURL}) || !issued.Chain[0].Equal(want.Signer.Certificate()) {
		r.t.Errorf("issuer %s, CRL at %s, chain of %q; want those of %s", issued.Record.Issuer, cert.CRLDistributionPoints, issued.Chain[0].Subject, want.ID())
	}
	roots, above := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(r.root)
	for _, c := range issued.Chain {
		above.AddCert(c)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: above, CurrentTime: r.now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		r.t.Error(err)
	}
}

// Each of three issuers signs in its time, and each certificate keeps its own chain and CRL.
func TestIssuersByTheClock(t *testing.T) {
	r := newRotation(t)
	a := r.issuers[0]
	first := r.issue()
	r.signedBy(first, a)

	c := r.add("third", start.Add(2*time.Hour)) // known long before its time, and before that of the one before it
	b := r.add("second", start.Add(time.Hour))
	r.signedBy(r.issue(), a)

	r.now = start.Add(time.Hour)
	second := r.issue()
	r.signedBy(second, b)
	renewed, err := r.Renew(t.Context(), ca.Renewal{Current: leaf(t, first), Record: first.Record, Key: r.request(newCSR(t, newKey(t), nil)).Key})
	if err != nil {
		t.Fatal(err)
	}
	r.signedBy(renewed, b)
	if renewed.Record.Parent != first.Record.Serial {
		t.Error("the renewal does not name what it renews")
	}

	r.now = start.Add(2*time.Hour - time.Millisecond)
	r.signedBy(r.issue(), b)
	r.now = start.Add(2 * time.Hour)
	r.signedBy(r.issue(), c)
	if r.Issuer() != c {
		t.Errorf("Issuer is %s, want the third", r.Issuer().ID())
	}
	again, err := r.Issued(t.Context(), first.Record.Serial)
	if err != nil {
		t.Fatal(err)
	}
	r.signedBy(again, a)
}

// A revocation concerns the CRL of the certificate's own issuer, which signs its lists before and after its time.
func TestIssuersRevokeEachItsOwn(t *testing.T) {
	r := newRotation(t)
	a, first := r.issuers[0], r.issue()
	b := r.add("second", start.Add(time.Hour))
	r.now = start.Add(2 * time.Hour)
	second := r.issue()
	for _, issued := range []*ca.Issued{first, second} {
		r.changedIssuer = ""
		if err := r.revoke(issued.Record.Serial, ca.KeyCompromise); err != nil || r.changedIssuer != issued.Record.Issuer {
			t.Errorf("revoking: %v; the CRL of %q changed, want that of %s", err, r.changedIssuer, issued.Record.Issuer)
		}
	}
	c := r.add("third", r.now.Add(time.Hour))
	for _, i := range []*ca.Issuer{a, b, c} {
		cert := i.Signer.Certificate()
		key := r.signer.key
		if i != a {
			key = newKey(t) // of tbsOf's own signature, which is not looked at
		}
		if _, err := r.SignCRL(t.Context(), i.ID(), [][]byte{tbsOf(t, cert, key, start, 1)}); err != nil {
			t.Errorf("CRL of %q: %v", cert.Subject, err)
		}
	}
	if _, err := r.SignCRL(t.Context(), a.ID(), [][]byte{tbsOf(t, b.Signer.Certificate(), newKey(t), start, 1)}); err == nil {
		t.Error("one issuer's CRL was signed with another's key")
	}
}

// What is not known any more has neither chain nor CRL.
func TestIssuersThatEnded(t *testing.T) {
	r := newRotation(t)
	first := r.issue()
	r.add("second", start)
	if err := r.SetIssuers(r.issuers[1]); err != nil {
		t.Fatal(err)
	}
	if err := r.revoke(first.Record.Serial, ca.KeyCompromise); !errors.Is(err, ca.ErrIssuer) {
		t.Errorf("revoking: %v", err)
	}
	if _, err := r.Issued(t.Context(), first.Record.Serial); !errors.Is(err, ca.ErrIssuer) {
		t.Errorf("showing it: %v", err)
	}
	r.signedBy(r.issue(), r.issuers[1])
}

func TestSetIssuersRefuses(t *testing.T) {
	r := newRotation(t)
	a, other := r.issuers[0], newBench(t)
	foreign, nowhere := *a, *a
	foreign.Root, nowhere.CRLURL = other.root, ""
	for name, list := range map[string][]*ca.Issuer{
		"none": nil, "one that is nil": {a, nil}, "the same twice": {a, a}, "another's root": {a, &foreign}, "no CRL": {a, &nowhere},
	} {
		if err := r.SetIssuers(list...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	r.signedBy(r.issue(), a)
}

// Those who trust the old root and those who trust the new one find their way with the same chain.
func TestCrossSigned(t *testing.T) {
	old, now := newBench(t), newBench(t)
	spec := stepca.CeremonySpec{Name: "Test", RootCRLURL: "http://pki.test/root.crl", RootAIAURL: "http://pki.test/root.crt", Now: func() time.Time { return start }}
	cross, err := stepca.CrossSign(spec, now.root, old.root, old.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	i := *now.Issuer()
	if err := i.LeadsTo(old.root); err == nil {
		t.Error("a way to a root that signed nothing")
	}
	i.Cross = []*x509.Certificate{cross}
	for _, root := range []*x509.Certificate{old.root, now.root} {
		if err := i.LeadsTo(root); err != nil {
			t.Error(err)
		}
	}
	if err := i.LeadsTo(newBench(t).root); err == nil {
		t.Error("a way to somebody else's root")
	}
}
