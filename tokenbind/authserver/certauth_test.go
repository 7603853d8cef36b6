package authserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// endpoints are those that clients authenticate to, with a form that is otherwise good.
var endpoints = map[string][]string{
	TokenPath:      {"grant_type", "client_credentials"},
	IntrospectPath: {"token", "x"},
	RevokePath:     {"token", "x"},
}

func TestA01_OnlyACertificateOfACompletedHandshakeCounts(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"a"}}.Encode()
	for name, test := range map[string]struct {
		state *tls.ConnectionState
		want  int
	}{
		"completed":    {&tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{cert.Leaf}}, http.StatusOK},
		"not complete": {&tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}}, http.StatusUnauthorized},
		"no TLS":       {nil, http.StatusUnauthorized},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, TokenPath, strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.TLS = test.state
		w := httptest.NewRecorder()
		h.Token(w, r)
		if w.Code != test.want {
			t.Errorf("%s: status %d, %s; want %d", name, w.Code, w.Body, test.want)
		}
	}
}

func TestA02_CertificateWithoutClientIDRefused(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	for path, form := range endpoints {
		mustRefuse(t, h.post(path, form, presenting(cert)), 400, "invalid_request", "client_id")
	}
}

func TestA03_CertificateOfAnotherClientRefusedEverywhere(t *testing.T) {
	h := newHouse(t)
	h.enrol("a")
	other := h.enrol("b")
	for path, form := range endpoints {
		mustRefuse(t, h.post(path, append(clientID("a"), form...), presenting(other)), 401, "invalid_client", "another client")
	}
}

func TestA03_ClientIDAloneRefusedEverywhere(t *testing.T) {
	h := newHouse(t)
	h.enrol("a")
	for path, form := range endpoints {
		mustRefuse(t, h.post(path, append(clientID("a"), form...)), 401, "invalid_client", "does not authenticate")
	}
}

func TestA04_NoOrWrongCertificateIsInvalidClient(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	stranger := sign(t, nil, newKey(t), leafTemplate("a", h.clock.now()))
	mustRefuse(t, h.token(clientID("a")), 401, "invalid_client", "present the client's certificate")
	h.mustFail(h.token(clientID("a"), presenting(stranger)), "no record")
	mustRefuse(t, h.token(clientID("nobody"), presenting(cert)), 401, "invalid_client", "another client")
}

func TestA05_ChainAndSubjectMustBothHold(t *testing.T) {
	h := newHouse(t)
	good := h.enrol("a")
	mustIssue(t, h.token(clientID("a"), presenting(good)))

	subject := h.issue("a", leafTemplate("b", h.clock.now()))
	mustRefuse(t, h.token(clientID("a"), presenting(subject)), 401, "invalid_client", "tls_client_auth_subject_dn")

	chain := sign(t, newCA(t, "Another CA", h.clock.now()), newKey(t), leafTemplate("a", h.clock.now()))
	h.record("a", chain)
	mustRefuse(t, h.token(clientID("a"), presenting(chain)), 401, "invalid_client", "trusted CA")
}

func TestA05_EachKindOfSubject(t *testing.T) {
	h := newHouse(t)
	uri, _ := url.Parse("spiffe://example/a")
	for kind, subject := range map[SubjectKind]string{
		SubjectDN: "CN=a, O=Example", SANDNS: "A.example", SANURI: "spiffe://example/a", SANIP: "192.0.2.1", SANEmail: "a@example.com",
	} {
		id := string(kind)
		h.add(Client{ID: id, Auth: TLSClientAuth, SubjectKind: kind, Subject: subject})
		template := leafTemplate("a", h.clock.now())
		template.Subject.Organization = []string{"Example"}
		template.DNSNames = []string{"other.example", "a.example"}
		template.URIs = []*url.URL{uri}
		template.IPAddresses = []net.IP{net.ParseIP("192.0.2.1")}
		template.EmailAddresses = []string{"a@example.com"}
		mustIssue(t, h.token(clientID(id), presenting(h.issue(id, template))))
		without := leafTemplate("b", h.clock.now())
		without.DNSNames = []string{"sub.a.example", "a.example.evil"}
		mustRefuse(t, h.token(clientID(id), presenting(h.issue(id, without))), 401, "invalid_client", id)
	}
}

