package web

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/csv"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/thumbprint"
)

func thumbprintOf(c tls.Certificate) thumbprint.Cert { return thumbprint.OfCertificate(c.Leaf) }

func parsePEM(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		t.Fatalf("no PEM certificate: %q", text)
	}
	return must[*x509.Certificate](t)(x509.ParseCertificate(block.Bytes))
}

func TestCertificates_CA(t *testing.T) {
	f := newFixture(t)
	var got client.CA
	f.do(request{url: f.public.URL + "/v1/ca"}).want(t, http.StatusOK, &got)
	root := parsePEM(t, got.Root)
	if got.Fingerprint != fingerprint(root) || got.Name != "Test CA" || got.URLs.MTLS != f.mtls.URL {
		t.Errorf("got %+v", got)
	}
	if err := parsePEM(t, got.Issuers[0].Certificate).CheckSignatureFrom(root); err != nil {
		t.Error(err)
	}
}

// TestCertificates_Life is a certificate's life over the API: invited, enrolled, renewed, shown, revoked.
func TestCertificates_Life(t *testing.T) {
	f := newFixture(t)
	inv := f.invite("payments")
	token := must[client.EnrolmentToken](t)(client.ParseEnrolmentToken(inv.Token))
	if token.URL != f.public.URL || token.InvitationID() != inv.ID {
		t.Errorf("token %+v does not belong to invitation %+v", token, inv)
	}
	csr, key := newCSR(t)
	var issued client.Certificate
	a := f.enrol(inv.Token, csr).want(t, http.StatusCreated, &issued)
	leaf := parsePEM(t, issued.Certificate)
	pool, chain := x509.NewCertPool(), x509.NewCertPool()
	pool.AddCert(parsePEM(t, issued.Root))
	chain.AddCert(parsePEM(t, issued.Chain[0]))
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: chain, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if issued.ClientID != "payments" || leaf.Subject.CommonName != "payments" || leaf.DNSNames[0] != "payments.example.com" {
		t.Errorf("issued %+v with names %v", issued, leaf.DNSNames)
	}
	if issued.Thumbprint != thumbprint.OfCertificate(leaf) || issued.Status != "active" {
		t.Errorf("thumbprint %s, status %s", issued.Thumbprint, issued.Status)
	}
	if got := a.Header.Get("Location"); got != "/v1/certificates/"+issued.Serial {
		t.Errorf("Location %q", got)
	}

	own := tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	var renewed client.Certificate
	f.do(request{method: "POST", url: f.mtls.URL + "/v1/certificates/renew", cert: &own}).want(t, http.StatusCreated, &renewed)
	if renewed.Renews != issued.Serial || renewed.Serial == issued.Serial || renewed.ClientID != "payments" {
		t.Errorf("renewed %+v", renewed)
	}
	rekey, _ := newCSR(t)
	f.do(request{
		method: "POST", url: f.mtls.URL + "/v1/certificates/renew", cert: &own, body: rekey,
		header: http.Header{"Content-Type": {"application/pkcs10"}},
	}).want(t, http.StatusCreated, &renewed)

	var revoked client.Certificate
	f.operate("POST", "/v1/certificates/"+issued.Serial+"/revoke", `{"reason":"keyCompromise"}`).want(t, http.StatusOK, &revoked)
	if revoked.Status != "revoked" || revoked.RevocationReason != "keyCompromise" || revoked.RevokedAt.IsZero() {
		t.Errorf("revoked %+v", revoked)
	}
	f.operate("POST", "/v1/certificates/"+issued.Serial+"/revoke", `{}`).problem(t, http.StatusConflict, "already-revoked")
	f.do(request{method: "POST", url: f.mtls.URL + "/v1/certificates/renew", cert: &own}).problem(t, http.StatusForbidden, "certificate-not-active")
	f.do(request{method: "POST", url: f.public.URL + "/v1/certificates/renew"}).problem(t, http.StatusUnauthorized, "certificate-needed")
}

