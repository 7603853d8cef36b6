package integration

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pkitest"
)

// The daemon's own mTLS listener, not a test's copy of it, names no acceptable CAs: a client that holds a
// certificate of another CA, or one of its own making, would otherwise send none.
func TestA15_DaemonNamesNoAcceptableCAs(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{})
	id := s.Enrol(t, client.InvitationRequest{ClientID: "a"})
	asked := false
	conf := id.TLSConfig()
	conf.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked = true
		if len(info.AcceptableCAs) != 0 {
			t.Errorf("the listener names %d CAs", len(info.AcceptableCAs))
		}
		return id.Certificate(), nil
	}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(s.URLs.MTLS, "https://"), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// With TLS 1.3 the client's certificate is part of the flight that the first read confirms.
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	conn.Write([]byte("GET /v1/ca HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
	if got := pkitest.ReadAll(t, conn); !bytes.Contains(got, []byte("200 OK")) || !asked {
		t.Errorf("asked for a certificate: %v; answer: %.100s", asked, got)
	}
}

func TestA16_DaemonServesMTLSListenerWithoutCertificate(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{})
	id := s.Enrol(t, client.InvitationRequest{ClientID: "a"})
	conf := id.TLSConfig()
	conf.GetClientCertificate = nil
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}, Timeout: 5 * time.Second}
	resp, err := hc.Get(s.URLs.MTLS + "/.well-known/oauth-authorization-server")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("metadata without a certificate: %s", resp.Status)
	}
}

// A certificate for servers alone renews itself like any other: the handshake proves its key, and no
// extended key usage is asked of who renews.
func TestServerCertificateRenews(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{})
	id := s.Enrol(t, client.InvitationRequest{ClientID: "web", Profile: "server", SANs: []string{"web.example"}})
	before := id.Certificate().Leaf.SerialNumber
	for _, rekey := range []bool{false, true} {
		if err := id.Renew(t.Context(), client.RenewOptions{Rekey: rekey}); err != nil {
			t.Fatalf("rekey %v: %v", rekey, err)
		}
		leaf := id.Certificate().Leaf
		if leaf.SerialNumber.Cmp(before) == 0 || leaf.VerifyHostname("web.example") != nil {
			t.Errorf("rekey %v: serial %x, names %v", rekey, leaf.SerialNumber, leaf.DNSNames)
		}
		before = leaf.SerialNumber
	}
}

// Restarting loses nothing: the certificate, its revocation and the CRL's number are as they were.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	id := s.Enrol(t, client.InvitationRequest{ClientID: "a"})
	op := s.Operator(t)
	serial := func(c *client.Identity) string {
		page := op.Certificates(t.Context(), client.CertificateFilter{Thumbprint: pkitest.Thumbprint(c).String()})
		for rec, err := range page {
			if err != nil {
				t.Fatal(err)
			}
			return rec.Serial
		}
		t.Fatal("the certificate is not listed")
		return ""
	}(id)
	if _, err := op.Revoke(t.Context(), serial, client.Revocation{Reason: "superseded"}); err != nil {
		t.Fatal(err)
	}
	s.Stop(t)
	s = pkitest.Serve(t, s.Dir, pkitest.Options{})
	rec, err := s.Operator(t).Certificate(t.Context(), serial)
	if err != nil || rec.Status != "revoked" || rec.RevocationReason != "superseded" {
		t.Errorf("after a restart: %+v, %v", rec, err)
	}
	if err := id.Renew(t.Context(), client.RenewOptions{}); err == nil {
		t.Error("the revoked certificate renewed itself after a restart")
	}
}
