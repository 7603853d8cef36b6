package tokenbind

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// The likely cause of a refusal is told, to the client and in the log.
func TestCausesAreTold(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	renewed := newCertificate(t, "app", testStart.Add(time.Minute), testStart.Add(24*time.Hour))
	younger := newCertificate(t, "another", testStart.Add(time.Minute), testStart.Add(24*time.Hour))
	older := newCertificate(t, "another", testStart.Add(-2*time.Hour), testStart.Add(24*time.Hour))
	edited := func(name string, to any) string {
		return k.token(t, object{"x5t#S256": k.x5t.String()}, func(_, c object) { c[name] = to })
	}
	token := k.certToken(t)
	for _, c := range []struct{ name, hint, want string }{
		{"renewed", hintOf(t, v, "Bearer "+token, k, renewed.Leaf), "renewed after the token was issued"},
		{"another client's", hintOf(t, v, "Bearer "+token, k, younger.Leaf), "renewed since, or the token is another client's"},
		{"older", hintOf(t, v, "Bearer "+token, k, older.Leaf), "older than the renewal, or the token is another client's"},
		{"no certificate", hintOf(t, v, "Bearer "+token, k), "connect with it"},
		{"another issuer", hintOf(t, v, "Bearer "+edited("iss", "https://as.example/"), k, k.cert.Leaf), "another issuer"},
		{"another audience", hintOf(t, v, "Bearer "+edited("aud", "https://rs.example.org"), k, k.cert.Leaf), "for another server"},
		{"fast issuer", hintOf(t, v, "Bearer "+edited("iat", testStart.Add(42*time.Second).Unix()), k, k.cert.Leaf), "by about 42s"},
	} {
		if !strings.Contains(c.hint, c.want) {
			t.Errorf("%s: %q lacks %q", c.name, c.hint, c.want)
		}
	}
}

func TestF14_CauseOfAnotherURL(t *testing.T) {
	wanted := []string{"https://api.example:443/v2/orders"}
	for htu, want := range map[string]string{
		"http://api.example/v2/orders":      "made the proof for http",
		"https://internal:8443/v2/orders":   "another name, or a proxy changed the host",
		"https://api.example/orders":        "a proxy changed the path",
		"https://api.example/old/v2/orders": "a proxy changed the path",
		"https://api.example/customers":     "the server must know its public URL",
		"https://api.example/":              "the server must know its public URL",
	} {
		seen, err := NormalURL(htu)
		if err != nil {
			t.Fatal(err)
		}
		if got := causeOfURL(seen, wanted); !strings.Contains(got, want) {
			t.Errorf("%s: %q lacks %q", htu, got, want)
		}
	}
	if got := causeOfURL("https://api.example/orders", []string{"http://api.example/orders"}); !strings.Contains(got, "TLS ends at a proxy") {
		t.Errorf("got %q", got)
	}
}

// What a client is shown names the line of the log that has the whole explanation.
func TestRefusalIsFoundInTheLog(t *testing.T) {
	k := newResourceKit(t)
	var log bytes.Buffer
	v := k.verifier(t, func(c *Config) { c.Logger = slog.New(slog.NewJSONHandler(&log, nil)) })
	r := k.request("Bearer "+k.certToken(t), newCertificate(t, "thief", testStart, testStart.Add(time.Hour)).Leaf)
	ids := map[string]bool{}
	for range 2 {
		log.Reset()
		w := httptest.NewRecorder()
		v.Handler(nil).ServeHTTP(w, r)
		var body struct {
			ID string `json:"refusal_id"`
		}
		var line map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(log.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line["refusal_id"] != body.ID || body.ID == "" || ids[body.ID] {
			t.Errorf("answer %q, log %v", body.ID, line["refusal_id"])
		}
		ids[body.ID] = true
		if !strings.Contains(challenges(w.Result())["Bearer"], `, refusal_id="`+body.ID+`"`) {
			t.Errorf("challenges: %v", challenges(w.Result()))
		}
		for _, key := range []string{"check", "section", "seen", "wanted", "hint"} {
			if s, _ := line[key].(string); s == "" {
				t.Errorf("the log's line lacks %q: %v", key, line)
			}
		}
		if strings.Contains(log.String(), k.certToken(t)) {
			t.Error("the token is in the log")
		}
	}
}
