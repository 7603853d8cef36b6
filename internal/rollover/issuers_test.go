package rollover_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/rollover"
	"github.com/pkid/pkid/internal/stepca"
)

// The life of three issuing CAs, from the request to the end.
func TestIssuersOverTime(t *testing.T) {
	h := newHouse(t)
	want := func(states ...rollover.State) {
		t.Helper()
		if got := h.states(); !slices.Equal(got, states) {
			t.Errorf("at %s: %v, want %v", h.now, got, states)
		}
	}
	h.issue(h.first.ID(), 24*time.Hour)
	want(rollover.Active)
	second := h.request()
	want(rollover.Active, rollover.Requested)
	installed, err := h.Install(t.Context(), second.ID(), rollover.Installation{Certificate: h.sign(second)}, 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	want(rollover.Active, rollover.Waiting)
	if !installed.Since.Equal(h.now.Add(10*time.Minute)) || !h.all()[0].Until.Equal(installed.Since) {
		t.Errorf("from %s, the first until %s", installed.Since, h.all()[0].Until)
	}
	third := h.rotate(time.Hour) // before the second is active
	want(rollover.Active, rollover.Waiting, rollover.Waiting)
	h.now = h.now.Add(10 * time.Minute)
	want(rollover.Retiring, rollover.Active, rollover.Waiting)
	h.issue(second.ID(), 2*time.Hour)
	h.now = third.Since
	want(rollover.Retiring, rollover.Retiring, rollover.Active)

	for n, i := range h.all()[:2] { // until the last list that speaks of its last certificate is over
		if want := i.LastExpiry.Add(2 * listLifetime); !i.End.Equal(want) || i.Issued != 1 {
			t.Errorf("issuer %d ends at %s, want %s; %d issued", n, i.End, want, i.Issued)
		}
	}
	h.now = h.all()[1].End.Add(-time.Second)
	want(rollover.Retiring, rollover.Retiring, rollover.Active)
	h.now = h.all()[1].End
	want(rollover.Retiring, rollover.Ended, rollover.Active)
	if err := h.Bury(t.Context(), h.all()); err != nil {
		t.Fatal(err)
	}
	ended := h.all()[1]
	if len(ended.Key.Sealed) != 0 || ended.State != rollover.Ended || ended.Signer.Certificate() == nil {
		t.Errorf("after its end: %+v", ended)
	}
	h.Issuers = rollover.NewIssuers(h.c) // a restart has not kept the key either
	if _, err := h.all()[1].Signer.SignCRL(t.Context(), ca.TBSCertList{}); !errors.Is(err, ca.ErrSignerAway) {
		t.Errorf("signing after the end: %v", err)
	}
	h.now = h.all()[0].End
	want(rollover.Ended, rollover.Ended, rollover.Active)
	if err := h.Bury(t.Context(), h.all()); err != nil { // the first one's key is a file, and the operator's to remove
		t.Fatal(err)
	}
}

// An interruption after any step of an installation leaves something that the same call completes, and until then the
// one before signs.
func TestInstallGoesOn(t *testing.T) {
	h := newHouse(t)
	fail := errors.New("the node was stopped")
	var calls int
	h.c.Follow = func(context.Context, string) error {
		if calls++; calls == 1 {
			return fail
		}
		return nil
	}
	h.Issuers = rollover.NewIssuers(h.c)
	i := h.request()
	in := rollover.Installation{Certificate: h.sign(i)}
	if _, err := h.Install(t.Context(), i.ID(), in, 0); !errors.Is(err, fail) {
		t.Fatalf("got %v, want the failure to publish", err)
	}
	if got := h.states(); got[0] != rollover.Active || got[1] != rollover.Installed {
		t.Errorf("states %v", got)
	}
	h.now = h.now.Add(1000 * time.Hour) // however long it takes
	if got := h.all()[1]; got.State != rollover.Installed || !got.From.After(h.now.AddDate(1000, 0, 0)) {
		t.Errorf("without an instant it is %s, from %s", got.State, got.From)
	}
	h.Issuers = rollover.NewIssuers(h.c)
	other := h.sign(i)
	if _, err := h.Install(t.Context(), i.ID(), rollover.Installation{Certificate: other}, 0); !errors.Is(err, rollover.ErrState) {
		t.Errorf("another certificate: %v", err)
	}
	done, err := h.Install(t.Context(), i.ID(), in, 0)
	if err != nil || done.State != rollover.Active {
		t.Fatalf("going on: %+v, %v", done, err)
	}
	again, err := h.Install(t.Context(), i.ID(), in, time.Hour)
	if err != nil || !again.Since.Equal(done.Since) {
		t.Errorf("once more: from %s, %v; want %s as before", again.Since, err, done.Since)
	}
}

// Nodes that share a store get the time that they need, whatever the operator asks for.
func TestInstallLeavesTheNodesTime(t *testing.T) {
	h := newHouse(t)
	h.c.Lead = time.Minute
	h.Issuers = rollover.NewIssuers(h.c)
	if i := h.rotate(0); !i.Since.Equal(h.now.Add(time.Minute)) {
		t.Errorf("from %s, want a minute from %s", i.Since, h.now)
	}
	other := rollover.NewIssuers(h.c) // another node reads the same
	all, err := other.All(t.Context())
	if err != nil || len(all) != 2 || !all[1].Since.Equal(h.all()[1].Since) || all[1].ID() != h.all()[1].ID() {
		t.Errorf("another node: %+v, %v", all, err)
	}
}

func TestInstallRefuses(t *testing.T) {
	h := newHouse(t)
	i, other := h.request(), newHouse(t)
	good := h.sign(i)
	cross, err := stepca.CrossSign(h.spec(), other.root, h.root, h.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	below, err := stepca.SignIssuerRequest(other.spec(), other.root, other.rootKey, i.Key.Request)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := stepca.CreateRootCRL(other.root, other.rootKey, big.NewInt(1), h.now, h.now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	stale, err := stepca.CreateRootCRL(h.root, h.rootKey, big.NewInt(1), h.now.Add(-2*time.Hour), h.now.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		in   rollover.Installation
		want string
	}{
		"another key's":                  {rollover.Installation{Certificate: h.sign(h.request())}, "not that of certificate"},
		"a root that is not vouched for": {rollover.Installation{Certificate: below, Root: other.root}, "cross-signed"},
		"a root that signed nothing":     {rollover.Installation{Certificate: good, Root: other.root, Chain: []*x509.Certificate{cross}}, "no chain to"},
		"another CA's CRL":               {rollover.Installation{Certificate: good, RootCRL: foreign}, "the CRL of"},
		"a CRL that is over":             {rollover.Installation{Certificate: good, RootCRL: stale}, "past its nextUpdate"},
		"no CRL":                         {rollover.Installation{Certificate: good, RootCRL: []byte("x")}, "the CRL of"},
		"a long chain":                   {rollover.Installation{Certificate: good, Chain: slices.Repeat([]*x509.Certificate{cross}, 7)}, "chain of 7"},
	} {
		if _, err := h.Install(t.Context(), i.ID(), tt.in, 0); !errors.Is(err, rollover.ErrRefused) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
	if _, err := h.Install(t.Context(), "0011223344556677", rollover.Installation{Certificate: good}, 0); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("an unknown id: %v", err)
	}
	if _, err := h.Install(t.Context(), i.ID(), rollover.Installation{Certificate: good}, -time.Second); !errors.Is(err, rollover.ErrRefused) {
		t.Errorf("into the past: %v", err)
	}
	h.now = h.now.Add(stepca.DefaultIssuerLifetime)
	if _, err := h.Install(t.Context(), i.ID(), rollover.Installation{Certificate: good}, 0); !errors.Is(err, rollover.ErrRefused) {
		t.Errorf("after its time: %v", err)
	}
	if got := h.states(); got[0] != rollover.Active || got[1] != rollover.Requested {
		t.Errorf("states %v after refusals", got)
	}
}

// A new root comes with a certificate by the one before, and both lead to the issuing CA.
func TestInstallBelowANewRoot(t *testing.T) {
	h, next := newHouse(t), newHouse(t)
	i := h.request()
	cross, err := stepca.CrossSign(h.spec(), next.root, h.root, h.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := stepca.SignIssuerRequest(next.spec(), next.root, next.rootKey, i.Key.Request)
	if err != nil {
		t.Fatal(err)
	}
	done, err := h.Install(t.Context(), i.ID(), rollover.Installation{Certificate: cert, Root: next.root, Chain: []*x509.Certificate{cross}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(done.Intermediates) != 0 || len(done.Cross) != 1 || !done.Root.Equal(next.root) || len(done.Chain()) != 2 {
		t.Errorf("chain: between %d, cross %d, root %q", len(done.Intermediates), len(done.Cross), done.Root.Subject)
	}
}

func TestRequests(t *testing.T) {
	h := newHouse(t)
	i := h.request()
	req, err := x509.ParseCertificateRequest(i.Key.Request)
	if err != nil || req.CheckSignature() != nil {
		t.Fatal(err)
	}
	if want := "Test Issuing CA " + i.ID()[:8]; req.Subject.CommonName != want || ca.IssuerID(h.sign(i)) != i.ID() {
		t.Errorf("subject %q, want %q; id %s of a certificate, want %s", req.Subject.CommonName, want, ca.IssuerID(h.sign(i)), i.ID())
	}
	for _, in := range []rollover.Request{{KeyType: "DSA"}, {KeyURI: "file:/etc/passwd"}, {KeyURI: "keys/root.key"}, {KeyURI: "nothing:x"}} {
		if _, err := h.Request(t.Context(), in); !errors.Is(err, rollover.ErrRefused) {
			t.Errorf("%+v: %v", in, err)
		}
	}
	if err := h.Drop(t.Context(), i.ID()); err != nil {
		t.Error(err)
	}
	active := h.rotate(0)
	if err := h.Drop(t.Context(), active.ID()); !errors.Is(err, rollover.ErrState) {
		t.Errorf("dropping the active one: %v", err)
	}
	if err := h.Drop(t.Context(), h.first.ID()); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("dropping the first one: %v", err)
	}
	for n := len(h.all()); n < 16; n++ {
		h.request()
	}
	if _, err := h.Request(t.Context(), rollover.Request{}); !errors.Is(err, rollover.ErrState) {
		t.Errorf("a seventeenth: %v", err)
	}
}

// A passphrase that opens nothing keeps an issuing CA from signing, and not from being known.
func TestIssuersWithoutTheirKey(t *testing.T) {
	h := newHouse(t)
	active := h.rotate(0)
	h.c.Passphrase = []byte("another")
	h.Issuers = rollover.NewIssuers(h.c)
	all, err := h.All(t.Context())
	if err == nil || !errors.Is(err, stepca.ErrPassphrase) || len(all) != 2 {
		t.Fatalf("%d issuing CAs, %v", len(all), err)
	}
	if all[1].ID() != active.ID() || all[1].State != rollover.Active {
		t.Errorf("%s is %s", all[1].ID(), all[1].State)
	}
	if _, err := all[1].Signer.SignCertificate(t.Context(), ca.TBSCertificate{}); !errors.Is(err, ca.ErrSignerAway) {
		t.Errorf("signing: %v", err)
	}
	if text := fmt.Sprint(err); strings.Contains(text, "another") {
		t.Errorf("the error has the passphrase: %s", text)
	}
}

// The next key is not less guarded than the first one's by mistake.
func TestRequestBesideADevice(t *testing.T) {
	h := newHouse(t)
	h.c.InDevice = true
	h.Issuers = rollover.NewIssuers(h.c)
	if _, err := h.Request(t.Context(), rollover.Request{}); !errors.Is(err, rollover.ErrRefused) || !strings.Contains(err.Error(), "--key") {
		t.Errorf("without a word: %v", err)
	}
	if _, err := h.Request(t.Context(), rollover.Request{KeyType: ca.P384}); err != nil {
		t.Errorf("asked for: %v", err)
	}
}

// An operator asks over the network, and has pkid load no library that its configuration does not name.
func TestRequestLoadsNoLibrary(t *testing.T) {
	h := newHouse(t)
	_, err := h.Request(t.Context(), rollover.Request{KeyURI: "pkcs11:module-path=/tmp/any.so;token=x;id=01;object=x"})
	if !errors.Is(err, rollover.ErrRefused) || !strings.Contains(err.Error(), "pkid.yaml") {
		t.Errorf("got %v", err)
	}
}
