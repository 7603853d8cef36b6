package ca_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
)

func TestIssueEachKeyType(t *testing.T) {
	b := newBench(t)
	for kind, key := range keys() {
		t.Run(string(kind), func(t *testing.T) {
			issued, err := b.Issue(t.Context(), b.request(newCSR(t, key, nil)))
			if err != nil {
				t.Fatal(err)
			}
			cert := leaf(t, issued)
			roots, between := x509.NewCertPool(), x509.NewCertPool()
			roots.AddCert(issued.Root)
			for _, c := range issued.Chain {
				between.AddCert(c)
			}
			if _, err := cert.Verify(x509.VerifyOptions{
				Roots: roots, Intermediates: between, CurrentTime: start,
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			}); err != nil {
				t.Error(err)
			}
			if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: start}); err == nil {
				t.Error("a client's certificate serves")
			}
			if got, err := ca.KeyTypeOf(cert.PublicKey); got != kind || err != nil {
				t.Errorf("key type %q, %v", got, err)
			}
			// RFC 5280 section 4.2.1.2, method 1.
			var spki struct {
				Algorithm pkix.AlgorithmIdentifier
				Key       asn1.BitString
			}
			if _, err := asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &spki); err != nil {
				t.Fatal(err)
			}
			if sum := sha1.Sum(spki.Key.Bytes); !bytes.Equal(cert.SubjectKeyId, sum[:]) {
				t.Errorf("subject key identifier %x", cert.SubjectKeyId)
			}
			rec, err := b.Lookup(t.Context(), cert)
			if err != nil || rec.Serial != issued.Record.Serial || rec.ClientID != "billing" || rec.Profile != "client" || !bytes.Equal(rec.DER, cert.Raw) {
				t.Errorf("recorded %+v, %v", rec, err)
			}
			if want := start.Truncate(time.Second).Add(24 * time.Hour); !cert.NotAfter.Equal(want) {
				t.Errorf("valid until %s, want %s", cert.NotAfter, want)
			}
		})
	}
}

// TestIssueTakesNothingFromCSR is invariant 2.
func TestIssueTakesNothingFromCSR(t *testing.T) {
	b := newBench(t)
	marshal := func(v any) []byte {
		out, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	csr := newCSR(t, newKey(t), &x509.CertificateRequest{
		Subject:        pkix.Name{CommonName: "root", Organization: []string{"Evil"}, SerialNumber: "1"},
		DNSNames:       []string{"evil.example.com", "*.example.com"},
		IPAddresses:    []net.IP{net.IPv4(10, 0, 0, 1)},
		EmailAddresses: []string{"root@example.com"},
		URIs:           []*url.URL{{Scheme: "spiffe", Host: "example.com", Path: "/root"}},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: marshal(struct{ IsCA bool }{true})},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: marshal(asn1.BitString{Bytes: []byte{0xff}, BitLength: 8})},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: marshal([]asn1.ObjectIdentifier{{2, 5, 29, 37, 0}, {1, 3, 6, 1, 5, 5, 7, 3, 1}})},
		},
	})
	issued, err := b.Issue(t.Context(), b.request(csr))
	if err != nil {
		t.Fatal(err)
	}
	cert := leaf(t, issued)
	if got := ca.NamesOf(cert); !slices.Equal(got.Text(), []string{"billing", "billing.example.com"}) || cert.Subject.String() != "CN=billing" {
		t.Errorf("names %v, subject %s", got.Text(), cert.Subject)
	}
	if cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || len(cert.UnknownExtKeyUsage) > 0 {
		t.Errorf("CA %v, usage %v, extended %v", cert.IsCA, cert.KeyUsage, cert.ExtKeyUsage)
	}
}

