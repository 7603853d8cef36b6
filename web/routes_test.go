package web

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gorilla/mux"
)

// TestRoutes_TableIsServed walks each listener's router: it holds the table's lines and nothing else.
func TestRoutes_TableIsServed(t *testing.T) {
	f := newFixture(t)
	for _, l := range []Listener{Public, MTLS, Status, Ops} {
		want := map[string][]string{}
		for _, r := range f.table {
			if r.Listeners&l != 0 {
				want[r.Name+" "+r.Path] = r.methods()
			}
		}
		err := f.router(l).mux.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
			path, err := route.GetPathTemplate()
			if err != nil {
				return err
			}
			methods, err := route.GetMethods()
			if err != nil {
				return err
			}
			key := route.GetName() + " " + path
			if !slices.Equal(want[key], methods) {
				t.Errorf("%s listener: %s takes %v, the table says %v", l, key, methods, want[key])
			}
			delete(want, key)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for key := range want {
			t.Errorf("%s listener lacks %s", l, key)
		}
	}
}

// TestRoutes_Names: names are unique, since logs, metrics and the OpenAPI document go by them, and each line
// says who may use it.
func TestRoutes_Names(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range newFixture(t).table {
		if seen[r.Name] {
			t.Errorf("two routes are named %s", r.Name)
		}
		seen[r.Name] = true
		if !slices.Contains([]Access{Anyone, EnrolmentToken, OAuthClient, Certificate, Operator, TrustedProxy}, r.Access) {
			t.Errorf("%s: access %q", r.Name, r.Access)
		}
		if r.Listeners&both != 0 && strings.HasPrefix(r.Path, "/v1/") && !slices.Contains([]string{"ca", "openapi", "certificates.issue", "certificates.renew", "revocations.stream"}, r.Name) && r.Access != Operator && r.Access != TrustedProxy {
			t.Errorf("%s is open to %q; only operators may", r.Name, r.Access)
		}
	}
}

// TestRoutes_NamesAreReal: what goes by a route's name elsewhere names one.
func TestRoutes_NamesAreReal(t *testing.T) {
	names := slices.Concat(streaming, revoking)
	for _, c := range counters {
		names = append(names, c.routes...)
	}
	table := newFixture(t).table
	for _, name := range names {
		if !slices.ContainsFunc(table, func(r Route) bool { return r.Name == name }) {
			t.Errorf("no route is named %s", name)
		}
	}
}

// TestRoutes_UncleanPathsAreRefused: a redirect would lose the body of a POST, and a path that a proxy reads
// differently could pass its rules.
func TestRoutes_UncleanPathsAreRefused(t *testing.T) {
	h := newFixture(t).Public()
	for _, path := range []string{"//v1/ca", "/v1//ca", "/v1/./ca", "/v1/x/../ca", "/v1/%2e%2e/ca", "/v1/%2E/ca", "/v1/ca//", `/v1\ca`, "/v1/x%5cy"} {
		for _, method := range []string{"GET", "POST"} {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), method, "/", strings.NewReader("{}"))
			r.URL = must[*url.URL](t)(url.ParseRequestURI(path))
			h.ServeHTTP(w, r)
			if w.Code != http.StatusBadRequest || w.Header().Get("Location") != "" {
				t.Errorf("%s %s: status %d, Location %q; want 400", method, path, w.Code, w.Header().Get("Location"))
			}
		}
	}
}

func TestRoutes_NotFoundAndMethods(t *testing.T) {
	f := newFixture(t)
	f.do(request{url: f.public.URL + "/v1/nothing"}).problem(t, http.StatusNotFound, "no-route")
	f.do(request{url: f.public.URL + "/v1/ca/"}).problem(t, http.StatusNotFound, "no-route")
	f.do(request{url: f.public.URL + "/metrics"}).problem(t, http.StatusNotFound, "no-route")
	f.do(request{url: f.status.URL + "/v1/ca"}).problem(t, http.StatusNotFound, "no-route")

	for path, allow := range map[string]string{
		"/v1/ca":                   "GET, HEAD",
		"/v1/certificates":         "GET, HEAD, POST",
		"/v1/certificates/renew":   "GET, HEAD, POST",
		"/v1/clients/someone":      "GET, HEAD, PATCH",
		"/oauth/token":             "POST, OPTIONS",
		"/console/certificates/aa": "GET, HEAD",
	} {
		a := f.do(request{method: "DELETE", url: f.public.URL + path})
		a.problem(t, http.StatusMethodNotAllowed, "method-not-allowed")
		if got := a.Header.Get("Allow"); got != allow {
			t.Errorf("%s: Allow %q, want %q", path, got, allow)
		}
	}
}

