package web

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	xocsp "golang.org/x/crypto/ocsp"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/stepca"
	"github.com/pkid/pkid/ocsp"
)

// newOCSP makes a responder for the one issuing CA of a fixture, past the records.
func newOCSP(t testing.TB, authority *ca.Authority, issuerKey crypto.Signer) *ocsp.Responder {
	t.Helper()
	key := must[crypto.Signer](t)(stepca.GenerateKey(ca.P256))
	issuer := authority.Issuer()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, issuer.Signer.Certificate(), key.Public(), issuerKey))
	cert := must[*x509.Certificate](t)(x509.ParseCertificate(der))
	delegate := must[*ocsp.Delegate](t)(ocsp.NewDelegate(cert, key, issuer.Signer.Certificate()))
	r := must[*ocsp.Responder](t)(ocsp.New(ocsp.Config{Records: ocspRecords{authority}, Lifetime: 10 * time.Minute}))
	if err := r.SetIssuers(ocsp.Issuer{ID: issuer.ID(), Certificate: issuer.Signer.Certificate(), Delegate: delegate}); err != nil {
		t.Fatal(err)
	}
	return r
}

type ocspRecords struct{ *ca.Authority }

func (r ocspRecords) Status(ctx context.Context, _ string, number *big.Int) (ocsp.Status, error) {
	serial, err := ca.SerialOf(number)
	if err != nil {
		return ocsp.Status{}, nil //nolint:nilerr // unknown
	}
	switch rec, err := r.Certificate(ctx, serial); {
	case errors.Is(err, ca.ErrNotFound):
		return ocsp.Status{}, nil
	case err != nil:
		return ocsp.Status{}, err
	case rec.Revocation != nil:
		return ocsp.Status{Kind: ocsp.Revoked, At: rec.Revocation.At, Reason: int(rec.Revocation.Reason)}, nil
	}
	return ocsp.Status{Kind: ocsp.Good}, nil
}

// ocspOf reads an answer about a certificate, as a client does.
func (f *fixture) ocspOf(t *testing.T, a answer, cert *x509.Certificate) int {
	t.Helper()
	if kind := a.Header.Get("Content-Type"); a.StatusCode != http.StatusOK || kind != "application/ocsp-response" {
		t.Fatalf("%s, %s: %s", a.Status, kind, a.body)
	}
	got, err := xocsp.ParseResponseForCert([]byte(a.body), cert, f.c.Authority.Issuer().Signer.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	return got.Status
}

func (f *fixture) ocspRequest(cert *x509.Certificate) []byte {
	f.t.Helper()
	return must[[]byte](f.t)(xocsp.CreateRequest(cert, f.c.Authority.Issuer().Signer.Certificate(), nil))
}

func TestOCSP_Post(t *testing.T) {
	f := newFixture(t)
	client := f.certificate("client", "client")
	if got := client.Leaf.OCSPServer; len(got) != 1 || got[0] != f.status.URL+"/ocsp" {
		t.Errorf("the certificate names %q", got)
	}
	ask := func() answer {
		return f.do(request{method: "POST", url: f.status.URL + "/ocsp", body: string(f.ocspRequest(client.Leaf)), header: http.Header{"Content-Type": {"application/ocsp-request"}}})
	}
	a := ask()
	if got := f.ocspOf(t, a, client.Leaf); got != xocsp.Good || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("status %d, %v", got, a.Header)
	}
	f.operate("POST", "/v1/certificates/"+serialOf(client)+"/revoke", `{"reason":"keyCompromise"}`).want(t, http.StatusOK, nil)
	if got := f.ocspOf(t, ask(), client.Leaf); got != xocsp.Revoked {
		t.Errorf("after the revocation: %d", got)
	}
	f.do(request{method: "POST", url: f.status.URL + "/ocsp", body: "x", header: http.Header{"Content-Type": {"text/plain"}}}).problem(t, http.StatusUnsupportedMediaType, "bad-media-type")
	long := f.do(request{method: "POST", url: f.status.URL + "/ocsp", body: strings.Repeat("0", 60<<10), header: http.Header{"Content-Type": {"application/ocsp-request"}}})
	if long.StatusCode != http.StatusOK || long.body != "0\x03\n\x01\x01" {
		t.Errorf("a long request: %s %q", long.Status, long.body)
	}
}