// TestCertificates_EmptyChunkedBody: a client that streams sends no length, and maybe no body either.
func TestCertificates_EmptyChunkedBody(t *testing.T) {
	f := newFixture(t)
	cert := f.certificate("payments", "client")
	csr, _ := newCSR(t)
	for _, tt := range []struct {
		path, body string
		cert       *tls.Certificate
		want       int
	}{
		{"/v1/certificates/renew", "", &cert, http.StatusCreated},
		{"/v1/certificates/renew", csr, &cert, http.StatusCreated},
		{"/v1/certificates/renew", "nonsense", &cert, http.StatusBadRequest},
		{"/v1/certificates/" + serialOf(cert) + "/revoke", "", &f.admin, http.StatusOK},
	} {
		body := struct{ io.Reader }{strings.NewReader(tt.body)} // of a length that nobody knows
		req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), "POST", f.mtls.URL+tt.path, body))
		if tt.body != "" {
			req.Header.Set("Content-Type", "application/pkcs10")
		}
		resp := must[*http.Response](t)(f.http(tt.cert).Do(req))
		text := must[[]byte](t)(io.ReadAll(resp.Body))
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s with %.10q: status %d, want %d: %s", tt.path, tt.body, resp.StatusCode, tt.want, text)
		}
	}
}

// TestCertificates_RevokeLineage: what renewed a certificate goes with it if its key was compromised, or if
// this was asked for, and is told of otherwise.
func TestCertificates_RevokeLineage(t *testing.T) {
	for _, tt := range []struct {
		body         string
		also, active int
	}{
		{`{"reason":"keyCompromise"}`, 2, 0},
		{`{"reason":"keyCompromise","lineage":false}`, 0, 2},
		{`{"reason":"superseded"}`, 0, 2},
		{`{"reason":"superseded","lineage":true}`, 2, 0},
		{"", 0, 2},
	} {
		f := newFixture(t)
		cert := f.certificate("payments", "client")
		for range 2 {
			f.do(request{method: "POST", url: f.mtls.URL + "/v1/certificates/renew", cert: &cert}).want(t, http.StatusCreated, nil)
		}
		path := "/v1/certificates/" + serialOf(cert) + "/revoke"
		var got client.Certificate
		f.operate("POST", path, tt.body).want(t, http.StatusOK, &got)
		if got.Status != "revoked" || len(got.AlsoRevoked) != tt.also || len(got.StillActive) != tt.active {
			t.Errorf("%s: %s, also revoked %v, active %v", tt.body, got.Status, got.AlsoRevoked, got.StillActive)
		}
		if tt.active == 0 {
			f.operate("POST", path, tt.body).problem(t, http.StatusConflict, "already-revoked")
			continue
		}
		f.operate("POST", path, `{"lineage":true}`).want(t, http.StatusOK, &got)
		if len(got.AlsoRevoked) != 2 {
			t.Errorf("%s, then its lineage: also revoked %v", tt.body, got.AlsoRevoked)
		}
	}
	f := newFixture(t)
	f.operate("POST", "/v1/certificates/"+serialOf(f.admin)+"/revoke", `{"reason":"certificateHold","lineage":true}`).problem(t, http.StatusConflict, "reason-not-allowed")
}

// TestInvariant4_OneInvitationOneCertificate: the same CSR again gets the same certificate, another is refused.
func TestInvariant4_OneInvitationOneCertificate(t *testing.T) {
	f := newFixture(t)
	inv := f.invite("once")
	csr, _ := newCSR(t)
	other, _ := newCSR(t)
	var first, again client.Certificate
	f.enrol(inv.Token, csr).want(t, http.StatusCreated, &first)
	f.enrol(inv.Token, csr).want(t, http.StatusCreated, &again)
	if first.Serial != again.Serial {
		t.Errorf("serials %s and %s, want the same", first.Serial, again.Serial)
	}
	f.enrol(inv.Token, other).problem(t, http.StatusConflict, "invitation-used")
}

