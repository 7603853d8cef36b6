package web

import (
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
)

// page asks for a page as the operator, and fails the test unless it is whole, self-contained HTML.
func (f *fixture) page(path string, status int) string {
	f.t.Helper()
	a := f.operate("GET", path, "").want(f.t, status, nil)
	f.whole(path, a)
	return a.body
}

// submit sends a form of the console's as the operator's browser does.
func (f *fixture) submit(path string, values ...string) answer {
	f.t.Helper()
	return f.do(request{
		method: "POST", url: f.mtls.URL + path, body: form(values...), cert: &f.admin,
		header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Origin": {f.mtls.URL}, "Sec-Fetch-Site": {"same-origin"}},
	})
}

var (
	links = regexp.MustCompile(`(?:href|src|action)="([^"]*)"`)
	tags  = regexp.MustCompile(`<(script|style|iframe)|style="|\son[a-z]+="`)
)

func (f *fixture) whole(path string, a answer) {
	f.t.Helper()
	if !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") || a.Header.Get("Content-Security-Policy") != consolePolicy {
		f.t.Errorf("%s: headers %v", path, a.Header)
	}
	if !strings.HasSuffix(strings.TrimSpace(a.body), "</html>") || strings.Contains(a.body, "ZgotmplZ") {
		f.t.Errorf("%s: not whole: %s", path, a.body)
	}
	if bad := tags.FindString(a.body); bad != "" {
		f.t.Errorf("%s has %s, which its policy forbids", path, bad)
	}
	for _, m := range links.FindAllStringSubmatch(a.body, -1) {
		u := must[*url.URL](f.t)(url.Parse(html.UnescapeString(m[1])))
		if base := u.Scheme + "://" + u.Host; u.Host != "" && base != f.mtls.URL && base != f.public.URL && base != f.status.URL {
			f.t.Errorf("%s leads outside: %s", path, m[1])
		}
	}
}

func TestConsole_Overview(t *testing.T) {
	f := newFixture(t)
	own := f.certificate(enroll.Daemon, "client") // of a start before this one
	old, renewed := f.certificate("sleepy", "client"), f.certificate("lively", "client")
	f.do(request{method: "POST", url: f.mtls.URL + "/v1/certificates/renew", cert: &renewed}).want(t, http.StatusCreated, nil)
	f.now = func() time.Time { return time.Now().Add(50 * time.Minute) } // of an hour
	body := f.page("/console", http.StatusOK)
	if !strings.Contains(body, serialOf(old)) || strings.Contains(body, serialOf(renewed)) || strings.Contains(body, serialOf(own)) {
		t.Errorf("overdue is %s alone, not what was renewed (%s) or the daemon's (%s): %s", serialOf(old), serialOf(renewed), serialOf(own), body)
	}
	if !strings.Contains(body, "<tr><td>root</td><td>1</td><td>0</td>") {
		t.Errorf("lacks what the root's CRL says: %s", body)
	}
	if !strings.Contains(body, f.c.Authority.Issuer().ID()) || !strings.Contains(body, "admin") {
		t.Errorf("lacks the CRL or the operator: %s", body)
	}
}

func TestConsole_CertificatesAndSearch(t *testing.T) {
	f := newFixture(t)
	for range shownRows + 1 {
		f.certificate("many", "client")
	}
	one := f.certificate("one", "client")
	body := f.page("/console/certificates?name=&client=many&status=&profile=&thumbprint=", http.StatusOK)
	if strings.Contains(body, serialOf(one)) || strings.Count(body, "/console/certificates/") != shownRows {
		t.Errorf("%d rows, want %d of many's", strings.Count(body, "/console/certificates/"), shownRows)
	}
	older := regexp.MustCompile(`href="(/console/certificates\?[^"]*cursor[^"]*)"`).FindStringSubmatch(body)
	if older == nil {
		t.Fatalf("no link to older ones: %s", body)
	}
	if rest := f.page(html.UnescapeString(older[1]), http.StatusOK); strings.Count(rest, "/console/certificates/") != 1 {
		t.Errorf("the second page: %s", rest)
	}
	f.page("/console/certificates?status=nonsense", http.StatusBadRequest)
}