// A path holds base64 as it is or with escapes, also with slashes one after the other.
func TestOCSP_Get(t *testing.T) {
	f := newFixture(t)
	client := f.certificate("client", "client")
	text := base64.StdEncoding.EncodeToString(f.ocspRequest(client.Leaf))
	upper := strings.NewReplacer("/", "%2F", "+", "%2B", "=", "%3D")
	var first answer
	for _, path := range []string{text, upper.Replace(text), url.PathEscape(text), url.QueryEscape(text)} {
		a := f.do(request{url: f.status.URL + "/ocsp/" + path})
		if got := f.ocspOf(t, a, client.Leaf); got != xocsp.Good {
			t.Errorf("%s: %d", path, got)
		}
		if first.Response == nil {
			first = a
		}
		if a.body != first.body || a.Header.Get("ETag") != first.Header.Get("ETag") || a.Header.Get("ETag") == "" {
			t.Errorf("%s: another answer", path)
		}
	}
	h := first.Header
	var age int
	if _, err := fmt.Sscanf(h.Get("Cache-Control"), "public, no-transform, must-revalidate, max-age=%d", &age); err != nil || age < 1 || age > 600 || h.Get("Last-Modified") == "" {
		t.Errorf("headers %v", h)
	}
	if expires, err := http.ParseTime(h.Get("Expires")); err != nil || time.Until(expires) > 10*time.Minute {
		t.Errorf("expires %s", h.Get("Expires"))
	}
	same := f.do(request{url: f.status.URL + "/ocsp/" + text, header: http.Header{"If-None-Match": {h.Get("ETag")}}})
	if same.StatusCode != http.StatusNotModified {
		t.Errorf("asked again: %s", same.Status)
	}
	// Within the second of the first answer another one says something else: the time alone must not count.
	f.operate("POST", "/v1/certificates/"+serialOf(client)+"/revoke", `{"reason":"keyCompromise"}`).want(t, http.StatusOK, nil)
	for _, header := range []http.Header{{"If-None-Match": {h.Get("ETag")}}, {"If-Modified-Since": {h.Get("Last-Modified")}}, nil} {
		if got := f.ocspOf(t, f.do(request{url: f.status.URL + "/ocsp/" + text, header: header}), client.Leaf); got != xocsp.Revoked {
			t.Errorf("after the revocation, with %v: %d", header, got)
		}
	}
}

// Slashes one after the other, dots, and what is no base64 are a request like any other on this one path.
func TestOCSP_PathsOfStrangers(t *testing.T) {
	f := newFixture(t)
	unknown := &x509.Certificate{SerialNumber: new(big.Int).SetBytes(bytes.Repeat([]byte{0xff}, 12))} // base64: "////"
	text := base64.StdEncoding.EncodeToString(f.ocspRequest(unknown))
	if !strings.Contains(text, "//") {
		t.Fatalf("no slashes in %s", text)
	}
	a := f.do(request{url: f.status.URL + "/ocsp/" + text})
	if got := f.ocspOf(t, a, unknown); got != xocsp.Unknown || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("status %d, %v", got, a.Header)
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	data, padded := strings.CutSuffix(text, "=")
	if !padded {
		t.Fatalf("no padding in %s", text)
	}
	last := len(data) - 1
	loose := data[:last] + string(alphabet[strings.IndexByte(alphabet, data[last])+1]) + "=" // another text of the same octets
	for _, path := range []string{"..", "%2e%2e/crl", "//", "x", "%0a" + text, text + "x", loose, strings.Repeat("A", 20<<10), "%ff", text + "/../x"} {
		a := f.do(request{url: f.status.URL + "/ocsp/" + path})
		if a.StatusCode != http.StatusOK || a.body != "0\x03\n\x01\x01" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s %q", path[:min(len(path), 40)], a.Status, a.body)
		}
	}
	f.do(request{url: f.status.URL + "/ocsp/"}).problem(t, http.StatusNotFound, "no-route")
	f.do(request{url: f.status.URL + "/crl//x"}).problem(t, http.StatusBadRequest, "bad-path")
	f.do(request{url: f.public.URL + "/ocsp/" + text}).problem(t, http.StatusBadRequest, "bad-path")
}

func TestOCSP_SwitchedOff(t *testing.T) {
	f := newFixture(t)
	f.c.OCSP = nil
	f.do(request{url: f.status.URL + "/ocsp/MAA="}).problem(t, http.StatusNotFound, "no-route")
	f.do(request{method: "POST", url: f.status.URL + "/ocsp"}).problem(t, http.StatusNotFound, "no-route")
}
