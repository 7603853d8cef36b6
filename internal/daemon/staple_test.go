package daemon

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"testing"
	"time"

	xocsp "golang.org/x/crypto/ocsp"

	"github.com/pkid/pkid/ca"
)

// A handshake under way keeps the certificate that it was given: what is stapled anew comes with another one.
func TestStapleIsReplacedAsAWhole(t *testing.T) {
	a := newAnswering(t)
	s := a.serverCert()
	none := a.handshake(s)
	a.keep(t.Context())
	s.staple(t.Context(), *s.current.Load())
	first := a.handshake(s)
	if none.OCSPStaple != nil || first.OCSPStaple == nil || !bytes.Equal(none.Certificate[0], first.Certificate[0]) {
		t.Fatal("the certificate was changed, or nothing was stapled")
	}
	if left := time.Until(s.restapleAt); left > 5*time.Minute || left < 4*time.Minute {
		t.Errorf("again in %s, and it holds for %s", left, time.Until(s.current.Load().stapledTo))
	}
	issuer := a.issuers[0].Signer.Certificate()
	serial, err := ca.SerialOf(first.Leaf.SerialNumber)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.authority.Revoke(t.Context(), ca.RevocationRequest{Serial: serial, Reason: ca.Superseded}); err != nil {
		t.Fatal(err)
	}
	s.staple(t.Context(), *s.current.Load())
	for cert, want := range map[*tls.Certificate]int{first: xocsp.Good, a.handshake(s): xocsp.Revoked} {
		if answer, err := xocsp.ParseResponseForCert(cert.OCSPStaple, first.Leaf, issuer); err != nil || answer.Status != want {
			t.Errorf("%+v, %v; want %d", answer, err, want)
		}
	}
}

// Without answers the last one stays for as long as it holds, whether or not anybody looks after it by then.
func TestNoStapleThatHoldsNoMore(t *testing.T) {
	a := newAnswering(t)
	a.keep(t.Context())
	s := a.serverCert()
	if err := a.SetIssuers(); err != nil {
		t.Fatal(err)
	}
	s.staple(t.Context(), *s.current.Load())
	own := s.current.Load()
	if left := time.Until(s.restapleAt); a.handshake(s).OCSPStaple == nil || left > stapleAgain {
		t.Errorf("an answer that holds was dropped, or another is asked for in %s only", left)
	}
	if cert := own.at(own.stapledTo.Add(-time.Second)); cert.OCSPStaple == nil {
		t.Error("an answer that holds is not stapled")
	}
	if cert := own.at(own.stapledTo); cert.OCSPStaple != nil || !bytes.Equal(cert.Certificate[0], own.Certificate.Certificate[0]) {
		t.Error("an answer is stapled that holds no more")
	}
}

// One certificate's answer is not stapled to the next one.
func TestANewCertificateHasNoOldStaple(t *testing.T) {
	a := newAnswering(t)
	a.keep(t.Context())
	s := a.serverCert()
	if err := a.SetIssuers(); err != nil {
		t.Fatal(err)
	}
	if err := s.renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if cert := a.handshake(s); cert.OCSPStaple != nil {
		t.Error("a staple of another certificate")
	}
}

// serverCert is the daemon's own certificate, as it is at the start.
func (a *answering) serverCert() *serverCert {
	a.t.Helper()
	s, err := newServerCert(a.authority, []string{"localhost"}, a.responders, slog.New(slog.DiscardHandler))
	if err == nil {
		err = s.renew(a.t.Context())
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return s
}

func (a *answering) handshake(s *serverCert) *tls.Certificate {
	a.t.Helper()
	cert, err := s.get(nil)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}
