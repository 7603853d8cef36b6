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
		Certificate: func(_ context.Context, c *x509.Certificate) (bool, error) { return c.Equal(own), nil }, Form: FormHAProxy, Header: "X-Client-Cert",
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
	p, err := NewProxies(ProxiesConfig{Certificate: func(context.Context, *x509.Certificate) (bool, error) { return false, away }})
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

func TestCertificateFrom(t *testing.T) {
	client, ca := proxyCert(t, "client.pem"), proxyCert(t, "ca.pem")
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for name, tt := range map[string]struct {
		is    func(context.Context, *x509.Certificate) (bool, error)
		cert  *x509.Certificate
		trust bool
	}{
		"by DNS name":     {CertificateFrom(roots, "other.example", "client.example"), client, true},
		"by URI":          {CertificateFrom(roots, "spiffe://example/client"), client, true},
		"by no name":      {CertificateFrom(roots), client, false},
		"another name":    {CertificateFrom(roots, "example", "client+1"), client, false},
		"another root":    {CertificateFrom(x509.NewCertPool(), "client.example"), client, false},
		"no roots at all": {CertificateFrom(nil, "client.example"), client, false},
	} {
		if got, err := tt.is(t.Context(), tt.cert); got != tt.trust || err != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
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

// TestF14_Original: scheme, host and sender of the client's request, as a trusted proxy tells them.
func TestF14_Original(t *testing.T) {
	fwd := func(c *ProxiesConfig) { c.Original = OriginalForwarded }
	none := func(c *ProxiesConfig) { c.Original = OriginalNone }
	for name, tt := range map[string]struct {
		edit         func(*ProxiesConfig)
		header       http.Header
		origin, from string
	}{
		"nothing is told":         {nil, http.Header{}, "http://rs.example", proxyAddress},
		"nginx itself":            {withForm(FormNginx), captured(t, "nginx.txt"), "https://localhost:17001", "127.0.0.1:0"},
		"Apache itself":           {withForm(FormApache), captured(t, "apache.txt"), "https://localhost:17003", "127.0.0.1:0"},
		"Caddy itself":            {withForm(FormRFC9440), captured(t, "caddy.txt"), "https://localhost:17004", "127.0.0.1:0"},
		"scheme":                  {nil, header("X-Forwarded-Proto", "HTTPS"), "https://rs.example", proxyAddress},
		"a websocket's":           {nil, header("X-Forwarded-Proto", "wss"), "https://rs.example", proxyAddress},
		"host":                    {nil, header("X-Forwarded-Proto", "https", "X-Forwarded-Host", "api.example:444"), "https://api.example:444", proxyAddress},
		"the usual port":          {nil, header("X-Forwarded-Proto", "https", "X-Forwarded-Host", "api.example", "X-Forwarded-Port", "443"), "https://api.example", proxyAddress},
		"another port":            {nil, header("X-Forwarded-Proto", "https", "X-Forwarded-Host", "[2001:db8::5]", "X-Forwarded-Port", "8443"), "https://[2001:db8::5]:8443", proxyAddress},
		"the port twice":          {nil, header("X-Forwarded-Host", "api.example:8443", "X-Forwarded-Port", "8443"), "http://api.example:8443", proxyAddress},
		"a port alone":            {nil, header("X-Forwarded-Port", "8443"), "http://rs.example", proxyAddress},
		"sender":                  {nil, header("X-Forwarded-For", "198.51.100.9"), "http://rs.example", "198.51.100.9:0"},
		"sender with a port":      {nil, header("X-Forwarded-For", "198.51.100.9:1234"), "http://rs.example", "198.51.100.9:0"},
		"sender, IPv6":            {nil, header("X-Forwarded-For", "2001:db8:1::9"), "http://rs.example", "[2001:db8:1::9]:0"},
		"an invention before it":  {nil, header("X-Forwarded-For", "10.0.0.1, 198.51.100.9"), "http://rs.example", "198.51.100.9:0"},
		"proxies after it":        {nil, header("X-Forwarded-For", "10.0.0.1, 198.51.100.9, 192.0.2.3", "X-Forwarded-For", "2001:db8::8"), "http://rs.example", "198.51.100.9:0"},
		"a client on a proxy":     {nil, header("X-Forwarded-For", "192.0.2.3, 192.0.2.4"), "http://rs.example", "192.0.2.3:0"},
		"unknown":                 {nil, header("X-Forwarded-For", "198.51.100.9, unknown"), "http://rs.example", proxyAddress},
		"unknown before a proxy":  {nil, header("X-Forwarded-For", "198.51.100.9, unix:, 192.0.2.4"), "http://rs.example", "192.0.2.4:0"},
		"mapped IPv4":             {nil, header("X-Forwarded-For", "::ffff:198.51.100.9"), "http://rs.example", "198.51.100.9:0"},
		"RFC 7239":                {fwd, header("Forwarded", `for=198.51.100.9;proto=https;host="api.example:8443";by=_x`), "https://api.example:8443", "198.51.100.9:0"},
		"RFC 7239, IPv6":          {fwd, header("Forwarded", `For="[2001:db8:1::9]:4711" ; Proto=https`), "https://rs.example", "[2001:db8:1::9]:0"},
		"RFC 7239, two lines":     {fwd, header("Forwarded", "for=10.0.0.1", "Forwarded", "for=198.51.100.9;host=api.example, for=192.0.2.3"), "http://api.example", "198.51.100.9:0"},
		"RFC 7239, obfuscated":    {fwd, header("Forwarded", `for=198.51.100.9,for="_SEVKISEK"`), "http://rs.example", proxyAddress},
		"RFC 7239, a quoted pair": {fwd, header("Forwarded", `host="api\.example"`), "http://api.example", proxyAddress},
		"both, and they agree":    {nil, header("Forwarded", "for=10.0.0.1;host=API.example;proto=https", "X-Forwarded-Host", "api.example", "X-Forwarded-Proto", "https"), "https://api.example", proxyAddress},
		"the other, not believed": {nil, header("Forwarded", "for=10.0.0.1;host=evil.example;proto=https"), "http://rs.example", proxyAddress},
		"the one, not believed":   {fwd, header("X-Forwarded-Host", "evil.example", "X-Forwarded-For", "10.0.0.1"), "http://rs.example", proxyAddress},
		"none is believed":        {none, header("X-Forwarded-Host", "evil.example", "Forwarded", "x", "X-Forwarded-For", "10.0.0.1"), "http://rs.example", proxyAddress},
	} {
		t.Run(name, func(t *testing.T) {
			edit := tt.edit
			if edit == nil {
				edit = func(*ProxiesConfig) {}
			}
			got, err := proxies(t, edit).Receive(fromProxy(tt.header))
			if err != nil {
				t.Fatal(err)
			}
			if origin := got.URL.Scheme + "://" + got.Host; origin != tt.origin || got.URL.Host != got.Host || got.RemoteAddr != tt.from {
				t.Errorf("%s from %s, want %s from %s", origin, got.RemoteAddr, tt.origin, tt.from)
			}
			for name := range got.Header {
				if reserved(name) {
					t.Error(name, "is still there")
				}
			}
		})
	}
	overTLS := fromProxy(nil)
	overTLS.TLS = &tls.ConnectionState{HandshakeComplete: true}
	if got, err := proxies(t).Receive(overTLS); err != nil || got.URL.Scheme != "https" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestF14_OriginalRefused(t *testing.T) {
	for name, h := range map[string]http.Header{
		"two schemes":            header("X-Forwarded-Proto", "https, http"),
		"two schemes that agree": header("X-Forwarded-Proto", "https,https"),
		"two headers":            header("X-Forwarded-Proto", "https", "X-Forwarded-Proto", "https"),
		"another scheme":         header("X-Forwarded-Proto", "ftp"),
		"two hosts":              header("X-Forwarded-Host", "a.example, b.example"),
		"Apache's two hosts":     header("X-Forwarded-Host", "evil.example", "X-Forwarded-Host", "rs.example"),
		"a host with a path":     header("X-Forwarded-Host", "rs.example/x"),
		"a host with a user":     header("X-Forwarded-Host", "evil@rs.example"),
		"a host with a query":    header("X-Forwarded-Host", "rs.example?x"),
		"a host with a space":    header("X-Forwarded-Host", "rs.example x"),
		"a host of two octets":   header("X-Forwarded-Host", ":8"),
		"an endless host":        header("X-Forwarded-Host", strings.Repeat("a", maxHost+1)),
		"two ports":              header("X-Forwarded-Host", "a.example", "X-Forwarded-Port", "443,443"),
		"another port":           header("X-Forwarded-Host", "a.example:444", "X-Forwarded-Port", "443"),
		"a port beyond all":      header("X-Forwarded-Host", "a.example", "X-Forwarded-Port", "65536"),
		"a port with a zero":     header("X-Forwarded-Host", "a.example", "X-Forwarded-Port", "0443"),
		"many hops":              header("X-Forwarded-For", strings.Repeat("1,", maxForwarded)),
		"RFC 7239: not that":     header("Forwarded", "rs.example"),
		"RFC 7239: twice":        header("Forwarded", "host=a.example;host=a.example"),
		"RFC 7239: two hosts":    header("Forwarded", "host=a.example, host=a.example"),
		"RFC 7239: two schemes":  header("Forwarded", "proto=http", "Forwarded", "proto=https"),
		"RFC 7239: many":         header("Forwarded", strings.Repeat("for=1,", maxHops)+"for=1"),
		"RFC 7239: many members": header("Forwarded", strings.Repeat("for=1;", maxHops)+"for=1"),
		"RFC 7239: a bad host":   header("Forwarded", `host="a,b"`),
		"they disagree":          header("Forwarded", "host=a.example", "X-Forwarded-Host", "b.example"),
		"schemes disagree":       header("Forwarded", "proto=http", "X-Forwarded-Proto", "https"),
	} {
		t.Run(name, func(t *testing.T) {
			for _, form := range []OriginalForm{OriginalXForwarded, OriginalForwarded} {
				got, err := proxies(t, func(c *ProxiesConfig) { c.Original = form }).Receive(fromProxy(h))
				if got != nil || !errors.Is(err, ErrForwarded) {
					t.Errorf("%q: %v, %v", form, got, err)
				}
			}
		})
	}
}

// TestF14_SubRequest: the request that a proxy asks about, in the words of each.
func TestF14_SubRequest(t *testing.T) {
	const cert = "X-Ssl-Client-Cert"
	p := proxies(t, withForm(FormHAProxy))
	der := derOf(proxyCert(t, "client.pem"))
	for name, tt := range map[string]struct {
		header http.Header
		want   string
	}{
		"Traefik, Caddy": {
			header("X-Forwarded-Method", "PUT", "X-Forwarded-Uri", "/a%2Fb?c=d", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "api.example"),
			"PUT https://api.example/a%2Fb?c=d",
		},
		"nginx":         {header("X-Original-Method", "PUT", "X-Original-URI", "//a//b"), "PUT http://rs.example//a//b"},
		"ingress-nginx": {header("X-Original-Method", "GET", "X-Original-URL", "https://api.example:444/a?b=//c"), "GET https://api.example:444/a?b=//c"},
		"no path":       {header("X-Original-Method", "GET", "X-Original-URL", "https://api.example?b"), "GET https://api.example/?b"},
		"they agree":    {header("X-Original-Method", "GET", "X-Original-URL", "https://api.example/a", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "api.example"), "GET https://api.example/a"},
	} {
		r := fromProxy(tt.header)
		r.Header.Set(cert, der)
		got, err := p.ReceiveCheck(r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if seen := got.Method + " " + got.URL.String(); seen != tt.want || !strings.HasSuffix(tt.want, got.RequestURI) || len(got.TLS.PeerCertificates) != 1 {
			t.Errorf("%s: %s, want %s", name, seen, tt.want)
		}
		if r.Method != http.MethodGet || r.URL.Path != "/things/1" {
			t.Error("the sub-request itself was changed")
		}
	}
	for name, h := range map[string]http.Header{
		"nothing":             {},
		"no method":           header("X-Forwarded-Uri", "/a"),
		"no URI":              header("X-Original-Method", "GET"),
		"both":                header("X-Forwarded-Method", "PUT", "X-Forwarded-Uri", "/a", "X-Original-Method", "PUT", "X-Original-URI", "/a"),
		"one of each":         header("X-Forwarded-Method", "PUT", "X-Original-URI", "/a"),
		"something, empty":    header("X-Forwarded-Method", "PUT", "X-Forwarded-Uri", "/a", "X-Original-URI", ""),
		"two URIs":            header("X-Forwarded-Method", "PUT", "X-Forwarded-Uri", "/a", "X-Forwarded-Uri", "/a"),
		"two forms":           header("X-Original-Method", "PUT", "X-Original-Uri", "/a", "X-Original-Url", "https://rs.example/a"),
		"not absolute":        header("X-Original-Method", "PUT", "X-Original-Url", "/a"),
		"no host":             header("X-Original-Method", "PUT", "X-Original-Url", "https:///a"),
		"another scheme":      header("X-Original-Method", "PUT", "X-Original-Url", "ftp://rs.example/a"),
		"a user":              header("X-Original-Method", "PUT", "X-Original-Url", "https://x@rs.example/a"),
		"they disagree":       header("X-Original-Method", "GET", "X-Original-URL", "https://api.example/a", "X-Forwarded-Host", "rs.example"),
		"absolute":            header("X-Forwarded-Method", "PUT", "X-Forwarded-Uri", "https://rs.example/a"),
		"a relative path":     header("X-Forwarded-Method", "PUT", "X-Forwarded-Uri", "a"),
		"a bad escape":        header("X-Forwarded-Method", "PUT", "X-Forwarded-Uri", "/%zz"),
		"an endless URI":      header("X-Forwarded-Method", "PUT", "X-Forwarded-Uri", "/"+strings.Repeat("a", maxAskedURL)),
		"no method's name":    header("X-Forwarded-Method", "P T", "X-Forwarded-Uri", "/a"),
		"an endless method":   header("X-Forwarded-Method", strings.Repeat("A", 33), "X-Forwarded-Uri", "/a"),
		"another certificate": header("X-Forwarded-Method", "PUT", "X-Forwarded-Uri", "/a", "Client-Cert", "::"),
	} {
		if got, err := p.ReceiveCheck(fromProxy(h)); got != nil || !errors.Is(err, ErrForwarded) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
