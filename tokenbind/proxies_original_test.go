package tokenbind

import (
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"testing"
)

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
		"many inventions":         {nil, header("X-Forwarded-For", strings.Repeat("10.0.0.1, ", 2*maxHops)+"198.51.100.9"), "http://rs.example", "198.51.100.9:0"},
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