func TestConsole_RevokeAndRelease(t *testing.T) {
	f := newFixture(t)
	first := f.certificate("payments", "client")
	f.do(request{method: "POST", url: f.mtls.URL + "/v1/certificates/renew", cert: &first}).want(t, http.StatusCreated, nil)
	path := "/console/certificates/" + serialOf(first)
	if body := f.page(path, http.StatusOK); strings.Count(body, "</li>") != 2 || !strings.Contains(body, `action="`+path+`/revoke"`) {
		t.Errorf("lacks the lineage or the form: %s", body)
	}
	status := func() ca.Status {
		return must[*ca.Record](t)(f.c.Authority.Lookup(t.Context(), first.Leaf)).Status(f.now())
	}
	body := f.page(path, http.StatusOK)
	if strings.Count(body, "<form") != 2 || !strings.Contains(body, `name="reason" value="certificateHold"`) || strings.Contains(body, "<option>certificateHold") {
		t.Errorf("want a form to hold and one to revoke: %s", body)
	}
	for _, step := range []struct {
		form   []string
		want   ca.Status
		button string // of the first form that the page has then
	}{
		{[]string{"reason", "certificateHold"}, ca.Held, "Release the hold"},
		{[]string{"reason", "removeFromCRL"}, ca.Active, "Hold this certificate"},
		{[]string{"reason", "keyCompromise", "sure", "on"}, ca.Revoked, "Revoke the rest of its lineage"},
	} {
		a := f.submit(path+"/revoke", step.form...)
		if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != path || status() != step.want {
			t.Errorf("%s: status %d to %q, and the certificate is %s: %s", step.form, a.StatusCode, a.Header.Get("Location"), status(), a.body)
		}
		body := f.page(path, http.StatusOK)
		if got := buttons.FindStringSubmatch(body); got == nil || got[1] != step.button || strings.Contains(body, "<option>removeFromCRL") {
			t.Errorf("after %s: %v, want a button to %q: %s", step.form, got, step.button, body)
		}
	}
}

// TestConsole_RevokeAsksTwice: what cannot be taken back needs a box ticked, also past a browser that insists
// on it.
func TestConsole_RevokeAsksTwice(t *testing.T) {
	f := newFixture(t)
	c := f.certificate("payments", "client")
	path := "/console/certificates/" + serialOf(c)
	if body := f.page(path, http.StatusOK); strings.Count(body, `name="sure" required`) != 1 {
		t.Errorf("want the box in the form to revoke alone: %s", body)
	}
	for _, reason := range []string{"keyCompromise", ""} {
		a := f.submit(path+"/revoke", "reason", reason).want(t, http.StatusBadRequest, nil)
		f.whole(path, a)
		if !strings.Contains(a.body, `href="`+path+`">Back to the certificate`) {
			t.Errorf("no way back: %s", a.body)
		}
	}
	if got := must[*ca.Record](t)(f.c.Authority.Lookup(t.Context(), c.Leaf)).Status(f.now()); got != ca.Active {
		t.Errorf("the certificate is %s, want active", got)
	}
}

// TestConsole_Renewed: a certificate with a successor is told from the one that is in use.
func TestConsole_Renewed(t *testing.T) {
	f := newFixture(t)
	first := f.certificate("payments", "client")
	a := f.do(request{method: "POST", url: f.mtls.URL + "/v1/certificates/renew", cert: &first}).want(t, http.StatusCreated, nil)
	next := strings.TrimPrefix(a.Header.Get("Location"), "/v1")
	const tag = `class="tag">renewed<`
	for path, want := range map[string]int{
		"/console/certificates?client=payments":      1, // of two rows
		"/console/certificates/" + serialOf(first):   2, // its heading, and its line of the lineage
		"/console" + next:                            1, // the other's line
		"/console/certificates?client=admin&status=": 0,
	} {
		if body := f.page(path, http.StatusOK); strings.Count(body, tag) != want {
			t.Errorf("%s: %d marks, want %d: %s", path, strings.Count(body, tag), want, body)
		}
	}
	if body := f.page("/console"+next, http.StatusOK); strings.Count(body, ">this one<") != 1 {
		t.Errorf("the lineage does not tell which one this is: %s", body)
	}
}

