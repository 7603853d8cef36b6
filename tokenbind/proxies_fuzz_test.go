package tokenbind

import (
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// written is how each form is written, by another hand than the one that reads it.
var written = map[CertificateForm]func(chain []*x509.Certificate) http.Header{
	FormRFC9440: func(chain []*x509.Certificate) http.Header {
		h := header("Client-Cert", ":"+derOf(chain[0])+":")
		var above []string
		for _, c := range chain[1:] {
			above = append(above, ":"+derOf(c)+":")
		}
		if above != nil {
			h.Set("Client-Cert-Chain", strings.Join(above, ", "))
		}
		return h
	},
	FormNginx: func(chain []*x509.Certificate) http.Header {
		return header("X-Ssl-Client-Cert", url.PathEscape(pemOf(chain[0])))
	},
	FormHAProxy: func(chain []*x509.Certificate) http.Header { return header("X-Ssl-Client-Cert", derOf(chain[0])) },
	FormApache: func(chain []*x509.Certificate) http.Header {
		return header("X-Ssl-Client-Cert", strings.ReplaceAll(pemOf(chain[0]), "\n", " "))
	},
	FormEnvoy: func(chain []*x509.Certificate) http.Header {
		return header("X-Forwarded-Client-Cert", `By=spiffe://x;Hash=`+hashOf(chain[0])+`;Chain="`+url.PathEscape(pemOf(chain...))+`"`)
	},
	FormTraefik: func(chain []*x509.Certificate) http.Header {
		var all []string
		for _, c := range chain {
			all = append(all, derOf(c))
		}
		return header("X-Forwarded-Tls-Client-Cert", strings.Join(all, ","))
	},
}

// FuzzProxies: whatever stands in the headers, the answer is a request or ErrForwarded, and a certificate that is
// accepted is the one that is read again when it is written anew.
func FuzzProxies(f *testing.F) {
	names := CertificateForms()
	if len(names) != len(written) {
		f.Fatal("a form that is not written here")
	}
	for _, c := range formCases(f) {
		if c.form == FormNone {
			continue
		}
		for i, name := range names {
			if name == string(c.form) {
				f.Add(byte(i), c.header.Get(forms[c.form].header), c.header.Get(chainHeader), "for=198.51.100.9;proto=https", "198.51.100.9", "rs.example:443", "/a?b=c")
			}
		}
	}
	f.Fuzz(func(t *testing.T, form byte, certificate, chain, forwarded, from, host, uri string) {
		kind := CertificateForm(names[int(form)%len(names)])
		p := proxies(t, withForm(kind))
		h := header(forms[kind].header, certificate, "X-Forwarded-For", from, "X-Forwarded-Host", host)
		for name, value := range map[string]string{chainHeader: chain, "Forwarded": forwarded} {
			if value != "" {
				h.Set(name, value)
			}
		}
		got, err := p.Receive(fromProxy(h.Clone()))
		if err != nil {
			if got != nil || !errors.Is(err, ErrForwarded) {
				t.Fatalf("%v, %v", got, err)
			}
		} else if certs := got.TLS.PeerCertificates; len(certs) > 0 {
			again, err := p.Receive(fromProxy(written[kind](certs)))
			if err != nil || !again.TLS.PeerCertificates[0].Equal(certs[0]) {
				t.Fatalf("written anew: %v", err)
			}
		}
		h.Set("X-Forwarded-Method", "GET")
		h.Set("X-Forwarded-Uri", uri)
		if got, err := p.ReceiveCheck(fromProxy(h)); (got == nil) != errors.Is(err, ErrForwarded) {
			t.Fatalf("%v, %v", got, err)
		} else if err == nil && (got.RequestURI != uri || !strings.HasPrefix(got.URL.EscapedPath(), "/")) {
			t.Fatalf("%q became %q", uri, got.URL)
		}
	})
}
