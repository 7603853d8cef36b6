package authserver

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/pkid/pkid/thumbprint"
)

// sink is an http.ResponseWriter that costs nothing beside what the handler does.
type sink struct {
	header http.Header
	status int
	body   []byte
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(status int)      { s.status = status }
func (s *sink) Write(p []byte) (int, error) { s.body = append(s.body, p...); return len(p), nil }

func (s *sink) reset() {
	clear(s.header)
	s.status, s.body = 0, s.body[:0]
}

// form is a request body that can be read again.
type form struct {
	bytes.Reader
	text []byte
}

func (f *form) Close() error { return nil }
func (f *form) rewind()      { f.Reset(f.text) }

// benchEndpoint measures a handler without the network: the same form each time, and what prepare changes in the
// request. It returns the last answer.
func benchEndpoint(b *testing.B, path string, handle http.HandlerFunc, values url.Values, prepare func(*http.Request, int)) (answer map[string]any) {
	b.Helper()
	body := &form{text: []byte(values.Encode())}
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, path, io.NopCloser(body))
	if err != nil {
		b.Fatal(err)
	}
	r.ContentLength = int64(len(body.text))
	r.RemoteAddr = "192.0.2.1:1234"
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := &sink{header: http.Header{}}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		body.rewind()
		w.reset()
		prepare(r, i)
		if handle(w, r); w.status != http.StatusOK {
			b.Fatalf("status %d, %s", w.status, w.body)
		}
	}
	b.StopTimer()
	if len(w.body) > 0 {
		if err := json.Unmarshal(w.body, &answer); err != nil {
			b.Fatal(err)
		}
	}
	return answer
}

func withCertificate(c tls.Certificate) func(*http.Request, int) {
	state := &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{c.Leaf}}
	return func(r *http.Request, _ int) { r.TLS = state }
}

var tokenForm = url.Values{"grant_type": {"client_credentials"}, "client_id": {"a"}}

func BenchmarkTokenMTLS(b *testing.B) {
	h := newHouse(b)
	benchEndpoint(b, TokenPath, h.Token, tokenForm, withCertificate(h.enrol("a")))
}

func BenchmarkTokenDPoP(b *testing.B) {
	h := newHouse(b)
	secret := h.add(Client{ID: "a", Auth: ClientSecretBasic, DPoP: true})
	p := h.prover()
	proofs := make([]string, b.N)
	for i := range proofs {
		proofs[i] = p.proof("")
	}
	benchEndpoint(b, TokenPath, h.Token, tokenForm, func(r *http.Request, i int) {
		r.SetBasicAuth("a", secret)
		r.Header.Set("DPoP", proofs[i])
	})
}

func benchIntrospect(b *testing.B, forget func(*house, thumbprint.Token)) {
	h := newHouse(b)
	secret := h.add(Client{ID: "rs", Auth: ClientSecretBasic, Introspect: true})
	token, _ := mustIssue(b, h.token(clientID("a"), presenting(h.enrol("a"))))
	id := thumbprint.OfToken(token)
	answer := benchEndpoint(b, IntrospectPath, h.Server.Introspect, url.Values{"token": {token}}, func(r *http.Request, _ int) {
		r.SetBasicAuth("rs", secret)
		forget(h, id)
	})
	if answer["active"] != true {
		b.Fatal(answer)
	}
}

func BenchmarkIntrospect(b *testing.B) { benchIntrospect(b, func(*house, thumbprint.Token) {}) }

// Each token is seen for the first time.
func BenchmarkIntrospectFirstSight(b *testing.B) {
	benchIntrospect(b, func(h *house, id thumbprint.Token) { h.keys.Load().verified.Drop(id) })
}

// All but the first find the token revoked already.
func BenchmarkRevoke(b *testing.B) {
	h := newHouse(b)
	cert := h.enrol("a")
	token, _ := mustIssue(b, h.token(clientID("a"), presenting(cert)))
	benchEndpoint(b, RevokePath, h.Revoke, url.Values{"token": {token}, "client_id": {"a"}}, withCertificate(cert))
	if n := len(h.revoked.events); n != 1 {
		b.Fatalf("%d revocations of one token", n)
	}
}

func BenchmarkJWKS(b *testing.B) {
	h := newHouse(b)
	answer := benchEndpoint(b, JWKSPath, h.JWKS, nil, func(r *http.Request, _ int) { r.Method = http.MethodGet })
	if answer["keys"] == nil {
		b.Fatal(answer)
	}
}
