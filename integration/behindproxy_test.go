package integration

import (
	"crypto"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
)

// clientAddress is what the proxy says of all its clients.
const clientAddress = "203.0.113.5"

// behind is a daemon that its clients reach through a proxy.
type behind struct {
	t      *testing.T
	server *pkitest.Server // reached directly
	direct client.URLs
	proxy  *httptest.Server
	edge   *client.Identity // the proxy's
}

// startBehind serves a daemon, and a proxy before it that sends its requests by a transport, and hands on certificates
// as HAProxy does.
func startBehind(t *testing.T, proxies config.Proxies, transport func(*behind) *http.Transport) *behind {
	t.Helper()
	b := &behind{t: t, server: pkitest.Start(t, pkitest.Options{})}
	front := b.server.Enrol(t, client.InvitationRequest{ClientID: "front", Profile: "server", SANs: []string{"localhost", "127.0.0.1"}})
	b.edge = b.server.Enrol(t, client.InvitationRequest{ClientID: "edge"})
	b.direct = b.server.URLs
	b.server.Stop(t)

	b.proxy = httptest.NewUnstartedServer(nil)
	b.proxy.TLS = &tls.Config{Certificates: []tls.Certificate{*front.Certificate()}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	b.proxy.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	b.proxy.StartTLS()
	t.Cleanup(b.proxy.Close)
	upstream, err := url.Parse(b.direct.MTLS)
	if err != nil {
		t.Fatal(err)
	}
	b.proxy.Config.Handler = &httputil.ReverseProxy{
		Transport: transport(b), ErrorLog: b.proxy.Config.ErrorLog,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(upstream)
			for name, value := range map[string]string{
				"X-Forwarded-For": clientAddress, "X-Forwarded-Proto": "https", "X-Forwarded-Host": r.In.Host, "X-Ssl-Client-Cert": "",
			} {
				r.Out.Header.Set(name, value)
			}
			if certs := r.In.TLS.PeerCertificates; len(certs) > 0 {
				r.Out.Header.Set("X-Ssl-Client-Cert", base64.StdEncoding.EncodeToString(certs[0].Raw))
			}
		},
	}
	b.server = pkitest.Serve(t, b.server.Dir, pkitest.Options{Edit: func(c *config.Config) {
		c.Proxies = proxies
		c.URLs.Public, c.URLs.MTLS = b.proxy.URL, b.proxy.URL
	}})
	return b
}

// through is the proxy's transport: with its own certificate, from a local address of its own, or both.
func (b *behind) through(id *client.Identity, from string) *http.Transport {
	config := &tls.Config{RootCAs: b.edge.Roots(), MinVersion: tls.VersionTLS12}
	if id != nil {
		config = id.TLSConfig()
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	transport := &http.Transport{TLSClientConfig: config, DialContext: dialer.DialContext}
	b.t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// post sends a form to a URL with a client's certificate, if there is one.
func (b *behind) post(id *client.Identity, to string, form url.Values, headers ...string) (status int, body map[string]any) {
	b.t.Helper()
	hc := &http.Client{Transport: b.through(id, "")}
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := hc.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	if text := pkitest.ReadAll(b.t, resp.Body); len(text) > 0 {
		if err := json.Unmarshal(text, &body); err != nil {
			b.t.Fatal(err)
		}
	}
	return resp.StatusCode, body
}

func (b *behind) wants(status int, text string, gotStatus int, body map[string]any) {
	b.t.Helper()
	if got := fmt.Sprint(body); gotStatus != status || !strings.Contains(got, text) {
		b.t.Errorf("status %d, want %d with %q: %s", gotStatus, status, text, got)
	}
}

func grantFor(clientID string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}}
}

