package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/admission"
	"github.com/pkid/pkid/internal/boltstore"
)

// limited starts a server with other limits than wide.
func limited(t *testing.T, c LimitsConfig) *fixture {
	t.Helper()
	store := must[*boltstore.Store](t)(boltstore.Open(filepath.Join(t.TempDir(), "pkid.db"), boltstore.Options{Create: true}))
	t.Cleanup(func() { store.Close() })
	return newFixtureOver(t, store, c)
}

// fill takes all the room of a kind, until the test ends.
func (f *fixture) fill(kinds ...kind) {
	f.t.Helper()
	for _, k := range kinds {
		for range f.limits.c.AtOnce {
			if err := f.limits.gates[k].Enter(f.t.Context()); err != nil {
				f.t.Fatal(err)
			}
		}
	}
}

// again reads Retry-After, which must name a moment that is worth waiting for.
func (a answer) again(t *testing.T) {
	t.Helper()
	if n, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || n < 1 || n > 60 {
		t.Errorf("Retry-After: %q", a.Header.Get("Retry-After"))
	}
}

// oauthError wants an answer as RFC 6749 section 5.2 has it.
func (a answer) oauthError(t *testing.T, status int, code string) {
	t.Helper()
	var got struct{ Error string }
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.StatusCode != status || got.Error != code {
		t.Errorf("%s: %s; want %d %s", a.Status, a.body, status, code)
	}
	if a.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Error("a script of another origin cannot read the answer")
	}
}

func (f *fixture) enrolWith(token string) answer {
	f.t.Helper()
	csr, _ := newCSR(f.t)
	return f.do(request{
		method: "POST", url: f.public.URL + "/v1/certificates", body: csr,
		header: http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/x-pem-file"}},
	})
}

func (f *fixture) post(path string, pairs ...string) answer {
	f.t.Helper()
	return f.do(request{
		method: "POST", url: f.public.URL + path, body: form(pairs...),
		header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}},
	})
}

// Every route that costs more than its answer has a budget, and the table of kinds names no other.
func TestLimits_EveryRouteHasItsKind(t *testing.T) {
	f := newFixture(t)
	names := map[string]bool{}
	for _, r := range f.table {
		names[r.Name] = true
		if k := kindOf(&r); k == free && (r.Access != Anyone || r.Method != http.MethodGet) {
			t.Errorf("%s %s has no budget", r.Method, r.Path)
		} else if k != free && f.limits.gates[k] == nil {
			t.Errorf("%s %s: kind %q has no gate", r.Method, r.Path, k)
		}
	}
	for name := range kinds {
		if !names[name] {
			t.Errorf("no route is named %s", name)
		}
	}
	if kinds["certificates.revoke"] != free || kindOf(&Route{Name: "certificates.revoke", Access: Operator}) != operators {
		t.Error("a revocation shares its budget")
	}
}

// With all room taken by those who enrol and want tokens, an operator still revokes, and CRLs and health are there.
func TestLimits_OverloadLeavesRevocationAlone(t *testing.T) {
	f := limited(t, LimitsConfig{AtOnce: 2, Wait: 10 * time.Millisecond})
	victim := f.certificate("victim", "client")
	f.fill(certificates, tokens)

	a := f.enrolWith("none is looked at")
	a.problem(t, http.StatusServiceUnavailable, "overloaded")
	a.again(t)
	for _, path := range []string{"/oauth/token", "/oauth/introspect"} {
		a := f.post(path, "grant_type", "client_credentials")
		a.oauthError(t, http.StatusServiceUnavailable, "temporarily_unavailable")
		a.again(t)
	}
	if a := f.operate("POST", "/v1/certificates/"+serialOf(victim)+"/revoke", `{"reason":"keyCompromise"}`); a.StatusCode != http.StatusOK {
		t.Errorf("revoking: %s %s", a.Status, a.body)
	}
	f.post("/oauth/revoke", "token", "x").oauthError(t, http.StatusUnauthorized, "invalid_client")
	for _, url := range []string{f.ops.URL + "/healthz", f.status.URL + "/crl/root.crl", f.public.URL + "/oauth/jwks", f.public.URL + "/v1/ca"} {
		if a := f.do(request{url: url}); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", url, a.Status)
		}
	}
	metrics := f.do(request{url: f.ops.URL + "/metrics"}).body
	for _, line := range []string{
		`pkid_requests_refused_total{route="certificates.issue",reason="waited"} 1`,
		`pkid_requests_refused_total{route="oauth.token",reason="waited"} 1`,
		`pkid_requests_waiting{kind="certificates"} 0`,
	} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}
	if !regexp.MustCompile(`(?m)^go_memory_bytes [1-9]\d*$`).MatchString(metrics) {
		t.Error("the metrics lack go_memory_bytes")
	}
	f.limits.gates[certificates].Leave()
	f.enrolWith("looked at").problem(t, http.StatusUnauthorized, "bad-enrolment-token")
}