func TestA08_IPComparedInBinary(t *testing.T) {
	cert := &x509.Certificate{IPAddresses: []net.IP{net.ParseIP("2001:db8::1"), net.ParseIP("192.0.2.1").To4()}}
	for text, want := range map[string]bool{
		"2001:db8::1": true, "2001:0DB8:0:0:0:0:0:0001": true, "192.0.2.1": true, "::ffff:192.0.2.1": true,
		"2001:db8::2": false, "192.0.2.10": false,
	} {
		c := &Client{ID: "a", Auth: TLSClientAuth, SubjectKind: SANIP, Subject: text}
		if err := c.validate(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got := subjectMatches(c, cert); got != want {
			t.Errorf("%s: matches %t, want %t", text, got, want)
		}
	}
}

func TestA09_RenewedCertificateNeedsNoChange(t *testing.T) {
	h := newHouse(t)
	first := h.enrol("a")
	mustIssue(t, h.token(clientID("a"), presenting(first)))
	second := h.issue("a", leafTemplate("a", h.clock.now()))
	mustIssue(t, h.token(clientID("a"), presenting(second)))
	if c, _ := h.registry.Get(t.Context(), "a"); c.Version != 1 {
		t.Errorf("the record is at version %d; want 1", c.Version)
	}
}

func TestA10_RevokedCertificateIsInvalidClient(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	h.certs.revoke(cert)
	for path, form := range endpoints {
		mustRefuse(t, h.post(path, append(clientID("a"), form...), presenting(cert)), 401, "invalid_client", "revoked")
	}
}

func TestA10_HeldCertificateIsToldApart(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	h.certs.set(cert, func(s *CertificateStatus) { s.Revoked, s.Held = true, true })
	for path, form := range endpoints {
		mustRefuse(t, h.post(path, append(clientID("a"), form...), presenting(cert)), 401, "invalid_client", "on hold; ask the operator")
	}
	h.certs.set(cert, func(s *CertificateStatus) { s.Revoked, s.Held = false, false })
	mustIssue(t, h.token(clientID("a"), presenting(cert)))
}

// A client that bears an operator's name must not make the operator's certificate a credential for tokens.
func TestOperatorsCertificateIsNoClientCredential(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("operator")
	h.certs.set(cert, func(s *CertificateStatus) { s.Operator = true })
	for path, form := range endpoints {
		mustRefuse(t, h.post(path, append(clientID("operator"), form...), presenting(cert)), 401, "invalid_client", "operator's certificate")
	}
	h.set("operator", func(c *Client) { c.Disabled = true }) // for binding neither
	secret := h.add(Client{ID: "o", Auth: ClientSecretBasic})
	h.certs.set(cert, func(s *CertificateStatus) { s.ClientID = "o" })
	mustRefuse(t, h.token(nil, basic("o", secret), presenting(cert)), 400, "invalid_request", "operator's certificate")
}

func TestA11_SameSubjectFromAnotherTrustedCARefused(t *testing.T) {
	h := newHouse(t)
	h.enrol("a")
	other := newCA(t, "Another CA", h.clock.now())
	h.anchors.AddCert(other.cert)
	cert := sign(t, other, newKey(t), leafTemplate("a", h.clock.now()))
	h.mustFail(h.token(clientID("a"), presenting(cert)), "no record")
}

func TestA11_CAIsKnownByItsKeyNotItsName(t *testing.T) {
	h := newHouse(t)
	h.enrol("a")
	namesake := newCA(t, h.ca.cert.Subject.CommonName, h.clock.now())
	cert := sign(t, namesake, newKey(t), leafTemplate("a", h.clock.now()))
	if _, err := h.checkChain(cert.Leaf, h.clock.now()); err == nil {
		t.Fatal("a CA of the same name was trusted")
	}
	h.record("a", cert) // as if even the record were wrong
	mustRefuse(t, h.token(clientID("a"), presenting(cert)), 401, "invalid_client", "trusted CA")
}

func TestA15_SelfSignedClientsSeeNoListOfCAs(t *testing.T) {
	h := newHouse(t)
	cert, set := selfSigned(t, h.clock.now())
	h.add(Client{ID: "a", Auth: SelfSignedTLSClientAuth, JWKS: set})
	var listed int
	asked := func(_ *http.Request, c *tls.Config) {
		c.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			listed = len(info.AcceptableCAs)
			return &cert, info.SupportsCertificate(&cert)
		}
	}
	mustIssue(t, h.token(clientID("a"), asked))
	if listed != 0 {
		t.Errorf("the server lists %d CAs", listed)
	}
}

func TestA16_OneListenerServesClientsWithAndWithoutCertificate(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	secret := h.add(Client{ID: "b", Auth: ClientSecretBasic})
	mustIssue(t, h.token(clientID("a"), presenting(cert)))
	mustIssue(t, h.token(nil, basic("b", secret), header("DPoP", h.prover().proof(""))))
}

func TestA30_ForwardedCertificateRefusedEverywhere(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	for path, form := range endpoints {
		for _, name := range []string{"Client-Cert", "X-Forwarded-Client-Cert", "X-SSL-Client-Cert"} {
			for _, values := range [][]string{{":AAAA:"}, {""}, {":AAAA:", ":AAAA:"}} {
				a := h.post(path, append(clientID("a"), form...), presenting(cert), header(name, values...))
				mustRefuse(t, a, 400, "invalid_request", "trusted proxy")
			}
		}
	}
}

