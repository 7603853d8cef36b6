package client

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/thumbprint"
)

// fakeCA is a CA of one root and the server that speaks for it, as far as a client can tell.
type fakeCA struct {
	t    *testing.T
	cert *x509.Certificate
	key  crypto.Signer
	srv  *httptest.Server
	mux  *http.ServeMux

	issuers []Issuer // as the CA names them

	mu       sync.Mutex // guards what follows
	lifetime time.Duration
	requests []CSR              // of enrolments and renewals
	alter    func(*Certificate) // spoils an answer
	fail     []int              // statuses to answer enrolments with, before the first success; 0 cuts the connection
	failType string             // of the problems in these answers
}

const fakeClient = "robot-1"

func newFakeCA(t *testing.T) *fakeCA {
	t.Helper()
	key := must(NewKey(""))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	f := &fakeCA{t: t, cert: must(x509.ParseCertificate(der)), key: key, mux: http.NewServeMux(), lifetime: 24 * time.Hour, failType: "urn:pkid:problem:test"}
	f.srv = f.serve(f.mux)
	f.mux.HandleFunc("GET /v1/ca", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, CA{Name: "fake", Root: string(marshalChain([]*x509.Certificate{f.cert})), URLs: URLs{Public: f.srv.URL, MTLS: f.srv.URL}, Issuers: f.issuers})
	})
	f.mux.HandleFunc("POST /v1/certificates", f.enrol)
	f.mux.HandleFunc("POST /v1/certificates/renew", f.renew)
	return f
}

// serve starts a TLS server that the root vouches for and that takes any client certificate.
func (f *fakeCA) serve(h http.Handler) *httptest.Server {
	key := must(NewKey(""))
	leaf := f.sign("server", key.Public(), time.Hour)
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{*must(newPair([]*x509.Certificate{leaf}, key))}, ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	f.t.Cleanup(srv.Close)
	return srv
}

func (f *fakeCA) sign(name string, pub crypto.PublicKey, lifetime time.Duration) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes([]byte(rand.Text()[:12])), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(lifetime), KeyUsage: x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, f.cert, pub, f.key))))
}

func (f *fakeCA) token() EnrolmentToken {
	t := EnrolmentToken{URL: f.srv.URL, Root: thumbprint.OfCertificate(f.cert)}
	rand.Read(t.ID[:])
	rand.Read(t.Secret[:])
	return t
}

// identity returns an enrolled identity in a directory of its own.
func (f *fakeCA) identity() *Identity {
	f.t.Helper()
	id, err := Enroll(f.t.Context(), f.token(), EnrollOptions{Dir: f.t.TempDir()})
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

func (f *fakeCA) enrol(w http.ResponseWriter, r *http.Request) {
	var in CSR
	_ = json.NewDecoder(r.Body).Decode(&in)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, in)
	if len(f.fail) > 0 {
		status := f.fail[0]
		f.fail = f.fail[1:]
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
		reply(w, status, Problem{Type: f.failType, Title: "test", Status: status, Detail: "as the test wants"})
		return
	}
	if _, err := ParseEnrolmentToken(r.Header.Get("Authorization")[len("Bearer "):]); err != nil {
		reply(w, 401, Problem{Title: "no token"})
		return
	}
	csr, err := parseCSR([]byte(in.CSR))
	if err != nil {
		reply(w, 400, Problem{Title: "bad CSR"})
		return
	}
	f.answer(w, csr.PublicKey)
}

func (f *fakeCA) renew(w http.ResponseWriter, r *http.Request) {
	var in CSR
	_ = json.NewDecoder(r.Body).Decode(&in)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, in)
	if len(r.TLS.PeerCertificates) == 0 {
		reply(w, 401, Problem{Title: "no certificate"})
		return
	}
	pub := r.TLS.PeerCertificates[0].PublicKey
	if in.CSR != "" {
		pub = must(parseCSR([]byte(in.CSR))).PublicKey
	}
	f.answer(w, pub)
}

func (f *fakeCA) answer(w http.ResponseWriter, pub crypto.PublicKey) {
	leaf := f.sign(fakeClient, pub, f.lifetime)
	c := Certificate{
		Serial: hex.EncodeToString(leaf.SerialNumber.Bytes()), ClientID: fakeClient,
		Certificate: string(marshalChain([]*x509.Certificate{leaf})),
	}
	if f.alter != nil {
		f.alter(&c)
	}
	reply(w, 201, c)
}

// sent returns the requests of enrolments and renewals so far.
func (f *fakeCA) sent() []CSR {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func mustURL(s string) *url.URL { return must(url.Parse(s)) }
