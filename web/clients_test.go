package web

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
)

func TestClients_Life(t *testing.T) {
	f := newFixture(t)
	var added, shown, changed client.ClientRecord
	a := f.operate("POST", "/v1/clients", `{"client_id":"https://rs.example/api","token_endpoint_auth_method":"client_secret_basic","introspect":true,"scopes":["read"]}`).want(t, http.StatusCreated, &added)
	if added.Secret == "" || !added.Introspect || added.CreatedAt.IsZero() {
		t.Errorf("added %+v", added)
	}
	path := a.Header.Get("Location")
	f.operate("GET", path, "").want(t, http.StatusOK, &shown)
	if shown.ID != "https://rs.example/api" || shown.Secret != "" {
		t.Errorf("shown %+v", shown)
	}
	f.operate("PATCH", path, `{"disabled":true,"scopes":["read","write"]}`).want(t, http.StatusOK, &changed)
	if !changed.Disabled || strings.Join(changed.Scopes, " ") != "read write" || !changed.Introspect {
		t.Errorf("changed %+v", changed)
	}
	f.operate("POST", "/v1/clients", `{"client_id":"https://rs.example/api","token_endpoint_auth_method":"client_secret_basic"}`).problem(t, http.StatusConflict, "client-conflict")
	f.operate("GET", "/v1/clients/nobody", "").problem(t, http.StatusNotFound, "no-client")
	f.operate("PATCH", "/v1/clients/nobody", `{"disabled":true}`).problem(t, http.StatusNotFound, "no-client")
	f.operate("PATCH", path, `{"client_secret":"mine"}`).problem(t, http.StatusBadRequest, "bad-request")
	if strings.Contains(f.log.String(), added.Secret) {
		t.Error("the log has the client's secret")
	}
}

// TestA06_ExactlyOneSubject: each kind of subject goes in and comes out under its own name; two are refused.
func TestA06_ExactlyOneSubject(t *testing.T) {
	f := newFixture(t)
	for kind, subject := range map[string]string{
		"tls_client_auth_subject_dn": "CN=a,O=b", "tls_client_auth_san_dns": "a.example", "tls_client_auth_san_uri": "urn:a:b",
		"tls_client_auth_san_ip": "2001:db8::1", "tls_client_auth_san_email": "a@b.example",
	} {
		a := f.operate("POST", "/v1/clients", `{"client_id":"c-`+kind+`","token_endpoint_auth_method":"tls_client_auth","`+kind+`":"`+subject+`"}`).want(t, http.StatusCreated, nil)
		if !strings.Contains(a.body, `"`+kind+`":"`+subject+`"`) || strings.Count(a.body, `"tls_client_auth_`) != 1 {
			t.Errorf("%s: %s", kind, a.body)
		}
	}
	f.operate("POST", "/v1/clients", `{"client_id":"two","token_endpoint_auth_method":"tls_client_auth","tls_client_auth_san_dns":"a.example","tls_client_auth_san_ip":"192.0.2.1"}`).problem(t, http.StatusUnprocessableEntity, "bad-client")
	f.operate("POST", "/v1/clients", `{"client_id":"none","token_endpoint_auth_method":"tls_client_auth"}`).problem(t, http.StatusUnprocessableEntity, "bad-client")
	f.operate("POST", "/v1/clients", `{"client_id":"other","token_endpoint_auth_method":"client_secret_post","tls_client_auth_san_dns":"a.example"}`).problem(t, http.StatusUnprocessableEntity, "bad-client")
	f.operate("POST", "/v1/clients", `{"client_id":"mine","token_endpoint_auth_method":"client_secret_post","client_secret":"mine"}`).problem(t, http.StatusBadRequest, "bad-request")
}

// TestH23_ProfileOverTheAPI: a client is registered under the profile or brought under it, and then no change lets it off
// while it stays there.
func TestH23_ProfileOverTheAPI(t *testing.T) {
	f := newFixture(t)
	const mtls = `"token_endpoint_auth_method":"tls_client_auth","tls_client_auth_san_dns":"a.example"`
	var c client.ClientRecord
	f.operate("POST", "/v1/clients", `{"client_id":"a",`+mtls+`,"profile":"fapi2"}`).want(t, http.StatusCreated, &c)
	if c.Profile != "fapi2" {
		t.Errorf("added %+v", c)
	}
	for _, body := range []string{
		`{"client_id":"b","token_endpoint_auth_method":"client_secret_post","profile":"fapi2"}`,
		`{"client_id":"b",` + mtls + `,"insecure_bearer":true,"profile":"fapi2"}`,
		`{"client_id":"b",` + mtls + `,"profile":"FAPI2"}`,
	} {
		f.operate("POST", "/v1/clients", body).problem(t, http.StatusUnprocessableEntity, "bad-client")
	}
	for _, body := range []string{`{"insecure_bearer":true}`, `{"profile":"fapi2","insecure_bearer":true}`, `{"profile":"fapi1"}`} {
		f.operate("PATCH", "/v1/clients/a", body).problem(t, http.StatusUnprocessableEntity, "bad-client")
	}
	f.operate("PATCH", "/v1/clients/a", `{"scopes":["read"]}`).want(t, http.StatusOK, &c)
	if c.Profile != "fapi2" {
		t.Errorf("a change of something else took the profile away: %+v", c)
	}
	var loose client.ClientRecord // the profile and what it has no room for go in one change
	f.operate("PATCH", "/v1/clients/a", `{"profile":"","insecure_bearer":true}`).want(t, http.StatusOK, &loose)
	f.operate("PATCH", "/v1/clients/a", `{"profile":"fapi2"}`).problem(t, http.StatusUnprocessableEntity, "bad-client")
	f.operate("PATCH", "/v1/clients/a", `{"profile":"fapi2","insecure_bearer":false}`).want(t, http.StatusOK, &c)
	if loose.Profile != "" || !loose.Bearer || c.Profile != "fapi2" || c.Bearer {
		t.Errorf("let go %+v, and back %+v", loose, c)
	}
}

