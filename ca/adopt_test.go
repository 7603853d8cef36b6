package ca_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
)

// forget replaces the store by an empty one, as a restore from a backup of before everything does.
func (b *bench) forget() {
	b.t.Helper()
	fresh := newBench(b.t)
	b.store = fresh.store
	b.restart()
}

func TestAdopt(t *testing.T) {
	b := newBench(t)
	issued := b.issue()
	cert := leaf(t, issued)
	ad := ca.Adoption{Certificate: cert, ClientID: "billing", Profile: "client"}
	if _, err := b.Adopt(t.Context(), ad); !errors.Is(err, ca.ErrRecorded) {
		t.Errorf("a certificate that is there: %v", err)
	}
	b.forget()
	if _, err := b.Lookup(t.Context(), cert); !errors.Is(err, ca.ErrNotFound) {
		t.Fatalf("before: %v", err)
	}
	if _, err := b.Adopt(t.Context(), ad); err != nil {
		t.Fatal(err)
	}
	got, err := b.Lookup(t.Context(), cert)
	if err != nil {
		t.Fatal(err)
	}
	want := issued.Record
	if !bytes.Equal(got.DER, want.DER) || got.ClientID != want.ClientID || got.Issuer != want.Issuer || got.Shard != want.Shard ||
		!got.NotAfter.Equal(want.NotAfter) || !got.IssuedAt.Equal(want.IssuedAt) || got.Thumbprint != want.Thumbprint || len(got.Names) != len(want.Names) {
		t.Errorf("adopted as %+v, issued as %+v", got, want)
	}
	if _, err := b.Renew(t.Context(), ca.Renewal{Current: cert, Record: got, Key: b.request(newCSR(t, newKey(t), nil)).Key}); err != nil {
		t.Errorf("renewing what was adopted: %v", err)
	}
}

func TestAdoptRefuses(t *testing.T) {
	b, other := newBench(t), newBench(t)
	cert, foreign := leaf(t, b.issue()), leaf(t, other.issue())
	b.forget()
	changed := *cert
	changed.RawTBSCertificate = bytes.Clone(cert.RawTBSCertificate)
	changed.RawTBSCertificate[len(changed.RawTBSCertificate)-1] ^= 1
	unknownList := *cert
	unknownList.CRLDistributionPoints = []string{"http://elsewhere.test/x.crl"}
	forServers := *cert
	forServers.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	negative := *cert
	negative.SerialNumber = big.NewInt(-1)
	for name, tt := range map[string]struct {
		cert    *x509.Certificate
		profile string
		want    error
	}{
		"another CA's":           {foreign, "client", ca.ErrIssuer},
		"the issuing CA's own":   {b.Issuer().Signer.Certificate(), "client", ca.ErrIssuer},
		"another content":        {&changed, "client", ca.ErrIssuer},
		"names another CRL":      {&unknownList, "client", ca.ErrIssuer},
		"serial of another kind": {&negative, "client", ca.ErrSerial},
		"for servers alone":      {&forServers, "client", ca.ErrProfile},
		"no profile":             {cert, "nobody's", ca.ErrProfile},
	} {
		if _, err := b.Adopt(t.Context(), ca.Adoption{Certificate: tt.cert, ClientID: "a", Profile: tt.profile}); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	b.now = b.now.Add(25 * time.Hour) // last, since the clock must not go back
	if _, err := b.Adopt(t.Context(), ca.Adoption{Certificate: cert, ClientID: "a", Profile: "client"}); !errors.Is(err, ca.ErrNotActive) {
		t.Errorf("expired: %v", err)
	}
	if n := b.count(); n != 0 {
		t.Errorf("%d certificates are recorded", n)
	}
}

func TestShardAt(t *testing.T) {
	i := newBench(t).Issuer()
	for _, n := range []uint32{0, 1, 17, 1<<32 - 1} {
		if got, ok := i.ShardAt(i.CRLURLOf(n)); !ok || got != n {
			t.Errorf("%s is shard %d, %t", i.CRLURLOf(n), got, ok)
		}
	}
	for _, url := range []string{"", "http://pki.test/other.crl", "http://pki.test/issuing-.crl", "http://pki.test/issuing-0.crl", "http://pki.test/issuing-01.crl", "http://pki.test/issuing-1-delta.crl", "http://pki.test/issuing-4294967296.crl"} {
		if n, ok := i.ShardAt(url); ok {
			t.Errorf("%s is shard %d", url, n)
		}
	}
}

// What a CRL from before a restore lists stays revoked, with its reason and date, whether its record is there or not.
func TestRevokeAgain(t *testing.T) {
	b := newBench(t)
	known, lost := b.issue().Record.Serial, ca.Serial{0: 1, 15: 7}
	at := b.now.Add(-time.Hour).UTC().Truncate(time.Second)
	if err := b.store.Insert(t.Context(), b.Issuer().Lost(lost, 0), nil, audit.Event{Time: b.now, Action: audit.Adopt, Subject: lost.String()}); err != nil {
		t.Fatal(err)
	}
	for _, serial := range []ca.Serial{known, lost} {
		for _, step := range []struct {
			reason  ca.Reason
			changed bool
			want    ca.Reason
		}{
			{ca.CertificateHold, true, ca.CertificateHold},
			{ca.CertificateHold, false, ca.CertificateHold},
			{ca.KeyCompromise, true, ca.KeyCompromise},
			{ca.CertificateHold, false, ca.KeyCompromise},
			{ca.Superseded, false, ca.KeyCompromise},
		} {
			changed, err := b.RevokeAgain(t.Context(), serial, ca.Revocation{Reason: step.reason, At: at})
			if err != nil || changed != step.changed {
				t.Errorf("%s: changed %t, %v", step.reason, changed, err)
			}
			rec, err := b.Certificate(t.Context(), serial)
			if err != nil || rec.Revocation == nil || rec.Revocation.Reason != step.want || !rec.Revocation.At.Equal(at) {
				t.Errorf("%s: %+v, %v", step.reason, rec, err)
			}
		}
	}
	if b.changes == 0 {
		t.Error("the publisher was not told")
	}
	held := ca.Serial{0: 1, 15: 8}
	if err := b.store.Insert(t.Context(), b.Issuer().Lost(held, 0), nil, audit.Event{Time: b.now, Action: audit.Adopt, Subject: held.String()}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.RevokeAgain(t.Context(), held, ca.Revocation{Reason: ca.CertificateHold, At: at}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Revoke(t.Context(), ca.RevocationRequest{Serial: held, Reason: ca.RemoveFromCRL}); !errors.Is(err, ca.ErrReason) {
		t.Errorf("releasing what nothing is known of: %v", err)
	}
	on := map[string]bool{}
	for e, err := range b.store.bolt.Revoked(t.Context(), crl.Shard{Issuer: b.Issuer().ID()}, b.now.AddDate(0, 6, 0)) {
		if err != nil {
			t.Fatal(err)
		}
		on[string(e.Serial)] = true
	}
	if !on[string(lost[:])] {
		t.Error("the certificate whose end nobody knows leaves the list while its CA lives")
	}
	if revoked, err := b.Revoked(t.Context(), thumbprint.Cert{}); err != nil || revoked {
		t.Errorf("the zero thumbprint is revoked: %t, %v", revoked, err)
	}
	if _, err := b.RevokeAgain(t.Context(), ca.Serial{1}, ca.Revocation{Reason: ca.KeyCompromise, At: at}); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("an unknown one: %v", err)
	}
}
