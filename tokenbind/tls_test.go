package tokenbind

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkid/pkid/thumbprint"
)

// tlsKit is a resourceKit behind a real TLS server that asks for a client certificate.
type tlsKit struct {
	*resourceKit
	server  *httptest.Server
	resumed atomic.Int32 // requests on resumed sessions
}

func newTLSKit(t *testing.T, edit func(*Config)) *tlsKit {
	t.Helper()
	k := &tlsKit{resourceKit: newResourceKit(t)}
	k.clock = newClock(time.Now())
	k.cert = newCertificate(t, "client", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	k.x5t = thumbprint.OfCertificate(k.cert.Leaf)
	k.conf.Replay, k.conf.Now = keeping{NewMemoryReplay(100, k.clock.Now)}, k.clock.Now
	k.server = httptest.NewUnstartedServer(nil)
	k.conf.BaseURL = "https://" + k.server.Listener.Addr().String()
	v := k.verifier(t, edit)
	protected := v.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, _ := ClaimsFrom(r.Context())
		_, _ = io.WriteString(w, claims.Subject)
	}))
	k.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.DidResume {
			k.resumed.Add(1)
		}
		protected.ServeHTTP(w, r)
	})
	k.server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	k.server.StartTLS()
	t.Cleanup(k.server.Close)
	return k
}

// client makes a new connection for each request, with a certificate if one is given.
func (k *tlsKit) client(version uint16, certs ...tls.Certificate) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(k.server.Certificate())
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		RootCAs: roots, Certificates: certs, MinVersion: version, MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(8),
	}}}
}

// get returns the status and the body or, if refused, the challenge.
func (k *tlsKit) get(t *testing.T, c *http.Client, header http.Header) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, k.server.URL+"/a/b?c=d", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body) + strings.Join(resp.Header.Values("WWW-Authenticate"), " ")
}

func (k *tlsKit) bearer(t *testing.T) http.Header {
	token := k.token(t, object{"x5t#S256": k.x5t.String()}, func(_, c object) { c["exp"] = k.clock.Now().Add(24 * time.Hour).Unix() })
	return http.Header{"Authorization": {"Bearer " + token}}
}

func wantStatus(t *testing.T, want, got int, text string) {
	t.Helper()
	if got != want {
		t.Errorf("%d, want %d: %s", got, want, text)
	}
}

func TestB01_CertificateFromTLS(t *testing.T) {
	k := newTLSKit(t, func(*Config) {})
	status, text := k.get(t, k.client(tls.VersionTLS13, k.cert), k.bearer(t))
	wantStatus(t, http.StatusOK, status, text)
	status, text = k.get(t, k.client(tls.VersionTLS13), k.bearer(t))
	wantStatus(t, http.StatusUnauthorized, status, text)
	other := newCertificate(t, "client", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	status, text = k.get(t, k.client(tls.VersionTLS13, other), k.bearer(t))
	wantStatus(t, http.StatusUnauthorized, status, text)
}

// Without TLS there is no certificate, and a server that is reached so refuses, and goes on.
func TestB01_NoTLSNoCertificate(t *testing.T) {
	k := newResourceKit(t)
	plain := httptest.NewServer(k.verifier(t).Handler(http.NotFoundHandler()))
	defer plain.Close()
	for range 2 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, plain.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+k.certToken(t))
		resp, err := plain.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if c := challenges(resp)["Bearer"]; resp.StatusCode != http.StatusUnauthorized || !strings.Contains(c, "no client certificate") {
			t.Errorf("%d, %s", resp.StatusCode, c)
		}
	}
}

func TestB04_InTheInitialHandshake(t *testing.T) {
	k := newTLSKit(t, func(*Config) {})
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} { // Go has no renegotiation on the server
		status, text := k.get(t, k.client(version, k.cert), k.bearer(t))
		wantStatus(t, http.StatusOK, status, text)
	}
}

func TestB05_NoChainNeeded(t *testing.T) {
	k := newTLSKit(t, func(*Config) {}) // the certificate is self-signed, no root is configured
	status, text := k.get(t, k.client(tls.VersionTLS13, k.cert), k.bearer(t))
	if status != http.StatusOK || text != "alice" {
		t.Errorf("%d, %s", status, text)
	}
}

func TestA35_ResumedSessionsAreCheckedAgain(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			var list revoked
			k := newTLSKit(t, func(c *Config) { c.Revocation = &list })
			c := k.client(version, k.cert)
			for range 2 {
				status, text := k.get(t, c, k.bearer(t))
				wantStatus(t, http.StatusOK, status, text)
			}
			if k.resumed.Load() == 0 {
				t.Fatal("no session was resumed")
			}

			gone := io.ErrClosedPipe
			list.err.Store(&gone)
			status, text := k.get(t, c, k.bearer(t))
			wantStatus(t, http.StatusUnauthorized, status, text)
			list.err.Store(nil)

			k.clock.Add(2 * time.Hour) // the certificate has expired, the session has not
			before := k.resumed.Load()
			status, text = k.get(t, c, k.bearer(t))
			wantStatus(t, http.StatusUnauthorized, status, text)
			if !strings.Contains(text, "certificate validity") || k.resumed.Load() == before {
				t.Errorf("%s (resumed %d times)", text, k.resumed.Load())
			}
		})
	}
}

func TestDPoPOverTLS(t *testing.T) {
	k := newTLSKit(t, func(*Config) {})
	token := k.dpopToken(t)
	proof, err := k.proofs.Proof(http.MethodGet, k.server.URL+"/a/b?c=d", ProofOptions{AccessToken: token})
	if err != nil {
		t.Fatal(err)
	}
	header := http.Header{"Authorization": {"DPoP " + token}, "Dpop": {proof}}
	c := k.client(tls.VersionTLS13)
	status, text := k.get(t, c, header)
	wantStatus(t, http.StatusOK, status, text)
	status, text = k.get(t, c, header)
	if status != http.StatusUnauthorized || !strings.Contains(text, "replay") {
		t.Errorf("%d, %s", status, text)
	}
}

func TestH90_TokenInTheHeader(t *testing.T) {
	k := newTLSKit(t, func(*Config) {})
	c := k.client(tls.VersionTLS13, k.cert)
	status, text := k.get(t, c, http.Header{})
	wantStatus(t, http.StatusUnauthorized, status, text)
	status, text = k.get(t, c, k.bearer(t))
	wantStatus(t, http.StatusOK, status, text)
}

func TestH94_TokenMustBeBound(t *testing.T) {
	k := newTLSKit(t, func(*Config) {})
	header := http.Header{"Authorization": {"Bearer " + k.token(t, nil)}}
	status, text := k.get(t, k.client(tls.VersionTLS13, k.cert), header)
	wantStatus(t, http.StatusUnauthorized, status, text)
}