func TestClients_List(t *testing.T) {
	f := newFixture(t)
	for _, id := range []string{"a", "b", "c"} {
		f.operate("POST", "/v1/clients", `{"client_id":"`+id+`","token_endpoint_auth_method":"client_secret_post"}`).want(t, http.StatusCreated, nil)
	}
	var seen []string
	for cursor := ""; ; {
		var page client.ClientRecords
		f.operate("GET", "/v1/clients?limit=2&cursor="+url.QueryEscape(cursor), "").want(t, http.StatusOK, &page)
		for _, c := range page.Clients {
			seen = append(seen, c.ID)
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if strings.Join(seen, "") != "abc" {
		t.Errorf("paged through %v", seen)
	}
	f.operate("GET", "/v1/clients?cursor=zz", "").problem(t, http.StatusBadRequest, "bad-request")
}

// TestClients_TheDaemonsName: what the audit log says "pkid" did, the daemon did.
func TestClients_TheDaemonsName(t *testing.T) {
	f := newFixture(t)
	f.operate("POST", "/v1/clients", `{"client_id":"pkid","token_endpoint_auth_method":"client_secret_post"}`).problem(t, http.StatusUnprocessableEntity, "bad-client")
	f.operate("POST", "/v1/invitations", `{"client_id":"pkid"}`).problem(t, http.StatusBadRequest, "bad-invitation")
}

// TestClients_DisabledCannotRenew: nor enrol, nor be invited.
func TestClients_DisabledCannotRenew(t *testing.T) {
	f := newFixture(t)
	token := f.invite("payments").Token
	payments := f.certificate("payments", "client")
	f.operate("PATCH", "/v1/clients/payments", `{"disabled":true}`).want(t, http.StatusOK, nil)
	csr, _ := newCSR(t)
	f.enrol(token, csr).problem(t, http.StatusForbidden, "client-disabled")
	f.do(request{method: "POST", url: f.mtls.URL + "/v1/certificates/renew", cert: &payments}).problem(t, http.StatusForbidden, "client-disabled")
	f.operate("POST", "/v1/invitations", `{"client_id":"payments"}`).problem(t, http.StatusForbidden, "client-disabled")
}

// TestAudit_Chain: the API gives what is needed to follow the chain.
func TestAudit_Chain(t *testing.T) {
	f := newFixture(t)
	f.invite("someone")
	var head audit.Head
	for after := "0"; ; {
		var page auditAnswer
		f.operate("GET", "/v1/audit?limit=1&after="+after, "").want(t, http.StatusOK, &page)
		if len(page.Entries) == 0 {
			break
		}
		var err error
		if head, err = audit.Verify(head, page.Entries[0]); err != nil {
			t.Fatal(err)
		}
		after = strconv.FormatUint(head.Seq, 10)
	}
	if head.Seq < 3 { // operator.certificate, client, invitation
		t.Errorf("only %d entries", head.Seq)
	}
	for _, query := range []string{"after=-1", "after=x", "limit=0", "before=3"} {
		f.operate("GET", "/v1/audit?"+query, "").problem(t, http.StatusBadRequest, "bad-request")
	}
}

func TestOAuth_IsServed(t *testing.T) {
	f := newFixture(t)
	payments := f.certificate("payments", "client")
	f.operate("POST", "/v1/clients", `{"client_id":"payments","token_endpoint_auth_method":"tls_client_auth","tls_client_auth_subject_dn":"CN=payments"}`).want(t, http.StatusCreated, nil)
	h := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	post := func(path, body string) answer {
		return f.do(request{method: "POST", url: f.mtls.URL + path, body: body, header: h.Clone(), cert: &payments})
	}
	var token struct {
		AccessToken string `json:"access_token"`
	}
	post("/oauth/token", form("grant_type", "client_credentials", "client_id", "payments")).want(t, http.StatusOK, &token)
	var state struct {
		Active bool              `json:"active"`
		Cnf    map[string]string `json:"cnf"`
	}
	post("/oauth/introspect", form("token", token.AccessToken, "client_id", "payments")).want(t, http.StatusOK, &state)
	if !state.Active || state.Cnf["x5t#S256"] != thumbprintOf(payments).String() {
		t.Errorf("introspection says %+v", state)
	}
	post("/oauth/revoke", form("token", token.AccessToken, "client_id", "payments")).want(t, http.StatusOK, nil)
	post("/oauth/token", form("grant_type", "password", "client_id", "payments")).want(t, http.StatusBadRequest, nil)
	for _, base := range []string{f.public.URL, f.mtls.URL} {
		for _, path := range []string{"/oauth/jwks", "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"} {
			a := f.do(request{url: base + path}).want(t, http.StatusOK, nil)
			if !strings.Contains(a.Header.Get("Cache-Control"), "max-age") {
				t.Errorf("%s: Cache-Control %q", path, a.Header.Get("Cache-Control"))
			}
		}
	}
	a := f.do(request{method: "OPTIONS", url: f.public.URL + "/oauth/token", header: http.Header{"Origin": {"https://app.example"}}})
	if a.StatusCode != http.StatusNoContent || a.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("preflight: status %d, headers %v", a.StatusCode, a.Header)
	}
	if strings.Contains(f.log.String(), token.AccessToken) {
		t.Error("the log has the access token")
	}
}
