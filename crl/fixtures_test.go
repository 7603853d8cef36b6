package crl

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"iter"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const testURL = "http://status.test/crl/a1.crl"

var testShard = Shard{Issuer: "a1"}

// testCA is an issuing CA with a key in memory. It is a Signer.
type testCA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newCA(t testing.TB, name string, change ...func(*x509.Certificate)) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newCAWithKey(t, name, key, change...)
}

func newCAWithKey(t testing.TB, name string, key crypto.Signer, change ...func(*x509.Certificate)) *testCA {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	for _, f := range change {
		f(template)
	}
	return &testCA{cert: certify(t, template, template, key.Public(), key), key: key}
}

func (ca *testCA) SignCRL(_ context.Context, _ string, tbs [][]byte) ([]byte, error) {
	return crypto.SignMessage(ca.key, rand.Reader, slices.Concat(tbs...), ca.hash())
}

// hash is that of the algorithm which the key signs lists with.
func (ca *testCA) hash() crypto.Hash {
	switch k := ca.key.Public().(type) {
	case ed25519.PublicKey:
		return 0
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P384() {
			return crypto.SHA384
		} else if k.Curve == elliptic.P521() {
			return crypto.SHA512
		}
	}
	return crypto.SHA256
}

// leaf issues a client certificate.
func (ca *testCA) leaf(t testing.TB, serial int64, urls ...string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "client"}, CRLDistributionPoints: urls,
		NotBefore: ca.cert.NotBefore, NotAfter: ca.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	return certify(t, template, ca.cert, key.Public(), ca.key)
}

func certify(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// list signs a CRL for testURL, good for an hour from at, that change may spoil.
func (ca *testCA) list(t testing.TB, number int64, at time.Time, change func(*x509.RevocationList), serials ...int64) []byte {
	t.Helper()
	idp, err := MarshalIDP(testURL)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: at, NextUpdate: at.Add(time.Hour), ExtraExtensions: []pkix.Extension{idp}}
	for _, s := range serials {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: at, ReasonCode: 1})
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, ca.cert, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// memory is a Store and the Revocations beside it. It remembers every list that was ever the newest.
type memory struct {
	mu      sync.Mutex
	newest  map[Shard]Signed
	history []Signed
	revoked map[string]Entry
	log     []Change
	dropped uint64 // position of the newest change that is not kept

	beforeReplace, afterReplace, beforeLatest, beforeRevoked, beforeChanges func() error // faults; may be nil
	afterRevoked                                                            func()       // may be nil
}

func newMemory() *memory { return &memory{newest: map[Shard]Signed{}, revoked: map[string]Entry{}} }

func (m *memory) Latest(_ context.Context, shard Shard, have uint64) (Signed, error) {
	if err := call(m.beforeLatest); err != nil {
		return Signed{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.newest[shard]
	if !ok {
		return Signed{}, ErrNotPublished
	}
	if s.Number == have {
		s.DER = nil
	}
	return s, nil
}

func (m *memory) Replace(_ context.Context, prev, next Signed) error {
	if err := call(m.beforeReplace); err != nil {
		return err
	}
	m.mu.Lock()
	if m.newest[next.Shard].Number != prev.Number {
		m.mu.Unlock()
		return ErrConflict
	}
	m.newest[next.Shard] = next
	m.history = append(m.history, next)
	m.mu.Unlock()
	return call(m.afterReplace)
}

func (m *memory) Revoked(_ context.Context, _ Shard, notBefore time.Time) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := call(m.beforeRevoked); err != nil {
			yield(Entry{}, err)
			return
		}
		m.mu.Lock()
		var all []Entry
		for _, e := range m.revoked {
			if !e.NotAfter.Before(notBefore) {
				all = append(all, e)
			}
		}
		m.mu.Unlock()
		slices.SortFunc(all, func(a, b Entry) int { return bytes.Compare(a.Serial, b.Serial) })
		if m.afterRevoked != nil {
			m.afterRevoked()
		}
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (m *memory) Position(context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(len(m.log)), nil
}

func (m *memory) Changes(_ context.Context, _ Shard, after uint64) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		if err := call(m.beforeChanges); err != nil {
			yield(Change{}, err)
			return
		}
		m.mu.Lock()
		dropped, news := m.dropped, slices.Clone(m.log[min(after, uint64(len(m.log))):])
		m.mu.Unlock()
		if after < dropped {
			yield(Change{}, ErrChangesDropped)
			return
		}
		for _, c := range news {
			if !yield(c, nil) {
				return
			}
		}
	}
}