// TestConsole_SwitchClient: by its form, a client is disabled and enabled, whatever its id has in it.
func TestConsole_SwitchClient(t *testing.T) {
	f := newFixture(t)
	const id = `a/b?c"d`
	f.operate("POST", "/v1/clients", `{"client_id":"a/b?c\"d","token_endpoint_auth_method":"client_secret_basic"}`).want(t, http.StatusCreated, nil)
	action := regexp.MustCompile(`action="([^"]*)"`)
	for _, disabled := range []bool{true, false} {
		m := action.FindStringSubmatch(f.page("/console/clients", http.StatusOK))
		if m == nil {
			t.Fatal("the page has no form")
		}
		a := f.submit(html.UnescapeString(m[1]), "cursor", "6162").want(t, http.StatusSeeOther, nil)
		if got := a.Header.Get("Location"); got != "/console/clients?cursor=6162" {
			t.Errorf("leads to %q", got)
		}
		if c, err := f.c.Clients.Get(t.Context(), id); err != nil || c.Disabled != disabled {
			t.Errorf("after %s the client is %+v (%v), want disabled %t", m[1], c, err, disabled)
		}
	}
	f.submit("/console/clients/nobody/disable").want(t, http.StatusNotFound, nil)
}

var buttons = regexp.MustCompile(`<button>([^<]*)</button>`)

// TestConsole_RevokeLineage: the box that the form has ticked takes the successors along, each branch of them.
func TestConsole_RevokeLineage(t *testing.T) {
	f := newFixture(t)
	first := f.certificate("payments", "client")
	path := "/console/certificates/" + serialOf(first)
	for range 2 {
		f.do(request{method: "POST", url: f.mtls.URL + "/v1/certificates/renew", cert: &first}).want(t, http.StatusCreated, nil)
	}
	if body := f.page(path, http.StatusOK); strings.Count(body, "</li>") != 3 || !strings.Contains(body, `name="lineage" checked`) {
		t.Errorf("lacks a successor or the box: %s", body)
	}
	f.submit(path+"/revoke", "reason", "superseded", "lineage", "on", "sure", "on").want(t, http.StatusSeeOther, nil)
	if body := f.page(path, http.StatusOK); strings.Contains(body, "<form") || strings.Count(body, `class="status revoked"`) != 4 {
		t.Errorf("after the revocation of all three: %s", body)
	}
}

func TestConsole_ClientsAndAudit(t *testing.T) {
	f := newFixture(t)
	f.invite("payments")
	if body := f.page("/console/clients", http.StatusOK); !strings.Contains(body, "payments") || strings.Contains(body, "fapi2") {
		t.Errorf("lacks the client, or says more of it than is so: %s", body)
	}
	f.operate("PATCH", "/v1/clients/payments", `{"profile":"fapi2","dpop_nonce":"optional"}`).want(t, http.StatusOK, nil)
	if body := f.page("/console/clients", http.StatusOK); !strings.Contains(body, "bound, nonce optional, fapi2") {
		t.Errorf("lacks the client's profile, or what nonces it needs: %s", body)
	}
	if body := f.page("/console/audit", http.StatusOK); !strings.Contains(body, "invitation.create") {
		t.Errorf("lacks the invitation: %s", body)
	}
	f.page("/console/audit?before=x", http.StatusBadRequest)
}

// TestConsole_AuditFromTheEnd: every entry is on one page of those that the links lead through, newest first.
func TestConsole_AuditFromTheEnd(t *testing.T) {
	f := newFixture(t)
	for range 2 * shownRows { // and the operator: the last page has one
		f.certificate("many", "client")
	}
	head := must[audit.Head](t)(f.store.AuditHead(t.Context()))
	next := head.Seq
	number := regexp.MustCompile(`<tr><td>(\d+)</td>`)
	older := regexp.MustCompile(`href="(/console/audit\?[^"]*)">Older`)
	for path, pages := "/console/audit", 0; ; pages++ {
		body := f.page(path, http.StatusOK)
		for _, m := range number.FindAllStringSubmatch(body, -1) {
			if m[1] != strconv.FormatUint(next, 10) {
				t.Fatalf("%s shows entry %s, want %d", path, m[1], next)
			}
			next--
		}
		if strings.Contains(body, ">Newest<") != (pages > 0) {
			t.Errorf("%s: a link to the newest on the first page, or none on another", path)
		}
		link := older.FindStringSubmatch(body)
		if link == nil {
			break
		}
		path = html.UnescapeString(link[1])
	}
	if next != 0 {
		t.Errorf("%d entries are on no page", next)
	}
	if body := f.page("/console/audit?before=1", http.StatusOK); strings.Contains(body, "Older") {
		t.Errorf("before the first: %s", body)
	}
	f.page("/console/audit?before=9007199254740992", http.StatusOK)
}