func TestCertificates_EnrolmentForms(t *testing.T) {
	f := newFixture(t)
	csr, _ := newCSR(t)
	block, _ := pem.Decode([]byte(csr))
	for _, c := range []struct{ body, kind string }{
		{csr, ""}, {string(block.Bytes), "application/pkcs10"}, {csr, "application/pkcs10"}, {csr, pemFile},
	} {
		f.enrol(f.invite("form").Token, c.body, "Content-Type", c.kind).want(t, http.StatusCreated, nil)
	}
	a := f.enrol(f.invite("form").Token, csr, "Accept", "text/plain;q=0.1, "+pemChain).want(t, http.StatusCreated, nil)
	if got := strings.Count(a.body, "BEGIN CERTIFICATE"); got != 2 || a.Header.Get("Content-Type") != pemChain {
		t.Errorf("%d certificates as %s, want leaf and issuer as %s", got, a.Header.Get("Content-Type"), pemChain)
	}
}

func TestCertificates_BadEnrolments(t *testing.T) {
	f := newFixture(t)
	csr, _ := newCSR(t)
	token := f.invite("careful").Token
	parsed := must[client.EnrolmentToken](t)(client.ParseEnrolmentToken(token))
	parsed.Secret[0] ^= 1
	post := func(h http.Header, body string) answer {
		return f.do(request{method: "POST", url: f.public.URL + "/v1/certificates", body: body, header: h})
	}
	good := string(must[[]byte](t)(json.Marshal(client.CSR{CSR: csr})))
	post(http.Header{}, good).problem(t, http.StatusUnauthorized, "enrolment-token-needed")
	post(http.Header{"Authorization": {"Basic abc"}}, good).problem(t, http.StatusUnauthorized, "enrolment-token-needed")
	post(http.Header{"Authorization": {"Bearer " + token, "Bearer " + token}}, good).problem(t, http.StatusUnauthorized, "enrolment-token-needed")
	post(http.Header{"Authorization": {"Bearer " + token[:60]}}, good).problem(t, http.StatusUnauthorized, "bad-enrolment-token")
	f.enrol(parsed.String(), csr).problem(t, http.StatusUnauthorized, "invitation-not-valid")
	f.enrol(token, "nonsense").problem(t, http.StatusBadRequest, "bad-csr")
	f.enrol(token, csr, "Content-Type", "text/plain").problem(t, http.StatusUnsupportedMediaType, "bad-media-type")
	f.enrol(token, strings.Repeat("x", maxBody+1), "Content-Type", "application/pkcs10").problem(t, http.StatusRequestEntityTooLarge, "too-large")
	f.enrol(token, strings.Repeat("x", ca.MaxCSR+1), "Content-Type", "application/pkcs10").problem(t, http.StatusBadRequest, "bad-csr")
	f.enrol(token, csr).want(t, http.StatusCreated, nil) // none of these used the invitation up
	for _, secret := range []string{token, token[10:60]} {
		if strings.Contains(f.log.String(), secret) {
			t.Error("the log has the enrolment token")
		}
	}
}

func TestCertificates_StrictJSON(t *testing.T) {
	f := newFixture(t)
	for name, body := range map[string]string{
		"unknown member": `{"client_id":"x","scope":["a"]}`,
		"other case":     `{"CLIENT_ID":"x"}`,
		"both cases":     `{"client_id":"a","CLIENT_ID":"b"}`,
		"long s":         `{"client_id":"a","\u017fans":["b"]}`,
		"twice":          `{"client_id":"a","client_id":"b"}`,
		"twice, escaped": `{"client_id":"a","client\u005fid":"b"}`,
		"null":           `null`,
		"a list":         `[]`,
		"trailing data":  `{"client_id":"x"} {}`,
		"not JSON":       `client_id=x`,
		"wrong type":     `{"client_id":7}`,
		"cut short":      `{"client_id":"x"`,
		"bad duration":   `{"client_id":"x","ttl":"tomorrow"}`,
		"negative":       `{"client_id":"x","ttl":"-1h"}`,
		"empty":          "",
	} {
		h := http.Header{"Content-Type": {"application/json"}}
		a := f.do(request{method: "POST", url: f.mtls.URL + "/v1/invitations", body: body, header: h, cert: &f.admin})
		if p := a.problem(t, http.StatusBadRequest, "bad-request"); p.Detail == "" {
			t.Errorf("%s: no detail", name)
		}
	}
	f.operate("POST", "/v1/invitations", `{"client_id":"-x"}`).problem(t, http.StatusBadRequest, "bad-invitation")
	f.operate("POST", "/v1/invitations", `{"client_id":"x","profile":"none"}`).problem(t, http.StatusUnprocessableEntity, "no-profile")
	f.operate("POST", "/v1/invitations", `{"client_id":"x","sans":["*.example.com"]}`).problem(t, http.StatusUnprocessableEntity, "names-not-allowed")
	f.operate("POST", "/v1/invitations", `{"client_id":"x","lifetime":"10000h"}`).problem(t, http.StatusUnprocessableEntity, "lifetime-not-allowed")
}

