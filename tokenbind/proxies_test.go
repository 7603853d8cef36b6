package tokenbind

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pkid/pkid/thumbprint"
)

// The certificates of testdata/proxies were made by openssl, with a subject and a URI that want escaping, and the headers
// were written by the proxies that the files are named after.
func proxyFile(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/proxies/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func proxyCert(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(proxyFile(t, name))
	if block == nil || len(rest) > 0 {
		t.Fatal(name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func captured(t testing.TB, name string) http.Header {
	t.Helper()
	text := append(proxyFile(t, name), '\n')
	h, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(text))).ReadMIMEHeader()
	if err != nil {
		t.Fatal(err)
	}
	return http.Header(h)
}

func pemOf(certs ...*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.String()
}

func derOf(c *x509.Certificate) string { return base64.StdEncoding.EncodeToString(c.Raw) }

func hashOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

const proxyAddress = "192.0.2.7:41000"

func proxies(t testing.TB, edit ...func(*ProxiesConfig)) *Proxies {
	t.Helper()
	c := ProxiesConfig{Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/28"), netip.MustParsePrefix("2001:db8::/64")}}
	for _, e := range edit {
		e(&c)
	}
	p, err := NewProxies(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func withForm(f CertificateForm) func(*ProxiesConfig) {
	return func(c *ProxiesConfig) { c.Form = f }
}

// fromProxy is a request as a proxy sends it.
func fromProxy(h http.Header) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/things/1", http.NoBody)
	r.RemoteAddr, r.Host = proxyAddress, "rs.example"
	if h != nil {
		r.Header = h
	}
	return r
}

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

type formCase struct {
	name   string
	form   CertificateForm
	header http.Header
	chain  int // certificates that are wanted
}

func formCases(t testing.TB) []formCase {
	c, ca := proxyCert(t, "client.pem"), proxyCert(t, "ca.pem")
	escaped := url.QueryEscape(pemOf(c)) // a space becomes a plus sign, so:
	escaped = strings.ReplaceAll(escaped, "+", "%20")
	chain := strings.ReplaceAll(url.QueryEscape(pemOf(c, ca)), "+", "%20")
	aws := strings.NewReplacer("%2B", "+", "%3D", "=", "%2F", "/").Replace(escaped)
	only := func(name, file string) http.Header { return header(name, captured(t, file).Get(name)) }
	const xfcc = "X-Forwarded-Client-Cert"
	return []formCase{
		{"nginx itself", FormNginx, captured(t, "nginx.txt"), 1},
		{"HAProxy itself", FormHAProxy, only("X-Ssl-Client-Cert", "haproxy.txt"), 1},
		{"HAProxy, as RFC 9440", FormRFC9440, only("Client-Cert", "haproxy.txt"), 1},
		{"Apache itself", FormApache, captured(t, "apache.txt"), 1},
		{"Caddy itself", FormRFC9440, captured(t, "caddy.txt"), 1},
		{"AWS leaves some characters", FormNginx, header("X-Ssl-Client-Cert", aws), 1},
		{"RFC 9440 with a chain", FormRFC9440, header("Client-Cert", ":"+derOf(c)+":", "Client-Cert-Chain", ":"+derOf(ca)+": , :"+derOf(ca)+":"), 3},
		{"Envoy, all", FormEnvoy, header(xfcc, `By=spiffe://x/rs;Hash=`+hashOf(c)+`;Cert="`+escaped+`";Chain="`+chain+
			`";Subject="O=Müller \"&\" Söhne\; Cert=x\, y\\,CN=client+1";URI=spiffe://example/client;DNS=a.example;DNS=b.example`), 2},
		{"Envoy, certificate", FormEnvoy, header(xfcc, `Hash=`+strings.ToUpper(hashOf(c))+`;Cert="`+escaped+`"`), 1},
		{"Envoy, chain", FormEnvoy, header(xfcc, `hash=`+hashOf(c)+`;chain="`+chain+`"`), 2},
		{"Envoy, with what is not known", FormEnvoy, header(xfcc, `Cert="`+escaped+`";Other=x`), 1},
		{"Traefik 3", FormTraefik, header("X-Forwarded-Tls-Client-Cert", derOf(c)+","+derOf(ca), "X-Forwarded-Tls-Client-Cert-Info", "x"), 2},
		{"Traefik 2", FormTraefik, header("X-Forwarded-Tls-Client-Cert", url.QueryEscape(derOf(c))), 1},

		{"nginx without", FormNginx, http.Header{}, 0},
		{"nginx, empty", FormNginx, header("X-Ssl-Client-Cert", ""), 0},
		{"HAProxy without", FormHAProxy, header("X-Ssl-Client-Cert", ""), 0},
		{"Apache without", FormApache, header("X-Ssl-Client-Cert", "(null)"), 0},
		{"a template of RFC 9440 without", FormRFC9440, header("Client-Cert", "::"), 0},
		{"RFC 9440 without", FormRFC9440, http.Header{}, 0},
		{"Envoy without", FormEnvoy, http.Header{}, 0},
		{"Traefik without", FormTraefik, header("X-Forwarded-Tls-Client-Cert", ""), 0},
		{"no form", FormNone, header("X-Forwarded-For", "198.51.100.9"), 0},
	}
}

// TestA29_Forms: a certificate arrives as each proxy writes it, and the proxy's own is never taken for it.
func TestA29_Forms(t *testing.T) {
	want, proxysOwn := proxyCert(t, "client.pem"), proxyCert(t, "ca.pem")
	for _, c := range formCases(t) {
		t.Run(c.name, func(t *testing.T) {
			p := proxies(t, withForm(c.form))
			for range 2 { // the second time, as it was parsed before
				r := fromProxy(c.header.Clone())
				r.TLS = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{proxysOwn}}
				got, err := p.Receive(r)
				if err != nil {
					t.Fatal(err)
				}
				if got == r || got.TLS == nil || !got.TLS.HandshakeComplete || len(got.TLS.PeerCertificates) != c.chain {
					t.Fatalf("%d certificates, want %d", len(got.TLS.PeerCertificates), c.chain)
				}
				if c.chain > 0 && !got.TLS.PeerCertificates[0].Equal(want) {
					t.Error("another certificate")
				}
				if name, found := ForwardedCertificate(got.Header); found {
					t.Error(name, "is still there")
				}
				if len(r.TLS.PeerCertificates) != 1 || len(r.Header) != len(c.header) || r.RemoteAddr != proxyAddress {
					t.Error("the request itself was changed")
				}
			}
		})
	}
}

// TestA30_Refused: what a trusted proxy would not send is refused, since it comes from the client or is ambiguous.
func TestA30_Refused(t *testing.T) {
	c, ca := proxyCert(t, "client.pem"), proxyCert(t, "ca.pem")
	const x, xfcc = "X-Ssl-Client-Cert", "X-Forwarded-Client-Cert"
	escaped := strings.ReplaceAll(url.QueryEscape(pemOf(c)), "+", "%20")
	chain := strings.ReplaceAll(url.QueryEscape(pemOf(c, ca)), "+", "%20")
	element := `Hash=` + hashOf(c) + `;Cert="` + escaped + `"`
	for name, tt := range map[string]struct {
		form   CertificateForm
		header http.Header
		want   string
	}{
		"no form is configured":          {FormNone, header(x, escaped), "is not the header"},
		"another form":                   {FormNginx, header("Client-Cert", ":"+derOf(c)+":"), "Client-Cert is not the header"},
		"another form, empty":            {FormNginx, header("Client-Cert", ""), "Client-Cert is not the header"},
		"two forms":                      {FormNginx, header(x, escaped, xfcc, element), "X-Forwarded-Client-Cert is not"},
		"with underscores":               {FormNginx, header(x, escaped, "X_SSL_Client_Cert", escaped), "is not the header"},
		"a chain in another form":        {FormNginx, header("Client-Cert-Chain", ":"+derOf(c)+":"), "Client-Cert-Chain is not"},
		"two headers":                    {FormNginx, header(x, escaped, x, escaped), "2 X-Ssl-Client-Cert headers"},
		"two headers, one empty":         {FormHAProxy, header(x, derOf(c), x, ""), "2 X-Ssl-Client-Cert headers"},
		"two joined":                     {FormNginx, header(x, escaped+", "+escaped), "not a certificate"},
		"two joined, base64":             {FormHAProxy, header(x, derOf(c)+","+derOf(c)), "not base64"},
		"two certificates":               {FormNginx, header(x, chain), "2 certificates"},
		"two certificates, Apache":       {FormApache, header(x, pemOf(c, ca)), "2 certificates"},
		"not escaped as it should":       {FormNginx, header(x, escaped+"%2"), "not URL-escaped"},
		"something before":               {FormNginx, header(x, "x"+escaped), "not a certificate"},
		"something after":                {FormNginx, header(x, escaped+"x"), "not a certificate"},
		"a key":                          {FormNginx, header(x, strings.ReplaceAll(escaped, "CERTIFICATE", "PUBLIC%20KEY")), "not a certificate"},
		"(null) in another form":         {FormHAProxy, header(x, "(null)"), "not base64"},
		"more octets after the DER":      {FormHAProxy, header(x, base64.StdEncoding.EncodeToString(append(slices.Clip(c.Raw), 0))), "trailing data"},
		"URL-safe base64":                {FormHAProxy, header(x, base64.URLEncoding.EncodeToString(c.Raw)), "not base64"},
		"base64 without padding":         {FormHAProxy, header(x, strings.TrimRight(derOf(c), "=")), "not base64"},
		"line ends in base64":            {FormTraefik, header("X-Forwarded-Tls-Client-Cert", derOf(c)[:64]+"%0A"+derOf(c)[64:]), "line ends"},
		"no DER":                         {FormHAProxy, header(x, "AAAA"), "not a certificate"},
		"too long":                       {FormHAProxy, header(x, strings.Repeat("A", maxForwarded+4)), "more than 16384 octets"},
		"RFC 9440: no colons":            {FormRFC9440, header("Client-Cert", derOf(c)), "not a byte sequence"},
		"RFC 9440: a parameter":          {FormRFC9440, header("Client-Cert", ":"+derOf(c)+":;a=1"), "not a byte sequence"},
		"RFC 9440: a list":               {FormRFC9440, header("Client-Cert", ":"+derOf(c)+":, :"+derOf(c)+":"), "not base64"},
		"RFC 9440: two headers":          {FormRFC9440, header("Client-Cert", ":"+derOf(c)+":", "Client-Cert", ":"+derOf(ca)+":"), "2 Client-Cert headers"},
		"RFC 9440: two chains":           {FormRFC9440, header("Client-Cert", ":"+derOf(c)+":", "Client-Cert-Chain", ":"+derOf(ca)+":", "Client-Cert-Chain", ":"+derOf(ca)+":"), "2 Client-Cert-Chain headers"},
		"RFC 9440: a chain alone":        {FormRFC9440, header("Client-Cert-Chain", ":"+derOf(ca)+":"), "without a certificate"},
		"RFC 9440: a chain of nothing":   {FormRFC9440, header("Client-Cert", ":"+derOf(c)+":", "Client-Cert-Chain", "::"), "not a byte sequence"},
		"RFC 9440: a long chain":         {FormRFC9440, header("Client-Cert", ":"+derOf(c)+":", "Client-Cert-Chain", strings.Repeat(":AAAA:,", 8)+":AAAA:"), "10 certificates"},
		"RFC 9440: a template":           {FormRFC9440, header("Client-Cert", ":{http.request.tls.client.certificate_der_base64}:"), "not base64"},
		"Envoy: the hash alone":          {FormEnvoy, header(xfcc, "By=x;Hash="+hashOf(c)), "hash of a certificate only"},
		"Envoy: nothing":                 {FormEnvoy, header(xfcc, "By=x"), "neither Cert nor Chain nor Hash"},
		"Envoy: two elements":            {FormEnvoy, header(xfcc, element+","+element), "2 elements"},
		"Envoy: an element in a URI":     {FormEnvoy, header(xfcc, element+";URI=spiffe://x,"+element), "2 elements"},
		"Envoy: two certificates":        {FormEnvoy, header(xfcc, element+`;Cert="`+escaped+`"`), "cert twice"},
		"Envoy: two hashes":              {FormEnvoy, header(xfcc, "Hash="+hashOf(ca)+";"+element), "hash twice"},
		"Envoy: another's hash":          {FormEnvoy, header(xfcc, "Hash="+hashOf(ca)+`;Cert="`+escaped+`"`), "Hash is that of another"},
		"Envoy: another's chain":         {FormEnvoy, header(xfcc, element+`;Chain="`+strings.ReplaceAll(url.QueryEscape(pemOf(ca)), "+", "%20")+`"`), "another certificate than Cert"},
		"Envoy: a short hash":            {FormEnvoy, header(xfcc, "Hash=abcd"), "Hash is not"},
		"Envoy: a string without end":    {FormEnvoy, header(xfcc, `Cert="`+escaped), "without end"},
		"Envoy: something after":         {FormEnvoy, header(xfcc, element+" x"), "something else"},
		"Envoy: no members":              {FormEnvoy, header(xfcc, ";"), "want name=value"},
		"Envoy: an empty element":        {FormEnvoy, header(xfcc, element+","), "want name=value"},
		"Traefik: a long chain":          {FormTraefik, header("X-Forwarded-Tls-Client-Cert", strings.Repeat("AAAA,", 8)+"AAAA"), "9 certificates"},
		"Traefik: the information alone": {FormNginx, header("X-Forwarded-Tls-Client-Cert-Info", "x"), "is not the header"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := proxies(t, withForm(tt.form)).Receive(fromProxy(tt.header))
			if r != nil || !errors.Is(err, ErrForwarded) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, %v, want %q", r, err, tt.want)
			}
		})
	}
}

// TestA30_FromNobodyTrusted: the header is an error from everybody else, a certificate or not, empty or not.
func TestA30_FromNobodyTrusted(t *testing.T) {
	custom := proxies(t, withForm(FormNginx), func(c *ProxiesConfig) { c.Header = "X-Our-Certificate" })
	for _, p := range []*Proxies{nil, custom} {
		for _, name := range []string{
			"Client-Cert", "Client-Cert-Chain", "X-Forwarded-Client-Cert", "X-SSL-Client-Cert", "SSL_CLIENT_CERT",
			"X_Forwarded-Client_Cert", "X-Forwarded-Tls-Client-Cert-Info", "X-Amzn-Mtls-Clientcert-Leaf",
		} {
			r := fromProxy(header(name, ""))
			r.RemoteAddr = "192.0.2.17:443" // beyond the prefix
			if got, err := p.Receive(r); got != nil || !errors.Is(err, ErrForwarded) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	r := fromProxy(header("X-Our-Certificate", "x"))
	r.RemoteAddr = "198.51.100.1:443"
	if _, err := custom.Receive(r); !errors.Is(err, ErrForwarded) {
		t.Errorf("the name that is configured: %v", err)
	}
	// What browsers and other proxies send is nobody's lie, and nobody's truth.
	r = fromProxy(header("X-Forwarded-For", "203.0.113.1", "X-Forwarded-Host", "evil.example", "Forwarded", "proto=http;host=evil"))
	r.RemoteAddr = "@"
	if got, err := custom.Receive(r); got != r || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := custom.ReceiveCheck(r); !errors.Is(err, ErrForwarded) {
		t.Errorf("a sub-request: %v", err)
	}
	if _, err := (*Proxies)(nil).ReceiveCheck(r); !errors.Is(err, ErrForwarded) {
		t.Errorf("a sub-request: %v", err)
	}
}

// TestA29_HashAlone: the hash is enough where the certificate can be found by it, and only the right one.
func TestA29_HashAlone(t *testing.T) {
	c, ca := proxyCert(t, "client.pem"), proxyCert(t, "ca.pem")
	element := header("X-Forwarded-Client-Cert", "By=spiffe://x;Hash="+hashOf(c))
	find := func(cert *x509.Certificate, err error) *Proxies {
		return proxies(t, withForm(FormEnvoy), func(conf *ProxiesConfig) {
			conf.Find = func(_ context.Context, x5t thumbprint.Cert) (*x509.Certificate, error) {
				if !x5t.Equal(thumbprint.OfCertificate(c)) {
					t.Error("another thumbprint")
				}
				return cert, err
			}
		})
	}
	got, err := find(c, nil).Receive(fromProxy(element))
	if err != nil || !got.TLS.PeerCertificates[0].Equal(c) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := find(ca, nil).Receive(fromProxy(element)); !errors.Is(err, ErrForwarded) {
		t.Errorf("another: %v", err)
	}
	if _, err := find(nil, nil).Receive(fromProxy(element)); !errors.Is(err, ErrForwarded) {
		t.Errorf("unknown: %v", err)
	}
	away := errors.New("the store is away")
	if _, err := find(nil, away).Receive(fromProxy(element)); !errors.Is(err, ErrUnavailable) || !errors.Is(err, away) || errors.Is(err, ErrForwarded) {
		t.Errorf("the store is away: %v", err)
	}
}

// TestA30_ByCertificate: a proxy is known by a certificate that was proved, whatever address it comes from.
func TestA30_ByCertificate(t *testing.T) {
	client, own := proxyCert(t, "client.pem"), proxyCert(t, "ca.pem")
	p, err := NewProxies(ProxiesConfig{
		Certificate: func(_ context.Context, peer []*x509.Certificate) (bool, error) { return peer[0].Equal(own), nil }, Form: FormHAProxy, Header: "X-Client-Cert",
	})
	if err != nil {
		t.Fatal(err)
	}
	r := func(complete bool, peer ...*x509.Certificate) *http.Request {
		r := fromProxy(header("X-Client-Cert", derOf(client)))
		r.TLS = &tls.ConnectionState{HandshakeComplete: complete, PeerCertificates: peer}
		return r
	}
	got, err := p.Receive(r(true, own))
	if err != nil || !got.TLS.PeerCertificates[0].Equal(client) || got.Header.Get("X-Client-Cert") != "" {
		t.Fatalf("%v, %v", got, err)
	}
	without := r(true, own)
	without.Header.Del("X-Client-Cert")
	if got, err := p.Receive(without); err != nil || len(got.TLS.PeerCertificates) > 0 {
		t.Errorf("without the header: %v, %v", got, err)
	}
	for name, r := range map[string]*http.Request{"another certificate": r(true, client), "none": r(true), "not proved": r(false, own)} {
		if _, err := p.Receive(r); !errors.Is(err, ErrForwarded) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestA30_CannotTell: while nobody can tell whose a certificate is, the request is neither the proxy's clients' nor the
// certificate's own holder's.
func TestA30_CannotTell(t *testing.T) {
	k, away := newResourceKit(t), errors.New("the store is away")
	p, err := NewProxies(ProxiesConfig{Certificate: func(context.Context, []*x509.Certificate) (bool, error) { return false, away }})
	if err != nil {
		t.Fatal(err)
	}
	r := k.request("Bearer "+k.certToken(t), k.cert.Leaf)
	r.TLS.HandshakeComplete = true
	for name, receive := range map[string]func(*http.Request) (*http.Request, error){"a request": p.Receive, "a sub-request": p.ReceiveCheck} {
		if got, err := receive(r); got != nil || !errors.Is(err, ErrUnavailable) || !errors.Is(err, away) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	v := k.verifier(t, func(c *Config) { c.Proxies = p })
	refuses(t, v, r, http.StatusServiceUnavailable, codeUnavailable, "forwarded certificate")
}

func TestNewProxies_Refuses(t *testing.T) {
	at := func(prefixes ...string) (c ProxiesConfig) {
		for _, p := range prefixes {
			c.Addresses = append(c.Addresses, netip.MustParsePrefix(p))
		}
		return c
	}
	with := func(form CertificateForm, header string) ProxiesConfig {
		c := at("192.0.2.1/32")
		c.Form, c.Header = form, header
		return c
	}
	original := at("192.0.2.1/32")
	original.Original = "x-real-ip"
	for name, tt := range map[string]struct {
		c    ProxiesConfig
		want string
	}{
		"nobody":              {ProxiesConfig{Form: FormNginx}, "neither an address nor"},
		"everybody":           {at("192.0.2.1/32", "0.0.0.0/0"), "everybody"},
		"everybody, IPv6":     {at("::/0"), "everybody"},
		"mapped":              {at("::ffff:192.0.2.0/120"), "IPv4 prefix"},
		"no prefix":           {ProxiesConfig{Addresses: []netip.Prefix{{}}}, "not valid"},
		"an unknown form":     {with("pem", ""), "none of apache, envoy, haproxy, nginx, rfc9440, traefik"},
		"a header, Envoy":     {with(FormEnvoy, "X-Client-Cert"), "header of its own"},
		"a header, no form":   {with(FormNone, "X-Client-Cert"), "header of its own"},
		"another's header":    {with(FormNginx, "Forwarded"), "cannot be the header"},
		"the token's header":  {with(FormNginx, "authorization"), "cannot be the header"},
		"an underscore":       {with(FormNginx, "SSL_CLIENT_CERT"), "cannot be the header"},
		"no header's name":    {with(FormNginx, "X Cert"), "cannot be the header"},
		"an unknown original": {original, "none of x-forwarded"},
	} {
		if _, err := NewProxies(tt.c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