// Strangers do not take the room of operators, and operators who search do not keep one from revoking.
func TestLimits_StrangersTakeNoRoomOfOperators(t *testing.T) {
	f := limited(t, LimitsConfig{AtOnce: 2, Wait: 10 * time.Millisecond})
	f.fill(operators, searches)
	f.do(request{url: f.public.URL + "/v1/clients"}).problem(t, http.StatusUnauthorized, "certificate-needed")
	a := f.operate("GET", "/v1/certificates", "")
	a.problem(t, http.StatusServiceUnavailable, "overloaded")
	a.again(t)
	f.limits.gates[operators].Leave()
	if a := f.operate("GET", "/v1/certificates/"+serialOf(f.admin), ""); a.StatusCode != http.StatusOK {
		t.Errorf("showing a certificate: %s", a.Status)
	}
}

// Wrong credentials, wherever they are tried, use up what an address has; operators are not asked.
func TestLimits_Failures(t *testing.T) {
	f := limited(t, LimitsConfig{AtOnce: 8, Wait: time.Second, FailuresPerAddress: 4})
	proof := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Dpop": {"x.y.z"}}
	secret := f.addClient(t, "app")

	f.enrolWith("pkid1_nonsense").problem(t, http.StatusUnauthorized, "bad-enrolment-token")
	f.post("/oauth/token", "grant_type", "client_credentials", "client_id", "app", "client_secret", "wrong").oauthError(t, http.StatusUnauthorized, "invalid_client")
	f.post("/oauth/revoke", "token", "x").oauthError(t, http.StatusUnauthorized, "invalid_client")
	body := form("grant_type", "client_credentials", "client_id", "app", "client_secret", secret)
	f.do(request{method: "POST", url: f.public.URL + "/oauth/token", body: body, header: proof}).oauthError(t, http.StatusBadRequest, "invalid_dpop_proof")

	a := f.enrolWith("pkid1_nonsense")
	a.problem(t, http.StatusTooManyRequests, "too-many-requests")
	a.again(t)
	a = f.post("/oauth/token", "grant_type", "client_credentials", "client_id", "app", "client_secret", secret)
	a.oauthError(t, http.StatusTooManyRequests, "temporarily_unavailable")
	a.again(t)
	if a := f.operate("GET", "/v1/clients/app", ""); a.StatusCode != http.StatusOK {
		t.Errorf("an operator from the same address: %s", a.Status)
	}
}

// Requests that are refused for another reason than their credentials are no attempts.
func TestLimits_MistakesAreNoFailures(t *testing.T) {
	f := limited(t, LimitsConfig{AtOnce: 8, Wait: time.Second, FailuresPerAddress: 1})
	secret := f.addClient(t, "app")
	for range 3 {
		f.post("/oauth/token", "grant_type", "password").oauthError(t, http.StatusBadRequest, "unsupported_grant_type")
		f.post("/oauth/token", "grant_type", "client_credentials", "client_id", "app", "client_secret", secret, "scope", "none").oauthError(t, http.StatusBadRequest, "invalid_scope")
	}
}