// TestRoutes_EveryMethodOnEveryPath: each path answers the methods that the table has for it, and 405 with
// these as Allow to every other.
func TestRoutes_EveryMethodOnEveryPath(t *testing.T) {
	f := newFixture(t)
	all := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} // in the order of Allow
	for _, l := range []Listener{Public, MTLS, Status, Ops} {
		handler := f.listener(l)
		for _, route := range f.table {
			if route.Listeners&l == 0 || route.Method == AnyMethod {
				continue
			}
			id := f.c.Authority.Issuer().ID()
			path := strings.NewReplacer("/ab.", "/"+id+".", "/ab-", "/"+id+"-").Replace(example(route.Path))
			var allow []string
			for _, m := range all {
				if slices.ContainsFunc(f.table, func(r Route) bool {
					return r.Listeners&l != 0 && slices.Contains(r.methods(), m) && pattern(r.Path).MatchString(path)
				}) {
					allow = append(allow, m)
				}
			}
			for _, m := range append([]string{"TRACE", "BREW"}, all...) {
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), m, path, nil))
				switch got := w.Header().Get("Allow"); {
				case slices.Contains(allow, m) && (w.Code == http.StatusMethodNotAllowed || w.Code == http.StatusNotFound):
					t.Errorf("%s listener: %s %s: status %d", l, m, path, w.Code)
				case !slices.Contains(allow, m) && (w.Code != http.StatusMethodNotAllowed || got != strings.Join(allow, ", ")):
					t.Errorf("%s listener: %s %s: status %d, Allow %q; want 405, %v", l, m, path, w.Code, got, allow)
				}
			}
		}
	}
}

// TestRoutes_Verify: what a proxy asks comes through as it is, whatever the client's request looks like: no rule of this
// daemon for its own requests holds for it.
func TestRoutes_Verify(t *testing.T) {
	f := newFixture(t)
	foreign := http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}, "Client-Cert": {":AA==:"}}
	for _, l := range []Listener{Public, MTLS} {
		for _, target := range []string{"/v1/verify", "/v1/verify?audience=a", "/v1/verify/orders", "/v1/verify/orders//a/../%2e%2F?q=%zz"} {
			for _, m := range append([]string{"TRACE", "PROPFIND"}, everyMethod...) {
				r := httptest.NewRequestWithContext(t.Context(), m, target, nil)
				r.Header = foreign.Clone()
				w := httptest.NewRecorder()
				f.listener(l).ServeHTTP(w, r)
				if got := w.Header().Get("Asked"); got != m+" "+target {
					t.Errorf("%s listener: %s %s: status %d, the handler saw %q", l, m, target, w.Code, got)
				}
			}
		}
	}
	f.do(request{url: f.public.URL + "/v1/verifying"}).problem(t, http.StatusNotFound, "no-route")
	for _, l := range []Listener{Status, Ops} { // which have no TLS
		w := httptest.NewRecorder()
		f.listener(l).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/v1/verify", nil))
		if w.Code != http.StatusNotFound {
			t.Errorf("%s listener: status %d", l, w.Code)
		}
	}
}

// pattern is a route's path as a regular expression.
func pattern(path string) *regexp.Regexp {
	return regexp.MustCompile("^" + regexp.MustCompile(`\{\w+:([^}]*)\}`).ReplaceAllString(path, "($1)") + "$")
}

func TestRoutes_HeadersOnEveryAnswer(t *testing.T) {
	f := newFixture(t)
	for _, url := range []string{f.public.URL + "/v1/ca", f.public.URL + "/v1/nothing", f.public.URL + "/v1/clients", f.mtls.URL + "/console"} {
		r := request{url: url, header: http.Header{"X-Request-Id": {"forged"}}}
		a := f.do(r)
		if id := a.Header.Get("X-Request-Id"); id == "" || id == "forged" {
			t.Errorf("%s: request id %q", url, id)
		}
		if a.Header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(a.Header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: headers %v", url, a.Header)
		}
		if got := a.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: Cache-Control %q, want no-store", url, got)
		}
	}
}
