package tokenbind

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/pkid/pkid/thumbprint"
)

// forwarded is a request with a certificate-bound token as a proxy hands it on.
func (k *resourceKit) forwarded(t testing.TB, p *Proxies, cert *x509.Certificate) *http.Request {
	t.Helper()
	r := k.request("Bearer " + k.certToken(t))
	r.TLS, r.RemoteAddr = nil, proxyAddress
	if cert != nil {
		r.Header.Set(p.header, derOf(cert))
	}
	return r
}

// TestA29_TokenBoundToForwardedCertificate: the certificate that a trusted proxy hands on is judged as one that was proved
// here.
func TestA29_TokenBoundToForwardedCertificate(t *testing.T) {
	k, other := newResourceKit(t), proxyCert(t, "client.pem")
	p := proxies(t, withForm(FormHAProxy))
	revoked := &revocation{}
	v := k.verifier(t, func(c *Config) { c.Proxies, c.Revocation = p, revoked })
	for range 2 { // the second time by what is remembered of the token
		accepts(t, v, k.forwarded(t, p, k.cert.Leaf))
	}
	refuses(t, v, k.forwarded(t, p, other), invalid, CodeInvalidToken, "certificate")
	refuses(t, v, k.forwarded(t, p, nil), invalid, CodeInvalidToken, "certificate")

	own := k.forwarded(t, p, nil) // the proxy's own certificate is not its client's
	own.TLS = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{k.cert.Leaf}}
	refuses(t, v, own, invalid, CodeInvalidToken, "certificate")
	stranger := k.forwarded(t, p, k.cert.Leaf)
	stranger.RemoteAddr = "203.0.113.1:443"
	refuses(t, v, stranger, 400, CodeInvalidRequest, "forwarded certificate")
	twice := k.forwarded(t, p, k.cert.Leaf)
	twice.Header.Add(p.header, derOf(k.cert.Leaf))
	refuses(t, v, twice, 400, CodeInvalidRequest, "forwarded certificate")

	revoked.err = errors.New("certificate is revoked")
	refuses(t, v, k.forwarded(t, p, k.cert.Leaf), invalid, CodeInvalidToken, "certificate revocation")
	if !revoked.seen.Equal(thumbprint.OfCertificate(k.cert.Leaf)) {
		t.Error("the revocation of another certificate was asked for")
	}
}

type revocation struct {
	err  error
	seen thumbprint.Cert
}

func (r *revocation) Check(_ context.Context, c *x509.Certificate) error {
	r.seen = thumbprint.OfCertificate(c)
	return r.err
}

// TestF14_SeveralPublicHosts: the host chooses among the server's own, and a proof is good at the one that it names,
// whoever sends the host on.
func TestF14_SeveralPublicHosts(t *testing.T) {
	k := newResourceKit(t)
	p := proxies(t)
	v := k.verifier(t, func(c *Config) {
		c.Proxies, c.BaseURLs = p, []string{"https://rs.example", "https://api.example:8443/v1", "http://Inside.example:80"}
	})
	ask := func(htu, host, forwardedHost string) *http.Request {
		t.Helper()
		token := k.dpopToken(t)
		proof, err := k.proofs.Proof(http.MethodGet, htu, ProofOptions{AccessToken: token, Now: k.clock.Now()})
		if err != nil {
			t.Fatal(err)
		}
		r := k.request("DPoP " + token)
		r.TLS, r.RemoteAddr, r.Host = nil, proxyAddress, host
		r.Header.Set("DPoP", proof)
		if forwardedHost != "" {
			r.Header.Set("X-Forwarded-Host", forwardedHost)
		}
		return r
	}
	accepts(t, v, ask("https://rs.example/things/1", "rs.example:443", ""))
	accepts(t, v, ask("https://rs.example/things/1", "10.0.0.7", "RS.example"))
	accepts(t, v, ask("https://api.example:8443/v1/things/1", "10.0.0.7", "api.example:8443"))
	accepts(t, v, ask("http://inside.example/things/1", "inside.example", ""))
	refuses(t, v, ask("https://rs.example/things/1", "rs.example", "api.example:8443"), invalid, CodeInvalidProof, "htu")
	e := refuses(t, v, ask("https://evil.example/things/1", "rs.example", "evil.example"), invalid, CodeInvalidProof, "htu")
	if !strings.Contains(e.Description, "none of this server's") {
		t.Error(e.Description)
	}
	stranger := ask("https://rs.example/things/1", "api.example:8443", "rs.example") // who may not say what host it was
	stranger.RemoteAddr = "203.0.113.1:443"
	refuses(t, v, stranger, invalid, CodeInvalidProof, "htu")

	for name, edit := range map[string]func(*Config){
		"one host twice":     func(c *Config) { c.BaseURLs = []string{"https://rs.example/a", "http://RS.example:80/b"} },
		"both":               func(c *Config) { c.BaseURL, c.BaseURLs = "https://rs.example", []string{"https://rs.example"} },
		"with a query":       func(c *Config) { c.BaseURLs = []string{"https://rs.example?x"} },
		"the request's host": func(c *Config) { c.BaseURLs, c.InsecureHostFromRequest = []string{"https://rs.example"}, true },
		"not for FAPI 2.0":   func(c *Config) { c.FAPI2, c.Tokens, c.BaseURLs = true, noStatus{}, []string{"http://rs.example"} },
	} {
		c := k.conf
		edit(&c)
		if _, err := NewVerifier(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

type noStatus struct{}

func (noStatus) CheckToken(context.Context, *Claims) error { return nil }

// TestF14_ProxyTellsTheHost: where the host of a request counts, it is the one that a trusted proxy tells.
func TestF14_ProxyTellsTheHost(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.Proxies, c.InsecureHostFromRequest = proxies(t), true })
	told := func() *http.Request {
		r := k.behindProxy(t)
		r.RemoteAddr = proxyAddress
		r.Header.Set("X-Forwarded-Proto", "https")
		r.Header.Set("X-Forwarded-Host", "rs.example")
		return r
	}
	accepts(t, v, told())
	stranger := told()
	stranger.RemoteAddr = "203.0.113.1:443"
	refuses(t, v, stranger, invalid, CodeInvalidProof, "htu")
	plain := told()
	plain.Header.Set("X-Forwarded-Proto", "http")
	refuses(t, v, plain, invalid, CodeInvalidProof, "htu")
}