func TestCertificates_Show(t *testing.T) {
	f := newFixture(t)
	path := "/v1/certificates/" + serialOf(f.admin)
	var got client.Certificate
	f.operate("GET", path, "").want(t, http.StatusOK, &got)
	if len(got.Chain) != 1 || got.Root == "" || got.Profile != enroll.OperatorProfile {
		t.Errorf("got %+v", got)
	}
	for kind, n := range map[string]int{pemFile: 1, pemChain: 2} {
		a := f.do(request{url: f.mtls.URL + path, cert: &f.admin, header: http.Header{"Accept": {kind}}}).want(t, http.StatusOK, nil)
		if strings.Count(a.body, "BEGIN CERTIFICATE") != n || !bytes.Equal(parsePEM(t, a.body).Raw, f.admin.Leaf.Raw) {
			t.Errorf("%s: %s", kind, a.body)
		}
	}
	f.operate("GET", "/v1/certificates/"+strings.Repeat("ab", 16), "").problem(t, http.StatusNotFound, "no-certificate")
	colons := strings.TrimSuffix(regexp.MustCompile("..").ReplaceAllString(serialOf(f.admin), "$0:"), ":")
	f.operate("GET", "/v1/certificates/"+colons, "").want(t, http.StatusOK, nil) // as openssl writes it
	f.operate("GET", "/v1/certificates/"+url.QueryEscape(strings.ToUpper(colons)), "").want(t, http.StatusOK, nil)
	f.operate("GET", "/v1/certificates/not-a-serial", "").problem(t, http.StatusBadRequest, "bad-serial")
	f.operate("GET", "/v1/certificates/abcd", "").problem(t, http.StatusBadRequest, "bad-serial")
	f.operate("POST", "/v1/certificates/"+serialOf(f.admin)+"/revoke", `{"reason":"boredom"}`).problem(t, http.StatusBadRequest, "bad-request")
	f.operate("POST", "/v1/certificates/"+serialOf(f.admin)+"/revoke", `{"reason":"removeFromCRL"}`).problem(t, http.StatusConflict, "reason-not-allowed")
}

