package authserver

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// benchToken measures the endpoint without the network; each request carries what prepare adds to it.
func benchToken(b *testing.B, h *house, prepare func(*http.Request)) {
	b.Helper()
	requests := make([]*http.Request, 0, b.N)
	for range b.N {
		r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, TokenPath, strings.NewReader("grant_type=client_credentials&client_id=a"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		prepare(r)
		requests = append(requests, r)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, r := range requests {
		w := httptest.NewRecorder()
		if h.Token(w, r); w.Code != http.StatusOK {
			b.Fatalf("status %d, %s", w.Code, w.Body)
		}
	}
}

func BenchmarkTokenMTLS(b *testing.B) {
	h := newHouse(b)
	state := &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{h.enrol("a").Leaf}}
	benchToken(b, h, func(r *http.Request) { r.TLS = state })
}

func BenchmarkTokenDPoP(b *testing.B) {
	h := newHouse(b)
	secret := h.add(Client{ID: "a", Auth: ClientSecretBasic, DPoP: true})
	p := h.prover()
	benchToken(b, h, func(r *http.Request) {
		r.SetBasicAuth("a", secret)
		r.Header.Set("DPoP", p.proof(""))
	})
}