// TestConsole_Escapes: what a name says is shown and never run.
func TestConsole_Escapes(t *testing.T) {
	f := newFixture(t)
	f.operate("POST", "/v1/clients", `{"client_id":"<script>alert(1)</script>","token_endpoint_auth_method":"client_secret_post","scopes":["\u003cb\u003e"]}`).want(t, http.StatusCreated, nil)
	if body := f.page("/console/clients", http.StatusOK); strings.Contains(body, "<script") || strings.Contains(body, "<b>") {
		t.Errorf("not escaped: %s", body)
	}
}

func TestConsole_WelcomeAndErrors(t *testing.T) {
	f := newFixture(t)
	a := f.do(request{url: f.public.URL + "/"}).want(t, http.StatusOK, nil)
	f.whole("/", a)
	if !strings.Contains(a.body, f.mtls.URL+"/console") || !strings.Contains(a.body, "operator.p12") {
		t.Errorf("does not say where the console is: %s", a.body)
	}
	a = f.do(request{url: f.mtls.URL + "/"})
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/console" {
		t.Errorf("status %d to %q", a.StatusCode, a.Header.Get("Location"))
	}
	a = f.do(request{url: f.public.URL + "/console"}).want(t, http.StatusUnauthorized, nil)
	f.whole("/console", a)
	if !strings.Contains(a.body, f.mtls.URL+"/console") || !strings.Contains(a.body, a.Header.Get("X-Request-Id")) {
		t.Errorf("the error page: %s", a.body)
	}
	f.page("/console/certificates/"+strings.Repeat("ab", 16), http.StatusNotFound)
	for path, kind := range map[string]string{"/assets/style.css": "text/css", "/assets/icon.svg": "image/svg+xml"} {
		if a := f.do(request{url: f.public.URL + path}).want(t, http.StatusOK, nil); !strings.HasPrefix(a.Header.Get("Content-Type"), kind) {
			t.Errorf("%s: Content-Type %q", path, a.Header.Get("Content-Type"))
		} else {
			again := http.Header{"If-None-Match": {a.Header.Get("ETag")}}
			f.do(request{url: f.public.URL + path, header: again}).want(t, http.StatusNotModified, nil)
		}
	}
	a = f.do(request{url: f.public.URL + "/assets/layout.html"})
	if a.StatusCode != http.StatusNotFound {
		t.Errorf("a template is served as an asset: status %d", a.StatusCode)
	}
}

// TestConsole_Strays: a person who looks for a page that there is not gets one, with a way on.
func TestConsole_Strays(t *testing.T) {
	f := newFixture(t)
	if body := f.page("/console/nope", http.StatusNotFound); !strings.Contains(body, `href="/console">Overview`) || !strings.Contains(body, "The console has no page /console/nope") {
		t.Errorf("for an operator: %s", body)
	}
	f.page("/console/certificates/"+strings.Repeat("ab", 16)+"/revoke", http.StatusMethodNotAllowed)
	a := f.do(request{url: f.public.URL + "/console/nope"}).want(t, http.StatusNotFound, nil)
	f.whole("/console/nope", a)
	if strings.Contains(a.body, "<nav") || !strings.Contains(a.body, `href="`+f.public.URL+`/">`) {
		t.Errorf("for anyone: %s", a.body)
	}
	f.do(request{method: "POST", url: f.mtls.URL + "/console/nope", cert: &f.admin}).problem(t, http.StatusNotFound, "no-route")
	f.do(request{url: f.status.URL + "/console/nope"}).problem(t, http.StatusNotFound, "no-route")
}

func TestConsole_Sentence(t *testing.T) {
	for detail, want := range map[string]string{
		"":                                    "",
		"no such client":                      "",
		"no such client: x":                   "X",
		`changing client "x": no such client`: `Changing client "x"`,
		"état: limit is at least 1":           "État: limit is at least 1",
	} {
		if got := sentence(&client.Problem{Title: "No such client", Detail: detail}); got != want {
			t.Errorf("%q: %q, want %q", detail, got, want)
		}
	}
}

func TestConsole_Relative(t *testing.T) {
	now := time.Now()
	for d, want := range map[time.Duration]string{
		72 * time.Hour: "in 3 days", 5*time.Hour + time.Minute: "in 5 h", -10 * time.Minute: "10 min ago", 30 * time.Second: "now",
	} {
		if got := relative(now.Add(d), now); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}