func TestLimits_TokensOfOneClient(t *testing.T) {
	f := limited(t, LimitsConfig{AtOnce: 8, Wait: time.Second, TokensPerClient: 2})
	one, two := f.certificate("one", "client"), f.certificate("two", "client")
	for _, id := range []string{"one", "two"} {
		f.operate("POST", "/v1/invitations", `{"client_id":"`+id+`"}`)
	}
	ask := func(id string) answer {
		cert := one
		if id == "two" {
			cert = two
		}
		return f.do(request{
			method: "POST", url: f.mtls.URL + "/oauth/token", body: form("grant_type", "client_credentials", "client_id", id), cert: &cert,
			header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}},
		})
	}
	for range 2 {
		if a := ask("one"); a.StatusCode != http.StatusOK {
			t.Fatalf("%s %s", a.Status, a.body)
		}
	}
	a := ask("one")
	a.oauthError(t, http.StatusTooManyRequests, "temporarily_unavailable")
	a.again(t)
	if a := ask("two"); a.StatusCode != http.StatusOK {
		t.Errorf("another client: %s %s", a.Status, a.body)
	}
}

func TestLimits_CertificatesOfOneClient(t *testing.T) {
	f := limited(t, LimitsConfig{AtOnce: 8, Wait: time.Second, CertificatesPerClient: 1})
	one, two := f.certificate("one", "client"), f.certificate("two", "client")
	renew := func(cert int) answer {
		pair := one
		if cert == 2 {
			pair = two
		}
		return f.do(request{method: "POST", url: f.mtls.URL + "/v1/certificates/renew", cert: &pair})
	}
	if a := renew(1); a.StatusCode != http.StatusCreated {
		t.Fatalf("%s %s", a.Status, a.body)
	}
	a := renew(1)
	a.problem(t, http.StatusTooManyRequests, "too-many-requests")
	a.again(t)
	if a := renew(2); a.StatusCode != http.StatusCreated {
		t.Errorf("another client: %s %s", a.Status, a.body)
	}
}

func TestLimits_OneAddress(t *testing.T) {
	f := limited(t, LimitsConfig{AtOnce: 8, Wait: time.Second, CertificatesPerAddress: 1, TokensPerAddress: 1})
	f.enrolWith("x").problem(t, http.StatusUnauthorized, "bad-enrolment-token")
	f.enrolWith("x").problem(t, http.StatusTooManyRequests, "too-many-requests")
	f.post("/oauth/token").oauthError(t, http.StatusBadRequest, "invalid_request")
	f.post("/oauth/token").oauthError(t, http.StatusTooManyRequests, "temporarily_unavailable")
	f.post("/oauth/introspect", "token", "x").oauthError(t, http.StatusUnauthorized, "invalid_client")
}

// A flood leaves a line in the log now and then.
func TestLimits_LogIsNotFlooded(t *testing.T) {
	f := limited(t, LimitsConfig{AtOnce: 1, Wait: time.Millisecond})
	f.fill(tokens)
	for range 20 {
		f.post("/oauth/token").oauthError(t, http.StatusServiceUnavailable, "temporarily_unavailable")
	}
	if n := strings.Count(f.log.String(), `"route":"oauth.token"`); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
	now := time.Now()
	r := refusals{counts: map[refused]*refusalCount{}}
	what := refused{"route", "reason"}
	for i, want := range []uint64{1, 0, 0, 3} {
		if i == 3 {
			now = now.Add(refusalsEvery)
		}
		if got := r.count(what, now); got != want {
			t.Errorf("refusal %d: the log tells of %d, want %d", i, got, want)
		}
	}
}

