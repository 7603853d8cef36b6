package revocation

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

// authority signs lists, of which a Checker gets the newest.
type authority struct {
	t      *testing.T
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	number int64
	newest []byte // nil: it is away
	asked  atomic.Int64
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
	a.asked.Add(1)
	if a.newest == nil {
		return nil, errors.New("away")
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: int64(len(a.newest)), Body: io.NopCloser(bytes.NewReader(a.newest))}, nil
}

func (a *authority) checker() *crl.Checker {
	a.t.Helper()
	checker, err := crl.NewChecker(crl.CheckerConfig{
		Issuers: []*x509.Certificate{a.cert}, Points: []crl.Point{{Issuer: a.cert, From: "http://pki.example.com/crl"}},
		HTTPClient: &http.Client{Transport: a}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return checker
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
	checker := ca.checker()
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

// TestFollower_Paces: the CRL is polled seldom while the stream is heard, and at its own pace while it is not, and after a
// certificate's event, so that a release does not wait.
func TestFollower_Paces(t *testing.T) {
	ca := newAuthority(t)
	synctest.Test(t, func(t *testing.T) {
		checker := ca.checker()
		w := newWire()
		f := newFollower(t, w, Config{Checker: checker})
		run(t, f)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = checker.Run(ctx) })
		t.Cleanup(func() { cancel(); running.Wait() })
		var to io.WriteCloser
		polls := func(when string, least, most int64) {
			t.Helper()
			before := ca.asked.Load()
			for range 2 {
				time.Sleep(2 * time.Second)
				if to != nil {
					send(t, to, "1.aa", HeartbeatEvent, Heartbeat{Every: 2})
				}
			}
			if n := ca.asked.Load() - before; n < least || n > most {
				t.Errorf("%s: %d polls in 4 s, want %d to %d", when, n, least, most)
			}
		}
		polls("without a stream", 7, 10)
		to = w.stream()
		begin(t, to, "1.aa")
		polls("after a reset", 7, 10)
		polls("then", 0, 5)
		polls("while it is heard", 0, 2)
		send(t, to, "2.aa", CertificateEvent, certificateEvent(1, Good, time.Now()))
		polls("after a certificate's event", 7, 10)
		polls("then", 0, 5)
		polls("while it is heard", 0, 2)
		to.Close()
		to = nil
		synctest.Wait()
		polls("after it was lost", 7, 10)
		if err := f.Check(t.Context(), ca.cert); !errors.Is(err, crl.ErrUnavailable) || !errors.Is(err, tokenbind.ErrUnavailable) {
			t.Errorf("without a CRL: %v", err)
		}
	})
}

// TestTokens_Slack: the issuer's instant is not that of whoever takes a token after its end, or whose clock is behind.
func TestTokens_Slack(t *testing.T) {
	now := time.Now()
	known := newTokens(10)
	known.client(Client{ID: HashOf("a"), Disabled: true, Until: now}, now)
	known.token(Token{HashOf("b"), now}, now)
	known.sweep(now.Add(slack - time.Second))
	if len(known.clients) != 1 || len(known.revoked) != 1 {
		t.Errorf("%d clients and %d tokens are left while they may count", len(known.clients), len(known.revoked))
	}
	known.sweep(now.Add(slack + sweepEvery))
	if len(known.clients) != 0 || len(known.revoked) != 0 {
		t.Errorf("%d clients and %d tokens are left", len(known.clients), len(known.revoked))
	}
}
