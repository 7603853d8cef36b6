package forwardauth

import (
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/pkid/pkid/tokenbind"
)

// TestF14_Conventions: each proxy's own way to ask, with the real tokenbind.Proxies. The client's request is PUT
// https://orders.example/a%20b/17?x=1, and what it says itself of such headers must not count.
func TestF14_Conventions(t *testing.T) {
	der := func(h *house) string { return base64.StdEncoding.EncodeToString(h.cert.Raw) }
	escaped := func(h *house) string {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.cert.Raw})
		return strings.ReplaceAll(url.QueryEscape(string(text)), "+", "%20")
	}
	for _, c := range []struct {
		name, method, target string
		form                 tokenbind.CertificateForm
		cert                 func(*house) (name, value string)
		headers              []string
	}{
		{
			"nginx", "GET", "/v1/verify?audience=" + orders, tokenbind.FormNginx,
			func(h *house) (string, string) { return "X-SSL-Client-Cert", escaped(h) },
			[]string{"X-Original-Method", "PUT", "X-Original-URI", "/a%20b/17?x=1"},
		},
		{
			"nginx with the other names", "GET", "/v1/verify?audience=" + orders, tokenbind.FormNginx,
			func(h *house) (string, string) { return "X-SSL-Client-Cert", escaped(h) },
			[]string{"X-Forwarded-Method", "PUT", "X-Forwarded-Uri", "/a%20b/17?x=1"},
		},
		{
			"ingress-nginx", "GET", "/v1/verify/orders", tokenbind.FormNginx,
			func(h *house) (string, string) { return "X-SSL-Client-Cert", escaped(h) },
			[]string{"X-Original-Method", "PUT", "X-Original-URL", orders + "/a%20b/17?x=1"},
		},
		{
			"Traefik", "GET", "/v1/verify/orders", tokenbind.FormTraefik,
			func(h *house) (string, string) { return "X-Forwarded-Tls-Client-Cert", der(h) },
			[]string{
				"X-Forwarded-Method", "PUT", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "orders.example",
				"X-Forwarded-Uri", "/a%20b/17?x=1", "X-Forwarded-For", "192.0.2.7",
			},
		},
		{
			"Caddy", "GET", "/v1/verify?audience=" + orders, tokenbind.FormRFC9440,
			func(h *house) (string, string) { return "Client-Cert", ":" + der(h) + ":" },
			[]string{
				"X-Forwarded-Method", "PUT", "X-Forwarded-Uri", "/a%20b/17?x=1", "X-Forwarded-Host", "orders.example",
				"X-Forwarded-Proto", "https", "X-Forwarded-For", "192.0.2.7",
			},
		},
		{
			"HAProxy", "GET", "/v1/verify/orders", tokenbind.FormHAProxy,
			func(h *house) (string, string) { return "X-SSL-Client-Cert", der(h) },
			[]string{"X-Forwarded-Method", "PUT", "X-Forwarded-Uri", "/a%20b/17?x=1"},
		},
		{
			"Envoy", "PUT", "/v1/verify/orders/a%20b/17?x=1", tokenbind.FormEnvoy,
			func(h *house) (string, string) {
				return "X-Forwarded-Client-Cert", `By=spiffe://x;Cert="` + escaped(h) + `";Subject="CN=client"`
			},
			[]string{"X-Forwarded-Proto", "https"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			proxies, err := tokenbind.NewProxies(tokenbind.ProxiesConfig{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Form: c.form})
			if err != nil {
				t.Fatal(err)
			}
			h := newHouse(t, func(conf *Config) { conf.Proxies = proxies })
			ask := func(from string, headers ...string) *http.Response {
				r := httptest.NewRequestWithContext(t.Context(), c.method, c.target, nil)
				r.RemoteAddr = from
				for _, list := range [][]string{c.headers, headers} {
					for i := 0; i < len(list); i += 2 {
						r.Header.Add(list[i], list[i+1])
					}
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				return w.Result()
			}
			const proxy = "10.1.2.3:4567"
			name, value := c.cert(h)
			mtls, dpop := []string{"Authorization", "Bearer " + h.mtlsToken(), name, value}, h.dpopToken()
			wants(t, ask(proxy, mtls...), 200)
			wants(t, ask(proxy, mtls[:2]...), 401)
			wants(t, ask("192.0.2.7:4567", mtls...), 400)
			wants(t, ask(proxy, append([]string{name, value}, mtls...)...), 400)
			good := []string{"Authorization", "DPoP " + dpop, "DPoP", h.proof("PUT", orders+"/a%20b/17", dpop)}
			wants(t, ask(proxy, good...), 200)
			wants(t, ask(proxy, good...), 401) // a replay
			wants(t, ask(proxy, "Authorization", "DPoP "+dpop, "DPoP", h.proof("GET", orders+"/a%20b/17", dpop)), 401)
			wants(t, ask(proxy, "Authorization", "DPoP "+dpop, "DPoP", h.proof("PUT", orders+"/v1/verify", dpop)), 401)
			if last := h.seen[len(h.seen)-1]; last.Original.Method != "PUT" || last.Original.URL.Path != "/a b/17" || last.Original.URL.RawQuery != "x=1" {
				t.Errorf("the client's request was taken for %s %s", last.Original.Method, last.Original.URL)
			}
		})
	}
}
