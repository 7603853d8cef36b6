package revocation

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/thumbprint"
)

// authority signs lists, of which a Checker gets the newest.
type authority struct {
	t      *testing.T
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	number int64
	newest []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Issuing CA"}, SubjectKeyId: []byte{0x0a, 0x0b},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, key: key, cert: cert}
}

func (a *authority) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: int64(len(a.newest)), Body: io.NopCloser(bytes.NewReader(a.newest))}, nil
}

// publish has a Checker know a list of these.
func (a *authority) publish(k *crl.Checker, serials ...int64) {
	a.t.Helper()
	a.number++
	list := &x509.RevocationList{Number: big.NewInt(a.number), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, n := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(n), RevocationTime: time.Now()})
	}
	var err error
	if a.newest, err = x509.CreateRevocationList(rand.Reader, list, a.cert, a.key); err != nil {
		a.t.Fatal(err)
	}
	if err := k.Refresh(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
}

// TestCertificates_ReleasedAndRevoked: a list from before a release does not count for a certificate that is revoked after
// it, since the list after that one may be without.
func TestCertificates_ReleasedAndRevoked(t *testing.T) {
	ca := newAuthority(t)
	checker, err := crl.NewChecker(crl.CheckerConfig{
		Issuers: []*x509.Certificate{ca.cert}, Points: []crl.Point{{Issuer: ca.cert, From: "http://pki.example.com/crl"}},
		HTTPClient: &http.Client{Transport: ca},
	})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	known := certificates{most: 10}
	told := func(n byte, status string) {
		t.Helper()
		if err := known.take(certificateEvent(n, status, now), now); err != nil {
			t.Fatal(err)
		}
	}
	// wants sweeps, and looks at what is known of each certificate then: its status, or that it is remembered as released,
	// or nothing.
	wants := func(when string, want ...string) {
		t.Helper()
		now = now.Add(sweepEvery)
		known.sweep(now, checker)
		for i, want := range want {
			id := thumbprint.Cert{byte(i + 1)}
			got := known.status(id)
			if got == "" && known.known[id] != nil {
				got = Good
			}
			if got != want {
				t.Errorf("%s: certificate %d is %q, want %q", when, i+1, got, want)
			}
		}
	}
	for n := range byte(4) {
		told(n+1, Held)
	}
	wants("before there is a list", Held, Held, Held, Held)
	ca.publish(checker, 1, 2, 3)
	wants("on the list", "", "", "", Held)
	for n := range byte(4) {
		told(n+1, Good)
	}
	told(1, Revoked)
	told(2, Held)
	told(2, Revoked)
	wants("released, and revoked again, but for the third", Revoked, Revoked, Good, "")
	ca.publish(checker, 3)
	wants("with a list from in between", Revoked, Revoked, Good, "")
	ca.publish(checker)
	wants("with a list from in between that has none", Revoked, Revoked, "", "")
	ca.publish(checker, 1)
	wants("with the list that has the first again", "", Revoked, "", "")
	now = now.Add(48 * time.Hour)
	wants("expired", "", "", "", "")
	if len(known.known) != 0 || known.order.Len() != 0 {
		t.Errorf("%d are remembered for good", len(known.known))
	}
}
