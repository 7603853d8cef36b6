package daemon

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	xocsp "golang.org/x/crypto/ocsp"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/rollover"
	"github.com/pkid/pkid/internal/stepca"
)

// answering is two issuing CAs with their OCSP responders, and a clock that the test sets. The first one signs, until the
// test says otherwise in known.
type answering struct {
	*responders
	t         *testing.T
	now       time.Time
	store     *boltstore.Store
	authority *ca.Authority
	issuers   [2]*ca.Issuer
	signers   [2]*awaySigner
	known     []rollover.Issuer
}

// awaySigner is a key in a device that can be away, or hang.
type awaySigner struct {
	ca.Signer
	away  bool
	hangs chan struct{} // nil: it does not
}

func (s *awaySigner) SignCertificate(ctx context.Context, tbs ca.TBSCertificate) ([]byte, error) {
	if s.hangs != nil {
		s.hangs <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if s.away {
		return nil, ca.ErrSignerAway
	}
	return s.Signer.SignCertificate(ctx, tbs)
}

func newAnswering(t *testing.T) *answering {
	t.Helper()
	a := &answering{t: t, now: time.Now().UTC().Truncate(time.Second)}
	clock := func() time.Time { return a.now }
	root, rootKey := newRoot(t)
	for n := range a.issuers {
		key, err := stepca.GenerateKey(ca.P256)
		if err != nil {
			t.Fatal(err)
		}
		a.issuers[n], a.signers[n] = a.issuer(root, rootKey, key)
	}
	a.issuers[1].From = a.now.Add(24 * time.Hour)
	var err error
	if a.store, err = boltstore.Open(filepath.Join(t.TempDir(), "pkid.db"), boltstore.Options{Create: true, Now: clock}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.store.Close() })
	profiles, err := Profiles(config.BuiltinProfiles())
	if err != nil {
		t.Fatal(err)
	}
	a.authority, err = ca.New(ca.Config{Issuer: a.issuers[0], Store: a.store, Profiles: profiles, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.authority.SetIssuers(a.issuers[:]...); err != nil {
		t.Fatal(err)
	}
	a.known = []rollover.Issuer{{Issuer: a.issuers[0], State: rollover.Active}, {Issuer: a.issuers[1], State: rollover.Waiting, Since: a.issuers[1].From}}
	known := func() []rollover.Issuer { return a.known }
	a.responders, err = newResponders(config.OCSP{Lifetime: 10 * time.Minute}, a.authority, known, slog.New(slog.DiscardHandler), clock)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *answering) issuer(root *x509.Certificate, rootKey, key crypto.Signer) (*ca.Issuer, *awaySigner) {
	a.t.Helper()
	cert, err := stepca.CreateIssuer(stepca.CeremonySpec{Name: "Test", RootCRLURL: "http://pki.test/root.crl", RootAIAURL: "http://pki.test/root.crt"}, root, rootKey, key.Public())
	if err != nil {
		a.t.Fatal(err)
	}
	signer, err := stepca.NewSigner(cert, key)
	if err != nil {
		a.t.Fatal(err)
	}
	away := &awaySigner{Signer: signer}
	return &ca.Issuer{Signer: away, Root: root, CRLURL: "http://pki.test/a.crl", AIAURL: "http://pki.test/a.crt", OCSPURL: "http://pki.test/ocsp"}, away
}

// ask returns the answer about a certificate of the n-th issuing CA, verified as clients do; or why there is none.
func (a *answering) ask(n int, cert *x509.Certificate) (*xocsp.Response, error) {
	a.t.Helper()
	issuer := a.issuers[n].Signer.Certificate()
	request, err := xocsp.CreateRequest(cert, issuer, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	return xocsp.ParseResponseForCert(a.Respond(a.t.Context(), request).DER, cert, issuer)
}

// signer is the certificate that an answer was signed with.
func (a *answering) signer(n int, cert *x509.Certificate) *x509.Certificate {
	a.t.Helper()
	answer, err := a.ask(n, cert)
	if err != nil {
		a.t.Fatal(err)
	}
	return answer.Certificate
}

func (a *answering) refuses(n int, cert *x509.Certificate, want xocsp.ResponseStatus) {
	a.t.Helper()
	_, err := a.ask(n, cert)
	if got, ok := errors.AsType[xocsp.ResponseError](err); !ok || got.Status != want {
		a.t.Errorf("got %v, want %s", err, want)
	}
}

func (a *answering) client() *x509.Certificate {
	a.t.Helper()
	key, err := stepca.GenerateKey(ca.P256)
	if err != nil {
		a.t.Fatal(err)
	}
	proven, err := ca.ProveOwn(key)
	if err != nil {
		a.t.Fatal(err)
	}
	issued, err := a.authority.Issue(a.t.Context(), ca.Request{Profile: config.ProfileClient, ClientID: "client", Names: ca.Names{CommonName: "client"}, Key: proven})
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(issued.Record.DER)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

func TestResponderCertificatesRenewThemselves(t *testing.T) {
	a := newAnswering(t)
	cert := a.client()
	a.keep(t.Context())
	first := a.signer(0, cert)
	a.refuses(1, cert, xocsp.Unauthorized) // it has issued nothing
	half := first.NotBefore.Add(first.NotAfter.Sub(first.NotBefore) / 2)
	for _, step := range []struct {
		at      time.Time
		another bool
	}{{a.now, false}, {half.Add(-time.Second), false}, {half, true}, {half.Add(time.Hour), false}} {
		a.now = step.at
		a.keep(t.Context())
		next := a.signer(0, cert)
		if next.Equal(first) == step.another {
			t.Errorf("at %s: another is %v, want %v", step.at, !next.Equal(first), step.another)
		}
		if step.another && next.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(first.PublicKey) {
			t.Error("with the same key")
		}
		first = next
	}
	var text bytes.Buffer
	a.writeMetrics(&text)
	if !strings.Contains(text.String(), `pkid_ocsp_responder_not_after_seconds{issuer="`+a.issuers[0].ID()+`"}`) {
		t.Error(text.String())
	}
}

// An issuing CA that has retired goes on answering for the certificates that it issued, until the last has expired; and
// the responder's own does not keep it from its end.
func TestRespondersOfEarlierIssuers(t *testing.T) {
	a := newAnswering(t)
	old := a.client()
	a.keep(t.Context())
	a.now = a.issuers[1].From
	last := a.now.Add(10 * 24 * time.Hour)
	a.known = []rollover.Issuer{{Issuer: a.issuers[0], State: rollover.Retiring, LastExpiry: last}, {Issuer: a.issuers[1], State: rollover.Active}}
	a.keep(t.Context())
	recent := a.client()
	for step := range 10 {
		a.now = a.now.Add(24*time.Hour - time.Second)
		a.keep(t.Context())
		if end := a.signer(0, old).NotAfter; end.After(last) || !end.After(a.now) {
			t.Errorf("day %d: until %s, where the last certificate ends at %s", step, end, last)
		}
		a.signer(1, recent)
	}
	issued := a.issued()
	a.keep(t.Context())
	if n := a.issued(); n != issued {
		t.Errorf("%d certificates more, which last no longer", n-issued)
	}
	if end := a.signer(0, old).NotAfter; !end.Equal(last) {
		t.Errorf("until %s, want %s", end, last)
	}
	if answer, err := a.ask(0, recent); err != nil || answer.Status != xocsp.Unknown {
		t.Errorf("another issuing CA's serial number: %v, %v", answer, err)
	}
	a.now = last
	a.keep(t.Context())
	a.refuses(0, old, xocsp.Unauthorized)
	if err := a.check(t.Context()); err != nil {
		t.Error(err)
	}
}

// issued counts the responders' certificates.
func (a *answering) issued() int {
	a.t.Helper()
	page, err := a.authority.List(a.t.Context(), ca.Query{Profile: ca.ResponderProfile, Limit: 1000})
	if err != nil {
		a.t.Fatal(err)
	}
	return len(page.Records)
}

// What was taken over from another program may outlive the issuing CA; its responder does not.
func TestRespondersEndWithTheirIssuer(t *testing.T) {
	a := newAnswering(t)
	cert := a.client()
	end := a.issuers[0].Signer.Certificate().NotAfter
	a.known = []rollover.Issuer{{Issuer: a.issuers[0], State: rollover.Retiring, LastExpiry: end.Add(time.Hour)}}
	a.now = end.Add(-time.Hour)
	a.keep(t.Context())
	a.now = end.Add(-time.Second)
	a.keep(t.Context())
	if last := a.signer(0, cert).NotAfter; !last.Equal(end) || a.issued() != 1 {
		t.Errorf("%d certificates, until %s, want one until %s", a.issued(), last, end)
	}
	a.now = end
	a.keep(t.Context())
	a.refuses(0, cert, xocsp.Unauthorized)
	if err := a.check(t.Context()); err != nil {
		t.Error(err)
	}
}

// What is held is no better than what is revoked, and what cannot be looked up is not unknown.
func TestOCSPRecords(t *testing.T) {
	a := newAnswering(t)
	cert := a.client()
	a.keep(t.Context())
	serial, err := ca.SerialOf(cert.SerialNumber)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		reason ca.Reason
		want   int
	}{{ca.CertificateHold, xocsp.Revoked}, {ca.RemoveFromCRL, xocsp.Good}, {ca.Superseded, xocsp.Revoked}} {
		if _, err := a.authority.Revoke(t.Context(), ca.RevocationRequest{Serial: serial, Reason: step.reason}); err != nil {
			t.Fatal(err)
		}
		answer, err := a.ask(0, cert)
		if err != nil || answer.Status != step.want || step.want == xocsp.Revoked && answer.RevocationReason != int(step.reason) {
			t.Errorf("%s: %+v, %v", step.reason, answer, err)
		}
	}
	if err := a.store.Close(); err != nil {
		t.Fatal(err)
	}
	a.refuses(0, cert, xocsp.TryLater)
	a.keep(t.Context())
	if err := a.check(t.Context()); err != nil {
		t.Errorf("the store is away, and the responder is not: %v", err)
	}
}

func TestResponderCertificateIsRevoked(t *testing.T) {
	a := newAnswering(t)
	cert := a.client()
	a.keep(t.Context())
	first := a.signer(0, cert)
	serial, err := ca.SerialOf(first.SerialNumber)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.authority.Revoke(t.Context(), ca.RevocationRequest{Serial: serial, Reason: ca.KeyCompromise}); err != nil {
		t.Fatal(err)
	}
	a.keep(t.Context())
	if a.signer(0, cert).Equal(first) {
		t.Error("it goes on signing")
	}
}

// While the issuing key is away, the certificate that is there is used to its end. Then there is no answer, and /readyz
// says so.
func TestResponderWhileTheIssuingKeyIsAway(t *testing.T) {
	a := newAnswering(t)
	cert := a.client()
	ready := func(want bool) {
		t.Helper()
		if err := a.check(t.Context()); (err == nil) != want {
			t.Errorf("at %s: %v", a.now, err)
		}
	}
	a.signers[0].away = true
	a.keep(t.Context())
	a.refuses(0, cert, xocsp.TryLater)
	ready(false)
	a.signers[0].away = false
	a.keep(t.Context())
	end := a.signer(0, cert).NotAfter
	ready(true)

	a.signers[0].away = true
	a.now = end.Add(-time.Minute)
	a.keep(t.Context())
	if answer, err := a.ask(0, cert); err != nil || answer.NextUpdate.After(end) {
		t.Errorf("until %v, %v", answer, err)
	}
	ready(true)
	a.now = end
	a.keep(t.Context())
	a.refuses(0, cert, xocsp.TryLater)
	ready(false)
	a.signers[0].away = false
	a.keep(t.Context())
	a.signer(0, cert)
	ready(true)
}

// The first certificate of an issuing CA finds a responder that answers for it.
func TestResponderComesBeforeTheFirstCertificate(t *testing.T) {
	a := newAnswering(t)
	cert := a.client()
	a.now = a.issuers[1].From.Add(-respondersAhead - time.Second)
	a.keep(t.Context())
	a.refuses(1, cert, xocsp.Unauthorized)
	a.now = a.issuers[1].From.Add(-respondersAhead)
	a.keep(t.Context())
	if answer, err := a.ask(1, cert); err != nil || answer.Status != xocsp.Unknown {
		t.Errorf("of the issuing CA that is to come: %v, %v", answer, err)
	}
	before := a.signer(1, cert)
	a.now = a.issuers[1].From
	a.known[0].State, a.known[0].LastExpiry, a.known[1].State = rollover.Retiring, cert.NotAfter, rollover.Active
	a.keep(t.Context())
	if first := a.client(); !a.signer(1, first).Equal(before) {
		t.Error("another certificate, when it begins to sign")
	}
}

// An operator's word counts also while the issuing key is away.
func TestNoAnswerIsSignedByARevokedResponder(t *testing.T) {
	a := newAnswering(t)
	cert := a.client()
	a.keep(t.Context())
	serial, err := ca.SerialOf(a.signer(0, cert).SerialNumber)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.authority.Revoke(t.Context(), ca.RevocationRequest{Serial: serial, Reason: ca.CertificateHold}); err != nil {
		t.Fatal(err)
	}
	a.signers[0].away = true
	a.keep(t.Context())
	a.refuses(0, cert, xocsp.TryLater)
	if err := a.check(t.Context()); !errors.Is(err, ca.ErrSignerAway) {
		t.Errorf("/readyz: %v", err)
	}
	a.signers[0].away = false
	a.keep(t.Context())
	if answer, err := a.ask(0, cert); err != nil || answer.Status != xocsp.Good {
		t.Errorf("%v, %v", answer, err)
	}
}

// After the clock was set back there is a certificate that is good already.
func TestResponderCertificateOfAClockThatWasAhead(t *testing.T) {
	a := newAnswering(t)
	cert := a.client()
	a.now = a.now.Add(4 * time.Minute)
	a.keep(t.Context())
	a.now = a.now.Add(-4 * time.Minute)
	a.refuses(0, cert, xocsp.TryLater)
	a.keep(t.Context())
	if signer := a.signer(0, cert); signer.NotBefore.After(a.now) {
		t.Errorf("good from %s on, at %s", signer.NotBefore, a.now)
	}
}

// While a device hangs, /readyz and the metrics answer, and the other issuing CAs have their responders.
func TestResponderWhileADeviceHangs(t *testing.T) {
	a := newAnswering(t)
	a.signers[0].hangs = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	kept, asked := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(kept)
		a.keep(ctx)
	}()
	<-a.signers[0].hangs
	go func() {
		defer close(asked)
		_ = a.check(ctx)
		a.writeMetrics(io.Discard)
	}()
	select {
	case <-asked:
	case <-time.After(10 * time.Second):
		t.Error("they wait for the device")
	}
	cancel()
	<-kept
}

// What changes in the ring of keys, the responders hear of at once.
func TestRespondersFollowTheRing(t *testing.T) {
	d := opened(t, created(t))
	if err := d.followRing(t.Context()); err != nil || len(d.responders.wake) != 1 {
		t.Errorf("%v; they were woken %d times", err, len(d.responders.wake))
	}
}

func TestADeviceThatHangsDelaysItsOwnResponderOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswering(t)
		cert := a.client()
		a.now = a.issuers[1].From
		a.signers[0].hangs = make(chan struct{}, 1)
		a.keep(t.Context())
		a.refuses(0, cert, xocsp.TryLater)
		if err := a.check(t.Context()); err == nil {
			t.Error("/readyz knows nothing of it")
		}
		a.signer(1, cert)
	})
}

func TestRespondersIssueInTheirOwnName(t *testing.T) {
	a := newAnswering(t)
	a.keep(t.Context())
	page, err := a.authority.List(t.Context(), ca.Query{Profile: ca.ResponderProfile, Limit: 10})
	if err != nil || len(page.Records) != 1 || page.Records[0].ClientID != enroll.Daemon || config.ProfileResponder != ca.ResponderProfile {
		t.Errorf("%+v, %v", page, err)
	}
}
