package crlfile

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/crl"
)

// testCA signs lists.
type testCA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newCA(t testing.TB, name string) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{cert, key}
}

// list signs a list that is good for a day from at. It has no IssuingDistributionPoint if url is empty.
func (ca *testCA) list(t testing.TB, url string, number int64, at time.Time, serials ...int64) []byte {
	t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: at, NextUpdate: at.Add(24 * time.Hour)}
	if url != "" {
		idp, err := crl.MarshalIDP(url)
		if err != nil {
			t.Fatal(err)
		}
		template.ExtraExtensions = []pkix.Extension{idp}
	}
	for _, s := range serials {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: at})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, ca.cert, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

const (
	urlA  = "http://pki.test/crl/a.crl"
	urlA1 = "http://pki.test/crl/a-1.crl"
	urlB  = "http://pki.test/crl/b.crl"
	urlR  = "http://pki.test/crl/root.crl"
)

// fixture is a CA with two issuers, one of which has two shards, and a root, and a file of their lists.
type fixture struct {
	testing.TB
	a, b, root *testCA
	file       string
	log        *logBook
	begun      time.Time

	mu     sync.Mutex // guards what follows
	points []Point
	away   error
	lists  map[string][]byte
	served map[string]int // bodies, by URL
}

// logBook is what was logged so far.
type logBook struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newFixture(t testing.TB) *fixture {
	f := &fixture{
		TB: t, a: newCA(t, "A"), b: newCA(t, "B"), root: newCA(t, "Root"), file: filepath.Join(t.TempDir(), "crl.pem"),
		log: &logBook{}, lists: map[string][]byte{}, served: map[string]int{}, begun: time.Now().Truncate(time.Second),
	}
	f.points = []Point{
		{Name: "a", Signer: f.a.cert, URL: urlA, Scopes: []string{urlA}},
		{Name: "a shard 1", Signer: f.a.cert, URL: urlA1, Scopes: []string{urlA1}},
		{Name: "b", Signer: f.b.cert, URL: urlB, Scopes: []string{urlB}},
		{Name: "root", Signer: f.root.cert, URL: urlR, Scopes: []string{"", urlR}},
	}
	f.lists[urlA] = f.a.list(t, urlA, 10, f.begun)
	f.lists[urlA1] = f.a.list(t, urlA1, 10, f.begun)
	f.lists[urlB] = f.b.list(t, urlB, 10, f.begun)
	f.lists[urlR] = f.root.list(t, "", 10, f.begun)
	return f
}

// publish has a URL answer with a list, or with 404 if there is none.
func (f *fixture) publish(url string, der []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lists[url] = der
}

func (f *fixture) learn(context.Context) ([]Point, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.points), f.away
}

// RoundTrip is the CA without a network, so that it works in a synctest bubble.
func (f *fixture) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away != nil {
		return nil, f.away
	}
	w := httptest.NewRecorder()
	der, etag := f.lists[r.URL.String()], ""
	if der != nil {
		etag = fmt.Sprintf(`"%x"`, sha256.Sum256(der))
	}
	switch {
	case der == nil:
		http.NotFound(w, r)
	case r.Header.Get("If-None-Match") == etag:
		w.WriteHeader(http.StatusNotModified)
	default:
		f.served[r.URL.String()]++
		w.Header().Set("ETag", etag)
		w.Write(der)
	}
	return w.Result(), nil
}

func (f *fixture) sync(change ...func(*Config)) *Sync {
	f.Helper()
	c := Config{
		File: f.file, Learn: f.learn, HTTPClient: &http.Client{Transport: f},
		Logger: slog.New(slog.NewTextHandler(f.log, nil)),
	}
	for _, g := range change {
		g(&c)
	}
	s, err := New(c)
	if err != nil {
		f.Fatal(err)
	}
	return s
}

// once runs Once, which must succeed.
func (f *fixture) once(change ...func(*Config)) {
	f.Helper()
	if err := f.sync(change...).Once(f.Context()); err != nil {
		f.Fatal(err)
	}
}

// numbers are those of the lists in the file, by issuer, in their order. Each must verify.
func (f *fixture) numbers() string {
	f.Helper()
	text, err := os.ReadFile(f.file)
	if errors.Is(err, os.ErrNotExist) {
		return "no file"
	}
	if err != nil {
		f.Fatal(err)
	}
	var out []string
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			f.Fatal(err)
		}
		for _, ca := range []*testCA{f.a, f.b, f.root} {
			if list.CheckSignatureFrom(ca.cert) == nil {
				out = append(out, list.Issuer.CommonName+" "+list.Number.String())
			}
		}
	}
	return strings.Join(out, ", ")
}

func (f *fixture) want(numbers string) {
	f.Helper()
	if got := f.numbers(); got != numbers {
		f.Errorf("the file has %s; want %s", got, numbers)
	}
}

const asFirst = "A 10, A 10, B 10, Root 10"