// tokenOf gets a token and returns its claims.
func tokenOf(t *testing.T, c client.TokenConfig) (string, map[string]any) {
	t.Helper()
	source, err := client.NewTokenSource(c)
	if err != nil {
		t.Fatal(err)
	}
	token, err := source.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(token.AccessToken, ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(text, &claims); err != nil {
		t.Fatal(err)
	}
	return token.AccessToken, claims
}

// TestA29_TokenEndpointBehindAProxy: a proxy that is named by its address, or by its certificate, speaks for its clients
// at the token endpoint and for renewal, and for no operator.
func TestA29_TokenEndpointBehindAProxy(t *testing.T) {
	for name, tt := range map[string]struct {
		proxies   config.Proxies
		transport func(*behind) *http.Transport
	}{
		"by address":     {config.Proxies{Addresses: []string{"127.0.0.2"}, Form: "haproxy"}, func(b *behind) *http.Transport { return b.through(nil, "127.0.0.2") }},
		"by certificate": {config.Proxies{Clients: []string{"edge"}, Form: "haproxy"}, func(b *behind) *http.Transport { return b.through(b.edge, "") }},
		"by both":        {config.Proxies{Addresses: []string{"127.0.0.2"}, Form: "haproxy"}, func(b *behind) *http.Transport { return b.through(b.edge, "127.0.0.2") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBehind(t, tt.proxies, tt.transport)
			shop := b.server.Enrol(t, client.InvitationRequest{ClientID: "shop"}) // through the proxy, as all that follows
			b.tokens(shop)
			b.renewals(shop)
			b.forgeries(shop)
			b.operators()
			b.revocation(shop)
		})
	}
}

func (b *behind) tokens(shop *client.Identity) {
	t := b.t
	t.Helper()
	key, err := client.NewKey("P-256")
	if err != nil {
		t.Fatal(err)
	}
	for _, dpop := range []crypto.Signer{nil, key} { // htu is the proxy's URL, which the daemon was told
		token, claims := tokenOf(t, client.TokenConfig{Identity: shop, DPoPKey: dpop})
		cnf, _ := claims["cnf"].(map[string]any)
		if cnf["x5t#S256"] != pkitest.Thumbprint(shop).String() || (cnf["jkt"] != nil) != (dpop != nil) || claims["iss"] != b.proxy.URL {
			t.Errorf("claims %v", claims)
		}
		status, body := b.post(shop, b.proxy.URL+"/oauth/introspect", url.Values{"token": {token}, "client_id": {"shop"}})
		b.wants(200, "active:true", status, body)
		status, body = b.post(shop, b.proxy.URL+"/oauth/revoke", url.Values{"token": {token}, "client_id": {"shop"}})
		b.wants(200, "", status, body)
	}
	// Without a certificate, the proxy's own is not the client's.
	for _, id := range []string{"shop", "edge"} {
		status, body := b.post(nil, b.proxy.URL+"/oauth/token", grantFor(id))
		b.wants(401, "invalid_client", status, body)
	}
}

func (b *behind) renewals(shop *client.Identity) {
	t := b.t
	t.Helper()
	before := pkitest.Thumbprint(shop)
	if err := shop.Renew(t.Context(), client.RenewOptions{}); err != nil || pkitest.Thumbprint(shop) == before {
		t.Errorf("renewing through the proxy: %v", err)
	}
	if err := shop.Renew(t.Context(), client.RenewOptions{Rekey: true}); err == nil || !strings.Contains(err.Error(), "own key") {
		t.Errorf("a new key through the proxy: %v", err)
	}
	if err := b.edge.Renew(t.Context(), client.RenewOptions{}); err != nil { // directly, but where it is a proxy
		t.Errorf("the proxy's own certificate: %v", err)
	}
	if !b.audited(`"address":"` + clientAddress + `"`) {
		t.Error("the audit log does not name the client's address")
	}
}

func (b *behind) audited(text string) bool {
	b.t.Helper()
	for entry, err := range b.server.Operator(b.t).Audit(b.t.Context(), 0) {
		if err != nil {
			b.t.Fatal(err)
		}
		if strings.Contains(string(entry), text) {
			return true
		}
	}
	return false
}

// forgeries are headers that did not come from the proxy, or not by its doing.
func (b *behind) forgeries(shop *client.Identity) {
	b.t.Helper()
	der := base64.StdEncoding.EncodeToString(shop.Certificate().Certificate[0])
	status, body := b.post(nil, b.direct.Public+"/oauth/token", grantFor("shop"), "X-SSL-Client-Cert", der)
	b.wants(400, "from no trusted proxy", status, body)
	status, body = b.post(nil, b.direct.MTLS+"/oauth/token", grantFor("shop"), "Client-Cert", ":"+der+":")
	b.wants(400, "from no trusted proxy", status, body)
	status, body = b.post(nil, b.proxy.URL+"/oauth/token", grantFor("shop"), "Client-Cert", ":"+der+":")
	b.wants(400, "Client-Cert is not the header", status, body)
	status, body = b.post(nil, b.proxy.URL+"/oauth/token", grantFor("shop"), "X-SSL-Client-Cert", der) // which the proxy replaces
	b.wants(401, "invalid_client", status, body)
}

// operators act over connections of their own.
func (b *behind) operators() {
	t := b.t
	t.Helper()
	operator, err := client.Load(b.server.Home)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/clients", "/console"} {
		hc := &http.Client{Transport: b.through(operator, "")}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.proxy.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text := string(pkitest.ReadAll(t, resp.Body))
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(text, "proxy speaks for an operator") {
			t.Errorf("%s: %d: %s", path, resp.StatusCode, text)
		}
	}
}