func TestA31_ChainsAreValidatedByTheLibrary(t *testing.T) {
	h := newHouse(t)
	stranger := sign(t, nil, newKey(t), leafTemplate("a", h.clock.now()))
	var unknown x509.UnknownAuthorityError
	if _, err := h.checkChain(stranger.Leaf, h.clock.now()); !errors.As(err, &unknown) {
		t.Errorf("got %v; want crypto/x509's own error", err)
	}
}

func TestA32_CertificateMustBeOneForTLSClients(t *testing.T) {
	h := newHouse(t)
	h.enrol("a")
	now := h.clock.now()
	for name, spoil := range map[string]func(*x509.Certificate){
		"for servers":        func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"a CA's":             func(c *x509.Certificate) { c.IsCA = true },
		"not for signatures": func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment },
		"an unknown critical extension": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		},
	} {
		template := leafTemplate("a", now)
		spoil(template)
		cert := h.issue("a", template)
		a := h.token(clientID("a"), presenting(cert))
		if a.status != 401 || a.text("error") != "invalid_client" {
			t.Errorf("%s: %d %v", name, a.status, a.body)
		}
	}
	// Basic constraints: a leaf cannot issue.
	leaf := h.issue("a", leafTemplate("a", now))
	below := sign(t, &testCA{leaf.Leaf, leaf.PrivateKey.(*ecdsa.PrivateKey)}, newKey(t), leafTemplate("a", now))
	h.record("a", below)
	h.anchors.AddCert(h.ca.cert)
	mustRefuse(t, h.token(clientID("a"), presenting(below)), 401, "invalid_client", "trusted CA")
}

func TestA33_WildcardInACertificateMatchesNothing(t *testing.T) {
	h := newHouse(t)
	h.add(Client{ID: "a", Auth: TLSClientAuth, SubjectKind: SANDNS, Subject: "a.example"})
	template := leafTemplate("x", h.clock.now())
	template.DNSNames = []string{"*.example"}
	mustRefuse(t, h.token(clientID("a"), presenting(h.issue("a", template))), 401, "invalid_client", "san_dns")
}

func TestA34_CertificateOutsideItsTimeRefused(t *testing.T) {
	h := newHouse(t)
	h.enrol("a")
	now := h.clock.now()
	early, late := leafTemplate("a", now), leafTemplate("a", now)
	early.NotBefore = now.Add(time.Hour)
	late.NotAfter = now.Add(-time.Second)
	mustRefuse(t, h.token(clientID("a"), presenting(h.issue("a", early))), 401, "invalid_client", "not valid before")
	mustRefuse(t, h.token(clientID("a"), presenting(h.issue("a", late))), 401, "invalid_client", "expired")
}

func TestA34_CertificateForBindingIsLookedAtToo(t *testing.T) {
	h := newHouse(t)
	secret := h.add(Client{ID: "b", Auth: ClientSecretBasic})
	cert := h.enrol("a")
	h.record("b", cert)
	_, claims := mustIssue(t, h.token(nil, basic("b", secret), presenting(cert)))
	if member(claims, "cnf", "x5t#S256") == nil {
		t.Error("the token is not bound to the certificate presented")
	}
	h.record("a", cert)
	mustRefuse(t, h.token(nil, basic("b", secret), presenting(cert)), 400, "invalid_request", "another client")
	h.certs.revoke(cert)
	mustRefuse(t, h.token(nil, basic("b", secret), presenting(cert)), 400, "invalid_request", "revoked")
	late := leafTemplate("b", h.clock.now())
	late.NotAfter = h.clock.now().Add(-time.Second)
	mustRefuse(t, h.token(nil, basic("b", secret), presenting(h.issue("b", late))), 400, "invalid_request", "expired")
}

func TestA35_ResumedSessionIsRevalidated(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	conf := &tls.Config{RootCAs: h.roots, Certificates: []tls.Certificate{cert}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	ask := func() (a answer, resumed bool) {
		t.Helper()
		transport := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}
		transport.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&tls.Dialer{Config: conf}).DialContext(ctx, network, addr)
			if err == nil {
				resumed = conn.(*tls.Conn).ConnectionState().DidResume
			}
			return conn, err
		}
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"a"}}.Encode()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.url+TokenPath, io.NopCloser(strings.NewReader(form)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return h.via(transport, req), resumed
	}
	_, first := mustIssue(t, must(ask()))
	a, resumed := ask()
	_, second := mustIssue(t, a)
	if !resumed {
		t.Fatal("the session was not resumed; the test shows nothing")
	}
	if x, y := member(first, "cnf", "x5t#S256"), member(second, "cnf", "x5t#S256"); x != y {
		t.Errorf("bound to %v, then to %v", x, y)
	}
	h.certs.revoke(cert)
	a, resumed = ask()
	mustRefuse(t, a, 401, "invalid_client", "revoked")
	if !resumed {
		t.Error("the session was not resumed after the revocation")
	}
	h.clock.advance(25 * time.Hour)
	a, _ = ask()
	mustRefuse(t, a, 401, "invalid_client", "expired")
}

// must keeps the answer of a pair.
func must(a answer, _ bool) answer { return a }
