package crl

import (
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

const foreignURL = "http://old.test/1.0/crl"

// wholeConfig publishes a list that speaks of every certificate of its issuer.
func wholeConfig(ca *testCA, m *memory) PublisherConfig {
	c := publisherConfig(ca, m)
	c.Shards[0].Whole = true
	return c
}

func TestWholeListNamesNoDistributionPoint(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	c := wholeConfig(ca, m)
	c.Shards[0].DeltaURL = DeltaURL(testURL)
	p := newPublisher(t, c)
	publish(t, p)
	m.revoke(5, 1)
	signed := publish(t, p)
	l, err := ParseAndVerify(signed.DER.Bytes(), ca.cert, "", time.Now())
	if err != nil || l.Len() != 1 || l.URL != "" {
		t.Fatalf("list %+v, err %v", l, err)
	}
	_, err = ParseAndVerify(signed.DER.Bytes(), ca.cert, testURL, time.Now())
	wantErr(t, err, ErrList, "list for")
	for what, der := range map[string][]byte{"list": signed.DER.Bytes(), "delta": signed.Delta.Bytes()} {
		parsed, err := x509.ParseRevocationList(der)
		if err != nil || slices.ContainsFunc(parsed.Extensions, isIDP) {
			t.Errorf("the %s has an IssuingDistributionPoint, or err %v", what, err)
		}
	}

	// Another node takes it over, and one that was told otherwise signs another.
	if next := publish(t, newPublisher(t, c)); next.Number <= signed.Number {
		t.Errorf("number %d after %d", next.Number, signed.Number)
	}
	limited := publish(t, newPublisher(t, publisherConfig(ca, m)))
	if _, err := ParseAndVerify(limited.DER.Bytes(), ca.cert, testURL, time.Now()); err != nil {
		t.Error(err)
	}

	c = wholeConfig(ca, m)
	c.Shards[0].Shard.Number = 1
	if _, err := NewPublisher(c); err == nil || !strings.Contains(err.Error(), "shard 0") {
		t.Errorf("a whole list as one of several: %v", err)
	}
}

// What the certificate says about its CRL does not matter to a list without IssuingDistributionPoint.
func TestOpenSSLTakesAWholeListForEveryCertificate(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	m.revoke(5, 1)
	list := writePEM(t, "list.pem", "X509 CRL", publish(t, newPublisher(t, wholeConfig(ca, m))).DER.Bytes())
	caFile := writePEM(t, "ca.pem", "CERTIFICATE", ca.cert.Raw)
	for what, urls := range map[string][]string{"none": nil, "pkid's": {testURL}, "another's": {foreignURL}} {
		for serial, revoked := range map[int64]bool{5: true, 6: false} {
			leaf := writePEM(t, "leaf.pem", "CERTIFICATE", ca.leaf(t, serial, urls...).Raw)
			out, ok := openssl(t, "verify", "-CAfile", caFile, "-CRLfile", list, "-crl_check", leaf)
			if ok == revoked || revoked && !strings.Contains(out, "certificate revoked") {
				t.Errorf("certificate %d with %s distribution point: %s", serial, what, out)
			}
		}
	}
}

func TestCheckAgainstAWholeList(t *testing.T) {
	f := newFixture(t)
	withoutIDP := func(l *x509.RevocationList) { l.ExtraExtensions = nil }
	f.site.serve(f.ca.list(t, 1, f.now, withoutIDP, 5))
	f.c.Points = []Point{{Issuer: f.ca.cert, From: testURL}}
	k := newChecker(t, f.c)
	for _, urls := range [][]string{nil, {testURL}, {foreignURL}} {
		if err := k.Check(t.Context(), f.ca.leaf(t, 6, urls...)); err != nil {
			t.Errorf("a good certificate with distribution points %q: %v", urls, err)
		}
		var revoked *RevokedError
		if err := k.Check(t.Context(), f.ca.leaf(t, 5, urls...)); !errors.As(err, &revoked) {
			t.Errorf("a revoked certificate with distribution points %q: %v", urls, err)
		}
	}

	// Nobody who was not told of it takes such a list, and who was told takes no other.
	f.c.Points = nil
	wantErr(t, newChecker(t, f.c).Check(t.Context(), f.ca.leaf(t, 6, testURL)), ErrUnavailable, "list for")
	f.site.serve(f.ca.list(t, 2, f.now, nil, 5))
	f.c.Points = []Point{{Issuer: f.ca.cert, From: testURL}}
	wantErr(t, newChecker(t, f.c).Check(t.Context(), f.ca.leaf(t, 6, testURL)), ErrUnavailable, "list for")
}
