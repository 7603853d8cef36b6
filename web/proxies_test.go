package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/admission"
	"github.com/pkid/pkid/tokenbind"
)

// behind is a server whose every request comes from a trusted proxy.
func behind(t *testing.T, c LimitsConfig, form tokenbind.CertificateForm) *fixture {
	t.Helper()
	f := limited(t, c)
	f.c.Proxies = must[*tokenbind.Proxies](t)(tokenbind.NewProxies(tokenbind.ProxiesConfig{
		Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Form: form,
	}))
	return f
}

// TestProxies_LimitsOfTheClientsAddress: the clients of a proxy do not share an allowance, unless it does not tell them
// apart.
func TestProxies_LimitsOfTheClientsAddress(t *testing.T) {
	f := behind(t, LimitsConfig{AtOnce: 8, Wait: time.Second, TokensPerAddress: 1}, tokenbind.FormNone)
	ask := func(from string) answer {
		t.Helper()
		h := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
		if from != "" {
			h.Set("X-Forwarded-For", from)
		}
		return f.do(request{method: "POST", url: f.public.URL + "/oauth/token", body: form(), header: h})
	}
	for _, from := range []string{"192.0.2.1", "192.0.2.2, 127.0.0.3", ""} {
		ask(from).oauthError(t, http.StatusBadRequest, "invalid_request")
		ask(from).oauthError(t, http.StatusTooManyRequests, "temporarily_unavailable")
	}
	if log := f.log.String(); !strings.Contains(log, `"remote":"192.0.2.2"`) || !strings.Contains(log, `"proxy":"127.0.0.1"`) {
		t.Error("the log names neither the client nor the proxy")
	}
}

// TestProxies_UnderWay: the share of one address is the client's, and a proxy that does not tell has no share but all.
func TestProxies_UnderWay(t *testing.T) {
	f := behind(t, LimitsConfig{UnderWay: 9, UnderWayPerAddress: 2}, tokenbind.FormNone)
	for from, want := range map[string]int{"192.0.2.1": 2, "": 0} {
		r := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/ca", nil))
		r.RemoteAddr = "127.0.0.1:4000"
		if from != "" {
			r.Header.Set("X-Forwarded-For", from)
		}
		c := new(call)
		f.receive(r, c, nil)
		if got := f.bounds(c); got.UnderWayPerAddress != want || got.UnderWay != 9 {
			t.Errorf("from %q: %+v", from, got)
		}
		if from != "" && admission.AddressOf(c.remote) != admission.AddressOf(from) {
			t.Errorf("from %q: %s", from, c.remote)
		}
	}
}

// TestInvariant9_NoProxySpeaksForAnOperator: on no route for operators, neither by a forwarded certificate nor by the
// connection's own.
func TestInvariant9_NoProxySpeaksForAnOperator(t *testing.T) {
	f := behind(t, wide, tokenbind.FormRFC9440)
	for _, route := range f.table {
		if route.Access != Operator || route.Listeners&both == 0 {
			continue
		}
		for _, header := range []http.Header{{}, {"Client-Cert": {rfc9440(f.admin.Certificate[0])}}} {
			a := f.do(request{method: route.Method, url: f.mtls.URL + example(route.Path), cert: &f.admin, header: header})
			if a.StatusCode != http.StatusUnauthorized || !strings.Contains(a.body, "proxy speaks for an operator") {
				t.Errorf("%s %s: status %d: %s", route.Method, route.Path, a.StatusCode, a.body)
			}
		}
	}
}

// TestA30_HeadersOfAProxyAreHeld: what a trusted proxy should not send is refused everywhere, as each route's clients
// read it.
func TestA30_HeadersOfAProxyAreHeld(t *testing.T) {
	f := behind(t, wide, tokenbind.FormRFC9440)
	for name, header := range map[string]http.Header{
		"another form":    {"X-Ssl-Client-Cert": {"x"}},
		"twice":           {"Client-Cert": {"::", "::"}},
		"no certificate":  {"Client-Cert": {":AAAA:"}},
		"two hosts":       {"X-Forwarded-Host": {"a.example, b.example"}},
		"with underscore": {"Client_cert": {"::"}},
	} {
		oauth := header.Clone()
		oauth.Set("Content-Type", "application/x-www-form-urlencoded")
		f.do(request{method: "POST", url: f.mtls.URL + "/oauth/token", body: form(), header: oauth}).oauthError(t, http.StatusBadRequest, "invalid_request")
		f.do(request{url: f.mtls.URL + "/v1/ca", header: header, cert: &f.admin}).problem(t, http.StatusBadRequest, "forwarded-certificate")
		if a := f.do(request{url: f.mtls.URL + "/nothing", header: header, cert: &f.admin}); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: no such path: %s", name, a.Status)
		}
	}
}

func rfc9440(der []byte) string { return ":" + base64.StdEncoding.EncodeToString(der) + ":" }

// TestA30_CannotTell: while the records cannot say whether a certificate is a proxy's, its connection is nobody's.
func TestA30_CannotTell(t *testing.T) {
	f := newFixture(t)
	f.c.Proxies = must[*tokenbind.Proxies](t)(tokenbind.NewProxies(tokenbind.ProxiesConfig{
		Certificate: func(context.Context, []*x509.Certificate) (bool, error) {
			return false, errors.New("the store is away")
		},
	}))
	f.do(request{url: f.mtls.URL + "/v1/clients", cert: &f.admin}).problem(t, http.StatusServiceUnavailable, "unavailable")
	h := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	f.do(request{method: "POST", url: f.mtls.URL + "/oauth/token", body: form(), header: h, cert: &f.admin}).
		oauthError(t, http.StatusServiceUnavailable, "temporarily_unavailable")
}

// TestInvariant9_ProxysOwnCertificate: it is no client's, on any route, but for the one by which it renews itself. And what
// it hands on takes its place there too.
func TestInvariant9_ProxysOwnCertificate(t *testing.T) {
	f := behind(t, wide, tokenbind.FormRFC9440)
	own := must[*x509.Certificate](t)(x509.ParseCertificate(f.admin.Certificate[0]))
	for _, route := range append(f.table, Route{Name: "none of them"}) {
		for _, header := range []http.Header{{}, {"Client-Cert": {"::"}}, {"Client-Cert": {rfc9440(own.Raw)}}} {
			r := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodPost, "/x", nil))
			r.RemoteAddr, r.Header = "127.0.0.1:4000", header
			r.TLS = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{own, own}}
			c := new(call)
			got := f.receive(r, c, &route)
			if c.proxy == nil || c.forwarded != nil {
				t.Errorf("%s: %v", route.Name, c.forwarded)
			}
			want := 0
			switch {
			case route.Access == TrustedProxy, route.Name == "certificates.renew" && len(header.Get("Client-Cert")) < 3:
				want = 2 // as it was
			case len(header.Get("Client-Cert")) > 2:
				want = 1
			}
			if n := len(got.TLS.PeerCertificates); n != want {
				t.Errorf("%s, %.9s: %d certificates, want %d", route.Name, header.Get("Client-Cert"), n, want)
			}
		}
	}
}
