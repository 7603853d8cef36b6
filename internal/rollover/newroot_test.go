package rollover_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/rollover"
	"github.com/pkid/pkid/internal/stepca"
)

// What the root before must say of a new one is what clients look for, and it must be true from now until the new
// issuing CA signs.
func TestNewRootIsVouchedFor(t *testing.T) {
	h, next := newHouse(t), newHouse(t)
	i := h.request()
	below, err := stepca.SignIssuerRequest(next.spec(), next.root, next.rootKey, i.Key.Request)
	if err != nil {
		t.Fatal(err)
	}
	cross := func(alter func(*x509.Certificate)) *x509.Certificate {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(7), RawSubject: next.root.RawSubject, SubjectKeyId: next.root.SubjectKeyId, IsCA: true, BasicConstraintsValid: true, MaxPathLen: -1,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: h.now.Add(-time.Hour), NotAfter: h.now.Add(1000 * time.Hour),
		}
		alter(template)
		der, err := x509.CreateCertificate(rand.Reader, template, h.root, next.root.PublicKey, h.rootKey)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	for name, tt := range map[string]struct {
		chain *x509.Certificate
		lead  time.Duration
		want  string
	}{
		"no CAs below":                    {cross(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }), 0, "cross-signed"},
		"some names only":                 {cross(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"x.test"} }), 0, "cross-signed"},
		"one purpose only":                {cross(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), 0, "cross-signed"},
		"not yet":                         {cross(func(c *x509.Certificate) { c.NotBefore = h.now.Add(time.Hour) }), 0, "not now"},
		"no longer":                       {cross(func(c *x509.Certificate) { c.NotAfter = h.now.Add(-time.Second) }), 0, "not now"},
		"the issuing CA and not the root": {h.sign(i), 0, "cross-signed"}, // both roots signed it, and one that nobody vouches for would be in invitations
	} {
		in := rollover.Installation{Certificate: below, Root: next.root, Chain: []*x509.Certificate{tt.chain}}
		if _, err := h.Install(t.Context(), i.ID(), in, tt.lead); !errors.Is(err, rollover.ErrRefused) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}

	in := rollover.Installation{Certificate: below, Root: next.root, Chain: []*x509.Certificate{cross(func(*x509.Certificate) {})}}
	if _, err := h.Install(t.Context(), i.ID(), in, 1001*time.Hour); !errors.Is(err, rollover.ErrRefused) || !strings.Contains(err.Error(), "expires before") {
		t.Errorf("a cross certificate that ends before the issuing CA begins: %v", err)
	}
	if _, err := h.Install(t.Context(), i.ID(), in, 0); err != nil {
		t.Error(err)
	}
}

// Every way that a client may take is checked, not only that to the issuing CA's own root.
func TestInstallChecksEachWay(t *testing.T) {
	h, next := newHouse(t), newHouse(t)
	var seen []*x509.Certificate
	h.c.Check = func(way []*x509.Certificate) error {
		anchor := way[len(way)-1]
		seen = append(seen, anchor)
		if anchor.Equal(h.root) {
			return errors.New("not that way")
		}
		return nil
	}
	h.Issuers = rollover.NewIssuers(h.c)
	i := h.request()
	below, err := stepca.SignIssuerRequest(next.spec(), next.root, next.rootKey, i.Key.Request)
	if err != nil {
		t.Fatal(err)
	}
	cross, err := stepca.CrossSign(h.spec(), next.root, h.root, h.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	in := rollover.Installation{Certificate: below, Root: next.root, Chain: []*x509.Certificate{cross}}
	if _, err := h.Install(t.Context(), i.ID(), in, 0); err == nil || !strings.Contains(err.Error(), "not that way") {
		t.Errorf("got %v", err)
	}
	if len(seen) != 2 || !seen[0].Equal(next.root) || !seen[1].Equal(h.root) {
		t.Errorf("%d ways were checked", len(seen))
	}
}

// What stands in the ring counts, also where it is another than this node has read under that id: a key in a device that
// was dropped and asked for again, or a store that was restored.
func TestTheRingCounts(t *testing.T) {
	h := newHouse(t)
	h.c.Follow = func(context.Context, string) error { return errors.New("the node was stopped") }
	h.Issuers = rollover.NewIssuers(h.c)
	i := h.request()
	first, second := h.sign(i), h.sign(i)
	if _, err := h.Install(t.Context(), i.ID(), rollover.Installation{Certificate: first}, 0); err == nil {
		t.Fatal("installed")
	}
	k := h.all()[1].Key
	if err := h.Drop(t.Context(), i.ID()); err != nil {
		t.Fatal(err)
	}
	k.Certificate, k.Version = second.Raw, 0
	if _, err := h.store.PutKey(t.Context(), k, audit.Event{Time: h.now, Action: audit.KeyAdd, Subject: k.ID}); err != nil {
		t.Fatal(err)
	}
	if got := h.all()[1].Signer.Certificate(); !got.Equal(second) {
		t.Error("an issuing CA has the certificate that it had before it was dropped")
	}

	tk := newTokens(t)
	if _, err := tk.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	ring, err := tk.store.Keys(t.Context(), "tokens")
	if err != nil || len(ring) != 1 {
		t.Fatal(len(ring), err)
	}
	other := newKey(t)
	restored := ring[0]
	restored.Version = 0
	if restored.Sealed, err = stepca.SealKey(other, passphrase); err != nil {
		t.Fatal(err)
	}
	event := audit.Event{Time: h.now, Action: audit.KeyDrop, Subject: restored.ID}
	if err := tk.store.DropKey(t.Context(), restored.ID, event); err != nil {
		t.Fatal(err)
	}
	if _, err := tk.store.PutKey(t.Context(), restored, event); err != nil {
		t.Fatal(err)
	}
	all, err := tk.Tokens.All(t.Context())
	if err != nil || len(all) != 2 || !other.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(all[1].Key.Public()) {
		t.Errorf("%d keys, %v: the one of before the restore", len(all), err)
	}
}

// A drop that was interrupted is done again, and nothing is installed meanwhile.
func TestInterruptedDrop(t *testing.T) {
	h := newHouse(t)
	i := h.request()
	k := i.Key
	k.EndsAt = h.now
	if _, err := h.store.PutKey(t.Context(), k, audit.Event{Time: h.now, Action: audit.KeyChange, Subject: k.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Install(t.Context(), i.ID(), rollover.Installation{Certificate: h.sign(i)}, 0); !errors.Is(err, rollover.ErrState) || len(h.all()[1].Key.Certificate) > 0 {
		t.Errorf("got %v", err)
	}
	if err := h.Drop(t.Context(), i.ID()); err != nil || len(h.all()) != 1 {
		t.Errorf("again: %v, %d left", err, len(h.all()))
	}
}
