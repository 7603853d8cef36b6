package web

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/tokenbind"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// explainWith judges as the daemon does, but for what the CA knows of certificates.
func explainWith(oauth *authserver.Server, issuer string) func(client.Presented, *http.Request) (*client.Explanation, error) {
	return func(p client.Presented, r *http.Request) (*client.Explanation, error) {
		v, err := tokenbind.NewVerifier(tokenbind.Config{
			Issuer: issuer, Audience: p.Audience, BaseURL: "https://" + r.URL.Host, Keys: oauth, Tokens: oauth,
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return nil, err
		}
		return client.Explained(v.Explain(r)), nil
	}
}

func TestExplain(t *testing.T) {
	f := newFixture(t)
	ask := func(in client.Presented) answer {
		t.Helper()
		return f.operate("POST", "/v1/explain", string(must[[]byte](t)(json.Marshal(in))))
	}
	var batch client.ClientRecord
	f.operate("POST", "/v1/clients", `{"client_id":"batch","token_endpoint_auth_method":"client_secret_post","insecure_bearer":true}`).want(t, http.StatusCreated, &batch)
	var got struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(f.post("/oauth/token", "grant_type", "client_credentials", "client_id", "batch", "client_secret", batch.Secret).body), &got); err != nil {
		t.Fatal(err)
	}
	var out client.Explanation
	ask(client.Presented{Token: got.Token}).want(t, http.StatusOK, &out)
	if out.Accepted || len(out.Checks) < 20 || out.Cause != out.Checks[firstFailed(out.Checks)].Hint {
		t.Errorf("a bearer token: %+v", out)
	}
	// The answer names a check that is there, with what was seen and what was wanted.
	if c := out.Checks[firstFailed(out.Checks)]; c.Name != "binding" || c.Seen == "" || c.Wanted == "" || c.Section == "" {
		t.Errorf("fails at %+v", c)
	}
	ask(client.Presented{Token: got.Token, Audience: "https://elsewhere.example"}).want(t, http.StatusOK, &out)
	if c := out.Checks[firstFailed(out.Checks)]; c.Name != "token aud" || !strings.Contains(out.Cause, "another server") {
		t.Errorf("fails at %+v, because %q", c, out.Cause)
	}
	for name, bad := range map[string]client.Presented{
		"no token": {}, "no audience": {Token: "x.y.z"}, "no https": {Token: got.Token, URL: "http://a.example/"},
		"no certificate": {Token: got.Token, Certificate: "x"}, "no method": {Token: got.Token, Method: "a b"},
	} {
		if a := ask(bad); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
		}
	}
	f.do(request{method: "POST", url: f.public.URL + "/v1/explain", body: "{}"}).problem(t, http.StatusUnauthorized, "certificate-needed")
}

func firstFailed(checks []tokenbind.Check) int {
	for i := range checks {
		if checks[i].Result == tokenbind.Fail {
			return i
		}
	}
	return 0
}
