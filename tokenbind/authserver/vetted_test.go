package authserver

import (
	"crypto/x509"
	"testing"
	"time"
)

// What was found good of a certificate is checked again as soon as it may no longer be.
func TestVet_AnchorsThatChanged(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	mustIssue(t, h.token(clientID("a"), presenting(cert)))
	ours := h.anchors
	h.anchors = x509.NewCertPool()
	h.anchors.AddCert(newCA(t, "Another CA", h.clock.now()).cert)
	mustRefuse(t, h.token(clientID("a"), presenting(cert)), 401, "invalid_client", "trusted CA")
	h.anchors = ours
	mustIssue(t, h.token(clientID("a"), presenting(cert)))
}

func TestVet_CAThatExpired(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	h.ca = newCA(t, "Old CA", h.clock.now().Add(12*time.Hour).AddDate(-1, 0, 0)) // it ends before what it issues
	h.anchors.AddCert(h.ca.cert)
	short := h.issue("a", leafTemplate("a", h.clock.now()))
	for range 2 {
		mustIssue(t, h.token(clientID("a"), presenting(short)))
		mustIssue(t, h.token(clientID("a"), presenting(cert)))
	}
	h.clock.advance(12*time.Hour + time.Minute)
	mustRefuse(t, h.token(clientID("a"), presenting(short)), 401, "invalid_client", "trusted CA")
	mustIssue(t, h.token(clientID("a"), presenting(cert)))
}

func TestVet_ChainThatIsNotValidYet(t *testing.T) {
	h := newHouse(t)
	h.enrol("a")
	h.ca = newCA(t, "New CA", h.clock.now())
	h.anchors.AddCert(h.ca.cert)
	template := leafTemplate("a", h.clock.now())
	template.NotBefore = h.clock.now().Add(-3 * time.Hour) // before its issuer's
	cert := h.issue("a", template)
	mustIssue(t, h.token(clientID("a"), presenting(cert)))
	h.clock.advance(-2 * time.Hour)
	mustRefuse(t, h.token(clientID("a"), presenting(cert)), 401, "invalid_client", "trusted CA")
}

func TestVet_NameThatChanged(t *testing.T) {
	h := newHouse(t)
	template := leafTemplate("a", h.clock.now())
	template.DNSNames = []string{"a.example"}
	h.enrol("a")
	cert := h.issue("a", template)
	mustIssue(t, h.token(clientID("a"), presenting(cert)))
	for _, name := range []struct {
		kind SubjectKind
		text string
		good bool
	}{{SubjectDN, "CN=b", false}, {SANDNS, "a.example", true}, {SANURI, "urn:a", false}, {SANDNS, "b.example", false}, {SubjectDN, "CN=a", true}} {
		h.set("a", func(c *Client) { c.SubjectKind, c.Subject = name.kind, name.text })
		for range 2 {
			a := h.token(clientID("a"), presenting(cert))
			if name.good {
				mustIssue(t, a)
			} else {
				mustRefuse(t, a, 401, "invalid_client", "does not have the "+string(name.kind))
			}
		}
	}
}

// A certificate that was looked at with one client is no other's.
func TestVet_CertificateOfAnotherClient(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	h.add(Client{ID: "b", Auth: TLSClientAuth, SubjectKind: SubjectDN, Subject: "CN=a"})
	mustIssue(t, h.token(clientID("a"), presenting(cert)))
	mustRefuse(t, h.token(clientID("b"), presenting(cert)), 401, "invalid_client", "another client")
}

func TestVet_IsBounded(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	for range 3 {
		mustIssue(t, h.token(clientID("a"), presenting(cert)))
	}
	if n := h.vetted.Len(); n != 1 {
		t.Errorf("%d certificates are remembered; want one", n)
	}
	other := h.issue("a", leafTemplate("b", h.clock.now()))
	mustRefuse(t, h.token(clientID("a"), presenting(other)), 401, "invalid_client", "does not have")
	if n := h.vetted.Len(); n != 1 {
		t.Errorf("%d certificates are remembered, one that was refused among them", n)
	}
}
