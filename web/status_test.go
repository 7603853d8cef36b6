package web

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
)

// eventually waits for what another goroutine does.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// TestStatus_CRL: what was revoked is on the CRL that the certificate names, soon after.
func TestStatus_CRL(t *testing.T) {
	f := newFixture(t)
	victim := f.certificate("victim", "client")
	f.operate("POST", "/v1/certificates/"+serialOf(victim)+"/revoke", "").want(t, http.StatusOK, nil)
	eventually(t, func() error {
		a := f.do(request{url: victim.Leaf.CRLDistributionPoints[0]})
		list, err := x509.ParseRevocationList([]byte(a.body))
		if err != nil {
			return err
		}
		if n := len(list.RevokedCertificateEntries); n != 1 || list.RevokedCertificateEntries[0].SerialNumber.Cmp(victim.Leaf.SerialNumber) != 0 {
			return fmt.Errorf("%d entries", n)
		}
		if a.Header.Get("Content-Type") != "application/pkix-crl" || a.Header.Get("ETag") == "" {
			t.Errorf("headers %v", a.Header)
		}
		return nil
	})
	f.do(request{url: f.status.URL + "/crl/0000000000000000.crl"}).problem(t, http.StatusNotFound, "no-route")
}

// TestStatus_DeltaCRL: the CRL names its delta, which has what was revoked since the daemon's start, and a checker asks
// for that one alone.
func TestStatus_DeltaCRL(t *testing.T) {
	f := newFixture(t)
	issuer := f.c.Authority.Issuer()
	victim := f.certificate("victim", "client")
	full := "/crl/" + issuer.ID() + ".crl"
	eventually(t, func() error { // the first list is published
		if a := f.do(request{url: f.status.URL + full}); a.StatusCode != http.StatusOK {
			return errors.New(a.Status)
		}
		return nil
	})
	var asked []string
	client := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
		asked = append(asked, r.URL.Path)
		return http.DefaultTransport.RoundTrip(r)
	})}
	checker := must[*crl.Checker](t)(crl.NewChecker(crl.CheckerConfig{Issuers: []*x509.Certificate{issuer.Signer.Certificate()}, HTTPClient: client}))
	if err := checker.Check(t.Context(), victim.Leaf); err != nil {
		t.Fatal(err)
	}
	f.operate("POST", "/v1/certificates/"+serialOf(victim)+"/revoke", "").want(t, http.StatusOK, nil)
	eventually(t, func() error {
		if err := checker.Refresh(t.Context()); err != nil {
			return err
		}
		if err := checker.Check(t.Context(), victim.Leaf); err == nil {
			return errors.New("the checker does not know of the revocation")
		}
		return nil
	})
	if asked[0] != full || slices.Contains(asked[1:], full) || !slices.Contains(asked, crl.DeltaURL(full)) {
		t.Errorf("the checker asked for %q", asked)
	}
	f.do(request{url: f.status.URL + "/crl/0000000000000000-delta.crl"}).problem(t, http.StatusNotFound, "no-route")
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestStatus_RootCRLAndCertificates(t *testing.T) {
	f := newFixture(t)
	issuer := f.c.Authority.Issuer()
	a := f.do(request{url: f.status.URL + "/crl/root.crl"}).want(t, http.StatusOK, nil)
	if list, err := x509.ParseRevocationList([]byte(a.body)); err != nil || list.CheckSignatureFrom(issuer.Root) != nil {
		t.Errorf("the root's CRL: %v", err)
	}
	for _, url := range []string{issuer.AIAURL, f.status.URL + "/issuers/root.crt"} {
		a := f.do(request{url: url}).want(t, http.StatusOK, nil)
		cert := must[*x509.Certificate](t)(x509.ParseCertificate([]byte(a.body)))
		if err := cert.CheckSignatureFrom(issuer.Root); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		if a.Header.Get("Content-Type") != "application/pkix-cert" || !strings.HasPrefix(a.Header.Get("Cache-Control"), "public, max-age=") {
			t.Errorf("%s: headers %v", url, a.Header)
		}
		again := f.do(request{url: url, header: http.Header{"If-None-Match": {a.Header.Get("ETag")}}})
		if again.StatusCode != http.StatusNotModified {
			t.Errorf("%s with its ETag: status %d, want 304", url, again.StatusCode)
		}
	}
	f.do(request{url: f.status.URL + "/issuers/abcd.crt"}).problem(t, http.StatusNotFound, "no-route")
}