func TestIssueBounds(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		why    string
		change func(*ca.Request)
		want   error
	}{
		{"profile", func(r *ca.Request) { r.Profile = "none" }, ca.ErrProfile},
		{"no proof", func(r *ca.Request) { r.Key = ca.ProvenKey{} }, ca.ErrKey},
		{"key type", func(r *ca.Request) { r.Profile = "ed" }, ca.ErrKey},
		{"longest", func(r *ca.Request) { r.Lifetime = 48 * time.Hour }, nil},
		{"too long", func(r *ca.Request) { r.Lifetime = 48*time.Hour + 1 }, ca.ErrLifetime},
		{"shortest", func(r *ca.Request) { r.Lifetime = ca.MinLifetime }, nil},
		{"too short", func(r *ca.Request) { r.Lifetime = ca.MinLifetime - 1 }, ca.ErrLifetime},
		{"negative", func(r *ca.Request) { r.Lifetime = -time.Hour }, ca.ErrLifetime},
		{"no common name", func(r *ca.Request) { r.Names.CommonName = "" }, ca.ErrNames},
		{"policy", func(r *ca.Request) { r.Names.DNS = []string{"billing.example.org"} }, ca.ErrNames},
		{"policy on IP", func(r *ca.Request) { r.Names.IPs = []netip.Addr{netip.MustParseAddr("192.0.2.1")} }, ca.ErrNames},
		{"wildcard", func(r *ca.Request) { r.Names.DNS = []string{"*.example.com"} }, ca.ErrNames},
		{"invalid IP", func(r *ca.Request) { r.Names.IPs = []netip.Addr{{}} }, ca.ErrNames},
		{"mapped IP", func(r *ca.Request) { r.Names.IPs = []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1")} }, ca.ErrNames},
		{"address as DNS name", func(r *ca.Request) { r.Names.DNS = []string{"10.0.0.1"} }, ca.ErrNames},
		{"too many", func(r *ca.Request) { r.Names.DNS = slices.Repeat([]string{"a.example.com"}, 33) }, ca.ErrNames},
	} {
		t.Run(c.why, func(t *testing.T) {
			r := b.request(newCSR(t, newKey(t), nil))
			c.change(&r)
			before := b.count()
			_, err := b.Issue(t.Context(), r)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if c.want != nil && b.count() != before {
				t.Error("refused, and recorded")
			}
		})
	}
}

func TestIssueEndsWithIssuer(t *testing.T) {
	b := newBench(t)
	end := b.Issuer().Signer.Certificate().NotAfter
	b.now = end.Add(-time.Hour)
	if cert := leaf(t, b.issue()); !cert.NotAfter.Equal(end) {
		t.Errorf("valid until %s, the issuing CA until %s", cert.NotAfter, end)
	}
	b.now = end.Add(-ca.MinLifetime + 2*time.Second)
	if _, err := b.Issue(t.Context(), b.request(newCSR(t, newKey(t), nil))); !errors.Is(err, ca.ErrLifetime) {
		t.Errorf("with less than the shortest lifetime left: %v", err)
	}
}

// TestIssueOncePerInvitation is invariant 4.
func TestIssueOncePerInvitation(t *testing.T) {
	b := newBench(t)
	id := strings.Repeat("ab", 16)
	b.invite(id)
	ask := func(csr []byte) (*ca.Issued, error) {
		r := b.request(csr)
		r.Spend = &ca.Spend{ID: id, Use: r.Key.Use()}
		return b.Issue(t.Context(), r)
	}
	mine := newCSR(t, newKey(t), nil)
	first, err := ask(mine)
	if err != nil {
		t.Fatal(err)
	}
	b.now = b.now.Add(time.Minute)
	again, err := ask(mine)
	if err != nil || !bytes.Equal(again.Record.DER, first.Record.DER) {
		t.Errorf("the same request again: %v", err)
	}
	_, err = ask(newCSR(t, newKey(t), nil))
	if spent, ok := errors.AsType[*ca.SpentError](err); !ok || spent.Serial != first.Record.Serial || spent.ID != id {
		t.Errorf("another request: %v", err)
	}
	if n := b.count(); n != 1 {
		t.Errorf("one invitation gave %d certificates", n)
	}
}

// TestIssueUnderFaults: what was not recorded does not leave the process, what was recorded is found again, and
// no fault turns one invitation into two certificates.
func TestIssueUnderFaults(t *testing.T) {
	csr := newCSR(t, newKey(t), nil)
	for _, c := range []struct {
		why      string
		set      func(*bench)
		recorded int
	}{
		{"signer fails", func(b *bench) { b.signer.fail = errFault }, 0},
		{"store fails before", func(b *bench) { b.store.before = true }, 0},
		{"store fails after", func(b *bench) { b.store.after = true }, 1},
	} {
		t.Run(c.why, func(t *testing.T) {
			b := newBench(t)
			id := strings.Repeat("ab", 16)
			b.invite(id)
			ask := func() (*ca.Issued, error) {
				r := b.request(csr)
				r.Spend = &ca.Spend{ID: id, Use: r.Key.Use()}
				return b.Issue(t.Context(), r)
			}
			c.set(b)
			if issued, err := ask(); !errors.Is(err, errFault) || issued != nil {
				t.Fatalf("got %v, %v", issued, err)
			}
			if n := b.count(); n != c.recorded {
				t.Errorf("%d recorded, want %d", n, c.recorded)
			}
			b.signer.fail, b.store.before, b.store.after = nil, false, false
			b.restart()
			issued, err := ask()
			if err != nil {
				t.Fatalf("again: %v", err)
			}
			if rec, err := b.Certificate(t.Context(), issued.Record.Serial); err != nil || !bytes.Equal(rec.DER, issued.Record.DER) {
				t.Errorf("what was handed out is not what is recorded: %v", err)
			}
			if n := b.count(); n != 1 {
				t.Errorf("%d certificates for one invitation", n)
			}
		})
	}
}

func TestIssueDrawsAnotherSerial(t *testing.T) {
	b := newBench(t)
	b.store.duplicates = 2
	b.issue()
	b.store.duplicates = 3
	if _, err := b.Issue(t.Context(), b.request(newCSR(t, newKey(t), nil))); !errors.Is(err, ca.ErrDuplicate) {
		t.Errorf("got %v", err)
	}
}

func TestIssueStopsWithContext(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Issue(ctx, b.request(newCSR(t, newKey(t), nil))); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestIssueIsAudited(t *testing.T) {
	b := newBench(t)
	ctx := audit.WithActor(t.Context(), audit.Actor{Name: "alice", Address: "192.0.2.1"})
	issued, err := b.Issue(ctx, b.request(newCSR(t, newKey(t), nil)))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := b.store.bolt.Audit(t.Context(), 0, 10)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%v, %v", entries, err)
	}
	if last := entries[len(entries)-1]; last.Action != audit.Issue || last.Actor != "alice" || last.Subject != issued.Record.Serial.String() {
		t.Errorf("last entry %+v", last)
	}
}

func TestClockJumpedBack(t *testing.T) {
	b := newBench(t)
	right := start.Add(time.Hour)
	b.now = right
	issued := b.issue()
	ask := func() error {
		_, err := b.Issue(t.Context(), b.request(newCSR(t, newKey(t), nil)))
		return err
	}
	b.now = right.Add(-4 * time.Minute)
	if err := ask(); err != nil {
		t.Errorf("a small step: %v", err)
	}
	b.now = right.Add(-6 * time.Minute)
	if err := ask(); !errors.Is(err, ca.ErrClock) {
		t.Errorf("a jump: %v", err)
	}
	if _, err := b.Renew(t.Context(), ca.Renewal{Current: leaf(t, issued), Record: issued.Record, Key: b.request(newCSR(t, newKey(t), nil)).Key}); !errors.Is(err, ca.ErrClock) {
		t.Errorf("renewal after a jump: %v", err)
	}
	b.restart()
	if err := b.CheckClock(issued.Record.IssuedAt); !errors.Is(err, ca.ErrClock) {
		t.Errorf("restart after a jump: %v", err)
	}
	if _, err := b.Revoke(t.Context(), ca.RevocationRequest{Serial: issued.Record.Serial, Reason: ca.KeyCompromise}); err != nil {
		t.Errorf("a clock kept a certificate from being revoked: %v", err)
	}
	b.now = right
	if err := errors.Join(b.CheckClock(issued.Record.IssuedAt), ask()); err != nil {
		t.Errorf("once the clock is right: %v", err)
	}
	b.now = b.Issuer().Signer.Certificate().NotBefore.Add(-time.Second)
	b.restart()
	if err := ask(); !errors.Is(err, ca.ErrClock) {
		t.Errorf("before the issuing CA is valid: %v", err)
	}
}

func TestProvePeer(t *testing.T) {
	b := newBench(t)
	cert := leaf(t, b.issue())
	for why, state := range map[string]*tls.ConnectionState{
		"nil":            nil,
		"no certificate": {HandshakeComplete: true},
		"no handshake":   {PeerCertificates: []*x509.Certificate{cert}},
	} {
		if _, _, ok := ca.ProvePeer(state); ok {
			t.Errorf("%s: proven", why)
		}
	}
	got, key, ok := ca.ProvePeer(&tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{cert, b.root}})
	if !ok || got != cert || key.Use() == [32]byte{} {
		t.Error("not proven")
	}
}
