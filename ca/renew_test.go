package ca_test

import (
	"bytes"
	"crypto"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
)

func (b *bench) renew(current *ca.Record, key crypto.Signer) (*ca.Issued, error) {
	b.t.Helper()
	proven, err := ca.ProveCSR(newCSR(b.t, key, nil))
	if err != nil {
		b.t.Fatal(err)
	}
	cert := leaf(b.t, &ca.Issued{Record: current})
	rec, err := b.Lookup(b.t.Context(), cert)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.Renew(b.t.Context(), ca.Renewal{Current: cert, Record: rec, Key: proven})
}

func TestRenew(t *testing.T) {
	b := newBench(t)
	key := newKey(t)
	r := b.request(newCSR(t, key, nil))
	r.Names.URIs, r.Names.Emails = []string{"spiffe://example.com/billing"}, []string{"billing@example.com"}
	r.Lifetime = 90 * time.Minute
	first, err := b.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	b.now = b.now.Add(time.Hour)
	for why, next := range map[string]crypto.Signer{"same key": key, "rekey": newKey(t), "rekey to RSA": keys()[ca.RSA2048]} {
		t.Run(why, func(t *testing.T) {
			again, err := b.renew(first.Record, next)
			if err != nil {
				t.Fatal(err)
			}
			old, cert := leaf(t, first), leaf(t, again)
			if !next.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(cert.PublicKey) {
				t.Error("another key")
			}
			if again.Record.Parent != first.Record.Serial || again.Record.ClientID != "billing" || again.Record.Profile != "client" {
				t.Errorf("lineage: %+v", again.Record)
			}
			if !slices.Equal(ca.NamesOf(old).Text(), ca.NamesOf(cert).Text()) || len(ca.NamesOf(cert).Text()) != 4 {
				t.Errorf("names %v", ca.NamesOf(cert).Text())
			}
			if got := cert.NotAfter.Sub(b.now.Truncate(time.Second)); got != 90*time.Minute {
				t.Errorf("lifetime %s", got)
			}
		})
	}
	if rec, err := b.Certificate(t.Context(), first.Record.Serial); err != nil || rec.Status(b.now) != ca.Active {
		t.Errorf("the old certificate no longer works: %v", err)
	}
}

func TestRenewRefuses(t *testing.T) {
	for _, c := range []struct {
		why    string
		reason ca.Reason
		later  time.Duration
		want   error
	}{
		{"revoked", ca.KeyCompromise, 0, ca.ErrNotActive},
		{"held", ca.CertificateHold, 0, ca.ErrNotActive},
		{"expired", -1, 25 * time.Hour, ca.ErrNotActive},
		{"in its last second", -1, 24*time.Hour - 800*time.Millisecond, nil},
	} {
		t.Run(c.why, func(t *testing.T) {
			b := newBench(t)
			issued := b.issue()
			if c.reason >= 0 {
				if _, err := b.Revoke(t.Context(), ca.RevocationRequest{Serial: issued.Record.Serial, Reason: c.reason}); err != nil {
					t.Fatal(err)
				}
			}
			b.now = b.now.Add(c.later)
			if _, err := b.renew(issued.Record, newKey(t)); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	b := newBench(t)
	mine, other := b.issue(), b.issue()
	r := ca.Renewal{Current: leaf(t, other), Record: mine.Record, Key: b.request(newCSR(t, newKey(t), nil)).Key}
	if _, err := b.Renew(t.Context(), r); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("another certificate than the record's: %v", err)
	}
	if _, err := newBench(t).Lookup(t.Context(), leaf(t, mine)); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("a certificate that is not ours: %v", err)
	}
	forged := leaf(t, mine)
	forged.Raw = append(bytes.Clone(forged.Raw), 0)
	if _, err := b.Lookup(t.Context(), forged); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("another certificate with the serial number of one of ours: %v", err)
	}
}

// TestRenewAtIssuersEnd: a lifetime that was cut to a little less than the shortest can be renewed.
func TestRenewAtIssuersEnd(t *testing.T) {
	b := newBench(t)
	b.now = b.Issuer().Signer.Certificate().NotAfter.Add(-ca.MinLifetime + time.Second)
	issued := b.issue()
	if _, err := b.renew(issued.Record, newKey(t)); err != nil {
		t.Error(err)
	}
}

// TestRenewDoesNotOutrunRevocation: the certificate is revoked after Renew looked at it, and before the
// successor is recorded.
func TestRenewDoesNotOutrunRevocation(t *testing.T) {
	b := newBench(t)
	issued := b.issue()
	b.store.onInsert = func() {
		b.store.onInsert = nil
		if _, err := b.Revoke(t.Context(), ca.RevocationRequest{Serial: issued.Record.Serial, Reason: ca.KeyCompromise}); err != nil {
			t.Error(err)
		}
	}
	if got, err := b.renew(issued.Record, newKey(t)); !errors.Is(err, ca.ErrNotActive) || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
	page, err := b.List(t.Context(), ca.Query{Limit: 10})
	if err != nil || len(page.Records) != 2 {
		t.Fatalf("%v, %v", page, err)
	}
	for _, rec := range page.Records {
		if rec.Status(b.now) != ca.Revoked {
			t.Errorf("%s is %s", rec.Serial, rec.Status(b.now))
		}
	}
}

func TestRenewUnderFaults(t *testing.T) {
	b := newBench(t)
	issued := b.issue()
	b.store.before = true
	if got, err := b.renew(issued.Record, newKey(t)); !errors.Is(err, errFault) || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
	b.store.before, b.store.after = false, true
	if got, err := b.renew(issued.Record, newKey(t)); !errors.Is(err, errFault) || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
	b.store.after = false
	if _, err := b.renew(issued.Record, newKey(t)); err != nil {
		t.Errorf("the old certificate cannot be renewed any more: %v", err)
	}
}