func TestOps_Ready(t *testing.T) {
	f := newFixture(t)
	f.do(request{url: f.ops.URL + "/healthz"}).want(t, http.StatusOK, nil)
	var got readiness
	eventually(t, func() error { // until the first CRL is out
		if a := f.do(request{url: f.ops.URL + "/readyz"}); a.StatusCode != http.StatusOK {
			return errors.New(a.body)
		}
		return nil
	})
	f.do(request{url: f.ops.URL + "/readyz"}).want(t, http.StatusOK, &got)
	if !got.Ready || len(got.Checks) != 2 {
		t.Errorf("ready: %+v", got)
	}

	f.c.Checks = []Check{{"peer", func(context.Context) error { return errors.New("it is away") }}}
	f.do(request{url: f.ops.URL + "/readyz"}).want(t, http.StatusServiceUnavailable, &got)
	if last := got.Checks[2]; got.Ready || last.OK || last.Error != "it is away" {
		t.Errorf("with a failing check: %+v", got)
	}
	if a := f.do(request{url: f.ops.URL + "/metrics"}); !strings.Contains(a.body, `pkid_check_ok{check="peer"} 0`) || !strings.Contains(a.body, `pkid_check_ok{check="store"} 1`) {
		t.Errorf("metrics with a failing check: %s", a.body)
	}
	f.c.Checks = nil
	f.now = func() time.Time { return time.Now().Add(300 * time.Hour) } // no CRL holds so long
	a := f.do(request{url: f.ops.URL + "/readyz"}).want(t, http.StatusServiceUnavailable, nil)
	if !strings.Contains(a.body, "overdue") {
		t.Errorf("with an overdue CRL: %s", a.body)
	}
	f.now = time.Now
	f.store.Close()
	f.do(request{url: f.ops.URL + "/readyz"}).want(t, http.StatusServiceUnavailable, nil)
	f.do(request{url: f.ops.URL + "/healthz"}).want(t, http.StatusOK, nil)
}

// TestOps_Metrics: the text is of the Prometheus format, and its counters count what happened.
func TestOps_Metrics(t *testing.T) {
	f := newFixture(t)
	csr, _ := newCSR(t)
	f.enrol(f.invite("counted").Token, csr).want(t, http.StatusCreated, nil)
	f.operate("POST", "/v1/certificates/"+serialOf(f.certificate("x", "client"))+"/revoke", "").want(t, http.StatusOK, nil)
	f.do(request{url: f.public.URL + "/v1/clients"})
	f.do(request{method: "OPTIONS", url: f.public.URL + "/oauth/token"})
	for i := range 20 {
		f.do(request{url: fmt.Sprintf("%s/random/%d", f.public.URL, i)})
	}
	a := f.do(request{url: f.ops.URL + "/metrics"}).want(t, http.StatusOK, nil)
	for _, want := range []string{
		"pkid_certificates_issued_total 1\n", "pkid_certificates_revoked_total 1\n", "pkid_certificates_renewed_total 0\n",
		"pkid_tokens_issued_total 0\n", "pkid_invitations_total 1\n",
		`pkid_http_requests_total{listener="public",route="clients.list",code="4xx"} 1` + "\n",
		`pkid_http_requests_total{listener="public",route="",code="4xx"} 20` + "\n", // one line for all that no route matched
		`pkid_http_request_duration_seconds_count{route="certificates.issue"} 1` + "\n",
		`pkid_crl_number{issuer="` + f.c.Authority.Issuer().ID() + `"} `,
		"pkid_build_info{",
	} {
		if !strings.Contains(a.body, want) {
			t.Errorf("no %q in:\n%s", want, a.body)
		}
	}
	line := regexp.MustCompile(`^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [0-9.e+-]+)$`)
	for text := range strings.SplitSeq(strings.TrimSpace(a.body), "\n") {
		if !line.MatchString(text) {
			t.Errorf("not of the format: %s", text)
		}
	}
}

func TestNew_Validates(t *testing.T) {
	f := newFixture(t)
	for name, spoil := range map[string]func(*Config){
		"no authority": func(c *Config) { c.Authority = nil },
		"no audit log": func(c *Config) { c.Audit = nil },
		"no URL":       func(c *Config) { c.URLs.MTLS = "" },
		"no CRL":       func(c *Config) { c.RootCRL = []byte{} },
		"foreign CRL":  func(c *Config) { c.RootCRL = newFixture(t).c.RootCRL },
	} {
		c := f.c
		spoil(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := f.c.Authority.List(t.Context(), ca.Query{Limit: 1}); err != nil {
		t.Error(err)
	}
}