func call(f func() error) error {
	if f == nil {
		return nil
	}
	return f()
}

func serialBytes(n int64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 8), uint64(n)) }

// revoke makes a revocation durable; what expires far ahead unless notAfter says otherwise.
func (m *memory) revoke(serial int64, reason int, notAfter ...time.Time) {
	e := Entry{Serial: serialBytes(serial), Reason: reason, At: time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC), NotAfter: time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)}
	if len(notAfter) > 0 {
		e.NotAfter = notAfter[0]
	}
	m.put(e)
}

func (m *memory) put(e Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revoked[string(e.Serial)] = e
	m.log = append(m.log, Change{Position: uint64(len(m.log)) + 1, Entry: e})
}

// release takes a certificate off hold.
func (m *memory) release(serial int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.revoked[string(serialBytes(serial))]
	delete(m.revoked, string(e.Serial))
	m.log = append(m.log, Change{Position: uint64(len(m.log)) + 1, Released: true, Entry: e})
}

func (m *memory) lists() []Signed {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.history)
}

// signerFunc is a Signer.
type signerFunc func(ctx context.Context, issuer string, tbs [][]byte) ([]byte, error)

func (f signerFunc) SignCRL(ctx context.Context, issuer string, tbs [][]byte) ([]byte, error) {
	return f(ctx, issuer, tbs)
}

// publisherConfig is a working configuration over m.
func publisherConfig(ca *testCA, m *memory) PublisherConfig {
	return PublisherConfig{
		Shards: []PublishedShard{{Shard: testShard, URL: testURL, Issuer: ca.cert}},
		Store:  m, Revocations: m, Signer: ca, Logger: slog.New(slog.DiscardHandler),
	}
}

func newPublisher(t testing.TB, c PublisherConfig) *Publisher {
	t.Helper()
	p, err := NewPublisher(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func publish(t testing.TB, p *Publisher) Signed {
	t.Helper()
	s, err := p.Publish(t.Context(), testShard)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serials returns the serial numbers on a list, which must verify.
func serials(t testing.TB, ca *testCA, s Signed) []int64 {
	t.Helper()
	l, err := x509.ParseRevocationList(s.DER.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.CheckSignatureFrom(ca.cert); err != nil {
		t.Fatal(err)
	}
	var out []int64
	for _, e := range l.RevokedCertificateEntries {
		out = append(out, e.SerialNumber.Int64())
	}
	return out
}

// running runs f until the test ends, and fails if it returns an error.
func running(t testing.TB, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// responder is an http.RoundTripper without a network, so that it works in a synctest bubble.
type responder func(*http.Request) (*http.Response, error)

func (f responder) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// handled answers from a handler.
func handled(h http.HandlerFunc) *http.Client {
	return &http.Client{Transport: responder(func(r *http.Request) (*http.Response, error) {
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		w := httptest.NewRecorder()
		h(w, r)
		return w.Result(), nil
	})}
}

var errFault = errors.New("injected fault")

func wantErr(t testing.TB, err, target error, text string) {
	t.Helper()
	if !errors.Is(err, target) || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want one that is %q and says %q", err, target, text)
	}
}

func byNumber(a, b Signed) int { return cmp.Compare(a.Number, b.Number) }

func isIDP(e pkix.Extension) bool { return e.Id.Equal(oidIssuingDistributionPoint) }