// Beyond all bounds a request is cut: an answer would have to be kept until it is read.
func TestLimits_UnderWay(t *testing.T) {
	f := limited(t, LimitsConfig{UnderWay: 2})
	inside, leave := make(chan struct{}), make(chan struct{})
	slow := f.with("/slow", func(w http.ResponseWriter, _ *http.Request) error {
		inside <- struct{}{}
		<-leave
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	done := make(chan error, 2)
	for range 2 {
		go func() {
			resp, err := f.public.Client().Get(slow)
			if err == nil {
				resp.Body.Close()
			}
			done <- err
		}()
		<-inside
	}
	if resp, err := f.public.Client().Get(f.public.URL + "/v1/ca"); err == nil {
		resp.Body.Close()
		t.Errorf("the third was answered: %s", resp.Status)
	}
	close(leave)
	if err := errors.Join(<-done, <-done); err != nil {
		t.Error(err)
	}
	if a := f.do(request{url: f.public.URL + "/v1/ca"}); a.StatusCode != http.StatusOK {
		t.Errorf("with room again: %s", a.Status)
	}
	if n := f.underWay[Public].cut.Load(); n == 0 {
		t.Error("nothing was counted")
	}
}

// One address has a share of them, and has it back in the end.
func TestUnderWay_OneAddress(t *testing.T) {
	var u underWay
	c := LimitsConfig{UnderWay: 4, UnderWayPerAddress: 2}
	one, other := admission.AddressOf("192.0.2.1"), admission.AddressOf("192.0.2.2")
	for _, step := range []struct {
		from admission.Address
		want bool
	}{{one, true}, {one, true}, {one, false}, {other, true}, {other, true}, {admission.AddressOf("192.0.2.3"), false}} {
		if got := u.enter(step.from, c); got != step.want {
			t.Errorf("one of %v with %d under way: let in %t", step.from, u.all, got)
		}
	}
	u.end(one)
	if !u.enter(one, c) {
		t.Error("with room again it is not let in")
	}
	for _, from := range []admission.Address{one, one, other, other} {
		u.end(from)
	}
	if u.all != 0 || len(u.from) != 0 {
		t.Errorf("%d are left, of %d addresses", u.all, len(u.from))
	}
}

// Strangers who begin a body and do not go on take nobody's place: more of them than there are places wait, and who
// sends all of it is served.
func TestLimits_SlowBodiesTakeNoRoom(t *testing.T) {
	f := limited(t, LimitsConfig{AtOnce: 1, Wait: 10 * time.Millisecond})
	secret := f.addClient(t, "svc")
	for _, path := range []string{"/oauth/token", "/oauth/introspect", "/oauth/revoke", "/v1/certificates"} {
		body, more := io.Pipe()
		defer more.Close()
		req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), "POST", f.public.URL+path, body))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Authorization", "Bearer of nothing")
		go f.public.Client().Do(req) // it is never answered
		if _, err := more.Write([]byte("client_id=svc")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() error {
		u := f.underWay[Public]
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.all < 4 {
			return fmt.Errorf("%d are under way", u.all)
		}
		return nil
	})
	for range 3 {
		if a := f.post("/oauth/token", "grant_type", "client_credentials", "client_id", "svc", "client_secret", secret); a.StatusCode == http.StatusServiceUnavailable {
			t.Errorf("a client beside them: %s %s", a.Status, a.body)
		}
		if a := f.enrolWith("x"); a.StatusCode != http.StatusUnauthorized { // which is found out inside
			t.Errorf("somebody who enrols beside them: %s %s", a.Status, a.body)
		}
	}
}

// A handler that panics gives its place back.
func TestLimits_PanicGivesPlaceBack(t *testing.T) {
	f := limited(t, LimitsConfig{AtOnce: 1, Wait: 10 * time.Millisecond})
	url := f.with("/broken", func(http.ResponseWriter, *http.Request) error { panic("as if by mistake") })
	f.table[len(f.table)-1].Name = "oauth.token"
	for range 3 {
		if a := f.do(request{url: url}); a.StatusCode != http.StatusInternalServerError {
			t.Fatalf("answered %s", a.Status)
		}
	}
}

func (f *fixture) addClient(t *testing.T, id string) (secret string) {
	t.Helper()
	a := f.operate("POST", "/v1/clients", fmt.Sprintf(`{"client_id":%q,"token_endpoint_auth_method":"client_secret_post","scopes":["read"]}`, id))
	var c client.ClientRecord
	if err := json.Unmarshal([]byte(a.body), &c); err != nil || c.Secret == "" {
		t.Fatalf("adding a client: %s %s", a.Status, a.body)
	}
	return c.Secret
}

var _ retryable = (*admission.FullError)(nil)