func TestCertificates_ListAndSearch(t *testing.T) {
	f := newFixture(t)
	for i := range 5 {
		f.certificate(fmt.Sprintf("client-%d", i), "client")
	}
	var seen []string
	for cursor := ""; ; {
		var page client.Certificates
		f.operate("GET", "/v1/certificates?limit=2&profile=client&cursor="+url.QueryEscape(cursor), "").want(t, http.StatusOK, &page)
		for _, c := range page.Certificates {
			seen = append(seen, c.ClientID)
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	slices.Sort(seen) // those of one millisecond come in any order
	if got := strings.Join(seen, " "); got != "client-0 client-1 client-2 client-3 client-4" {
		t.Errorf("paged through %s", got)
	}
	for query, want := range map[string]int{
		"client=client-3": 1, "name=CLIENT-": 5, "status=active": 6, "status=revoked": 0, "profile=operator": 1,
		"thumbprint=" + thumbprintOf(f.admin).String(): 1,
		"expires_before=2001-01-01T00:00:00Z":          0, "expires_after=2001-01-01T00:00:00Z": 6, "client=nobody": 0,
	} {
		var page client.Certificates
		f.operate("GET", "/v1/certificates?"+query, "").want(t, http.StatusOK, &page)
		if len(page.Certificates) != want {
			t.Errorf("%s: %d certificates, want %d", query, len(page.Certificates), want)
		}
	}
	for _, query := range []string{
		"clientid=x", "status=lost", "limit=0", "limit=1001", "limit=x", "expires_before=tomorrow",
		"expires_before=0001-01-01T00:00:00Z", "expires_after=1969-12-31T23:59:59Z",
		"thumbprint=abc", "format=xml", "client=a&client=b", "format=csv&limit=3", "client=%zz",
	} {
		f.operate("GET", "/v1/certificates?"+query, "").problem(t, http.StatusBadRequest, "bad-request")
	}
	f.operate("GET", "/v1/certificates?cursor=never-given", "").problem(t, http.StatusBadRequest, "bad-cursor")
}

func TestCertificates_Export(t *testing.T) {
	f := newFixture(t)
	for i := range 3 {
		f.certificate(fmt.Sprintf("client-%d", i), "client")
	}
	a := f.operate("GET", "/v1/certificates?format=ndjson&profile=client", "").want(t, http.StatusOK, nil)
	lines := strings.Split(strings.TrimSpace(a.body), "\n")
	var first client.Certificate
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || len(lines) != 3 || !strings.HasPrefix(first.ClientID, "client-") {
		t.Errorf("%d lines, the first %+v (%v)", len(lines), first, err)
	}
	a = f.operate("GET", "/v1/certificates?format=csv", "").want(t, http.StatusOK, nil)
	rows := must[[][]string](t)(csv.NewReader(strings.NewReader(a.body)).ReadAll())
	if len(rows) != 5 || strings.Join(rows[0], ",") != strings.Join(client.CSVHeader(), ",") {
		t.Errorf("rows %v", rows)
	}
	if !strings.HasPrefix(a.Header.Get("Content-Type"), "text/csv") || !strings.Contains(a.Header.Get("Content-Disposition"), "attachment") {
		t.Errorf("headers %v", a.Header)
	}
}

// TestExport_IsCutWhenItFails: an export that ends early must not pass for the whole.
func TestExport_IsCutWhenItFails(t *testing.T) {
	for _, format := range []string{"ndjson", "csv"} {
		f := newFixture(t)
		f.certificate("one", "client")
		url := f.with("/export", func(w http.ResponseWriter, r *http.Request) error {
			return f.export(&closing{w, f}, r, ca.Query{Limit: 1}, format)
		})
		resp, err := f.http(nil).Do(must[*http.Request](t)(http.NewRequestWithContext(t.Context(), "GET", url, nil)))
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if err == nil {
			t.Errorf("%s: the answer looks whole", format)
		}
		if !strings.Contains(f.log.String(), "request failed") {
			t.Errorf("%s: the log does not say why", format)
		}
	}
}

// closing takes the store away after the first page.
type closing struct {
	http.ResponseWriter
	f *fixture
}

func (w *closing) Write(b []byte) (int, error) {
	w.f.store.Close()
	return w.ResponseWriter.Write(b)
}

func (w *closing) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// TestExport_StopsWithItsReader: an export that nobody reads on does not go on.
func TestExport_StopsWithItsReader(t *testing.T) {
	f := newFixture(t)
	for _, format := range []string{"ndjson", "csv"} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		if err := f.export(&goneWriter{http.Header{}}, r, ca.Query{Limit: 1}, format); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: %v, want the writer's error", format, err)
		}
	}
}

// goneWriter is a connection whose reader went away.
type goneWriter struct{ header http.Header }

func (w *goneWriter) Header() http.Header       { return w.header }
func (w *goneWriter) WriteHeader(int)           {}
func (w *goneWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
