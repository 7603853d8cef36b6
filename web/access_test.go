package web

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
)

// example fills a route's variables.
func example(path string) string {
	path, _, _ = strings.Cut(strings.NewReplacer(
		"{serial:[^/]+}", strings.Repeat("ab", 16), "{id:[^/]+}", "someone", "{issuer:[0-9a-f]+}", "ab", "{file:[a-z.]+}", "style.css", "{shard:[1-9][0-9]*}", "1", "{request:.+}", "MAA=",
	).Replace(path), "{")
	return path
}

// selfMade is a certificate that says what another says, its serial number too, with a key and a signature of its own.
func selfMade(t *testing.T, like *x509.Certificate) tls.Certificate {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	parent := *like
	parent.PublicKey = key.Public()
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, like, &parent, key.Public(), key))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestAccess_OperatorRoutes: every operator's route refuses everyone else, whatever they hold.
func TestAccess_OperatorRoutes(t *testing.T) {
	f := newFixture(t)
	ordinary, revoked := f.certificate("ordinary", "client"), f.certificate("gone", enroll.OperatorProfile)
	f.operate("POST", "/v1/certificates/"+serialOf(revoked)+"/revoke", "").want(t, http.StatusOK, nil)
	held := f.certificate("held", enroll.OperatorProfile)
	f.operate("POST", "/v1/certificates/"+serialOf(held)+"/revoke", `{"reason":"certificateHold"}`).want(t, http.StatusOK, nil)
	foreign := newFixture(t).admin
	forged := selfMade(t, f.admin.Leaf)

	for _, route := range f.table {
		if route.Access != Operator {
			continue
		}
		for who, c := range map[string]struct {
			base string
			cert *tls.Certificate
			want int
		}{
			"nobody, public":        {f.public.URL, nil, http.StatusUnauthorized},
			"an operator, public":   {f.public.URL, &f.admin, http.StatusUnauthorized}, // the public listener asks for no certificate
			"nobody":                {f.mtls.URL, nil, http.StatusUnauthorized},
			"another CA's operator": {f.mtls.URL, &foreign, http.StatusUnauthorized},
			"an operator's serial":  {f.mtls.URL, &forged, http.StatusUnauthorized},
			"a revoked operator":    {f.mtls.URL, &revoked, http.StatusUnauthorized},
			"a held operator":       {f.mtls.URL, &held, http.StatusUnauthorized},
			"a client":              {f.mtls.URL, &ordinary, http.StatusForbidden},
		} {
			a := f.do(request{method: route.Method, url: c.base + example(route.Path), cert: c.cert})
			if a.StatusCode != c.want {
				t.Errorf("%s %s by %s: status %d, want %d", route.Method, route.Path, who, a.StatusCode, c.want)
			}
			if c.base == f.public.URL && !strings.Contains(a.body, f.mtls.URL) {
				t.Errorf("%s %s: the answer does not name the mTLS listener: %s", route.Method, route.Path, a.body)
			}
			if a.StatusCode == http.StatusUnauthorized && a.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s by %s: no WWW-Authenticate", route.Method, route.Path, who)
			}
		}
	}
}

// TestInvariant9_ForwardedCertificateIsRefused: on every REST route and page, also beside a real certificate.
// The OAuth routes refuse it in the authorization server, and those for proxies in forwardauth.
func TestInvariant9_ForwardedCertificateIsRefused(t *testing.T) {
	f := newFixture(t)
	for _, route := range f.table {
		if route.Listeners&both == 0 || strings.HasPrefix(route.Name, "oauth.") || route.Access == TrustedProxy {
			continue
		}
		for _, header := range []string{"X-Forwarded-Client-Cert", "Client-Cert", "X-SSL-Client-Cert"} {
			a := f.do(request{method: route.Method, url: f.mtls.URL + example(route.Path), cert: &f.admin, header: http.Header{http.CanonicalHeaderKey(header): {""}}})
			if a.StatusCode != http.StatusBadRequest || !strings.Contains(a.body, f.mtls.URL) {
				t.Errorf("%s %s with %s: status %d: %s", route.Method, route.Path, header, a.StatusCode, a.body)
			}
		}
	}
}

func TestA30_ForwardedCertificateAtTheTokenEndpoint(t *testing.T) {
	f := newFixture(t)
	a := f.do(request{
		method: "POST", url: f.public.URL + "/oauth/token", body: form("grant_type", "client_credentials", "client_id", "x"),
		header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "X-Forwarded-Client-Cert": {"x"}},
	})
	if a.StatusCode != http.StatusBadRequest || !strings.Contains(a.body, "invalid_request") {
		t.Errorf("status %d: %s", a.StatusCode, a.body)
	}
}

// TestAccess_CrossOrigin: a browser presents an operator's certificate to whatever page makes it ask.
func TestAccess_CrossOrigin(t *testing.T) {
	f := newFixture(t)
	victim := f.certificate("victim", "client")
	for name, header := range map[string]http.Header{
		"fetch metadata": {"Sec-Fetch-Site": {"cross-site"}},
		"origin":         {"Origin": {"https://evil.example"}},
	} {
		for _, path := range []string{
			"/v1/certificates/" + serialOf(victim) + "/revoke", "/console/certificates/" + serialOf(victim) + "/revoke",
			"/console/clients/victim/disable", "/console/clients/victim/enable",
		} {
			h := header.Clone()
			h.Set("Content-Type", "application/x-www-form-urlencoded")
			a := f.do(request{method: "POST", url: f.mtls.URL + path, body: form("reason", "keyCompromise", "sure", "on"), header: h, cert: &f.admin})
			if a.StatusCode != http.StatusForbidden {
				t.Errorf("%s, %s: status %d, want 403", path, name, a.StatusCode)
			}
		}
	}
	if rec, err := f.c.Authority.Lookup(t.Context(), victim.Leaf); err != nil || rec.Status(f.now()) != ca.Active {
		t.Errorf("the certificate is %v (%v), want active", rec.Status(f.now()), err)
	}
}

// TestAccess_ActorIsRecorded: the audit log names who acted, from where, and by which request.
func TestAccess_ActorIsRecorded(t *testing.T) {
	f := newFixture(t)
	victim := f.certificate("victim", "client")
	a := f.operate("POST", "/v1/certificates/"+serialOf(victim)+"/revoke", "").want(t, http.StatusOK, nil)
	entries := must[[]audit.Entry](t)(f.store.Audit(t.Context(), 0, 100))
	last := entries[len(entries)-1]
	if last.Action != audit.Revoke || last.Actor != "admin" || last.Address != "127.0.0.1" || last.RequestID != a.Header.Get("X-Request-Id") {
		t.Errorf("entry %+v, want a revocation by admin from 127.0.0.1 with request id %s", last, a.Header.Get("X-Request-Id"))
	}
}