// revocation ends what a client may do through the proxy, and what the proxy may say, if its certificate makes it one.
func (b *behind) revocation(shop *client.Identity) {
	t := b.t
	t.Helper()
	other := b.server.Enrol(t, client.InvitationRequest{ClientID: "other"})
	b.revoke(shop)
	status, body := b.post(shop, b.proxy.URL+"/oauth/token", grantFor("shop"))
	b.wants(401, "invalid_client", status, body)
	tokenOf(t, client.TokenConfig{Identity: other})
	if len(b.server.Config.Proxies.Clients) == 0 {
		return
	}
	b.revoke(b.edge)
	status, body = b.post(other, b.proxy.URL+"/oauth/token", grantFor("other"))
	b.wants(400, "from no trusted proxy", status, body)
}

func (b *behind) revoke(id *client.Identity) {
	b.t.Helper()
	leaf := id.Certificate().Leaf
	if _, err := b.server.Operator(b.t).Revoke(b.t.Context(), fmt.Sprintf("%032x", leaf.SerialNumber), client.Revocation{Reason: "keyCompromise"}); err != nil {
		b.t.Fatal(err)
	}
}

// TestA29_EnvoysHash: the hash of a certificate is enough where the CA itself has the certificate.
func TestA29_EnvoysHash(t *testing.T) {
	b := &behind{t: t, server: pkitest.Start(t, pkitest.Options{Edit: func(c *config.Config) {
		c.Proxies = config.Proxies{Clients: []string{"edge"}, Form: "envoy"}
	}})}
	b.edge = b.server.Enrol(t, client.InvitationRequest{ClientID: "edge"})
	shop := b.server.Enrol(t, client.InvitationRequest{ClientID: "shop"})
	hash := pkitest.Thumbprint(shop)
	ask := func(element string) (int, map[string]any) {
		return b.post(b.edge, b.server.URLs.MTLS+"/oauth/token", grantFor("shop"), "X-Forwarded-Client-Cert", element)
	}
	status, body := ask(fmt.Sprintf("By=spiffe://example/pkid;Hash=%x", hash[:]))
	b.wants(200, "access_token", status, body)
	hash[0] ^= 1
	status, body = ask(fmt.Sprintf("By=spiffe://example/pkid;Hash=%x", hash[:]))
	b.wants(400, "no certificate with x5t#S256", status, body)
}

// TestA29_OperatorsCertificateMakesNoProxy: whoever may administer the CA is not believed about others, whatever the
// configuration says; nor is a client that was disabled.
func TestA29_OperatorsCertificateMakesNoProxy(t *testing.T) {
	b := startBehind(t, config.Proxies{Clients: []string{"operator", "edge"}, Form: "haproxy"}, func(b *behind) *http.Transport { return b.through(b.edge, "") })
	operator, err := client.Load(b.server.Home)
	if err != nil {
		t.Fatal(err)
	}
	certificate := []string{"X-SSL-Client-Cert", base64.StdEncoding.EncodeToString(b.edge.Certificate().Certificate[0])}
	ask := func(id *client.Identity) (int, map[string]any) {
		return b.post(id, b.direct.MTLS+"/oauth/token", grantFor("edge"), certificate...)
	}
	status, body := ask(operator)
	b.wants(400, "from no trusted proxy", status, body)
	status, body = ask(b.edge)
	b.wants(200, "access_token", status, body)
	disabled := true
	if _, err := b.server.Operator(t).PatchClient(t.Context(), "edge", client.ClientPatch{Disabled: &disabled}); err != nil {
		t.Fatal(err)
	}
	status, body = ask(b.edge)
	b.wants(400, "from no trusted proxy", status, body)
}
