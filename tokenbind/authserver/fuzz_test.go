package authserver

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/pkid/pkid/internal/jws"
)

// FuzzKeySet: whatever a client publishes, a key that is taken is one for its algorithm, within the bounds of keys.
func FuzzKeySet(f *testing.F) {
	for _, seed := range []string{
		`{"keys":[]}`, `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"a"}]}`,
		`{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","use":"sig","alg":"ES256"}]}`,
		`{"keys":[{"kty":"RSA","n":"` + strings.Repeat("A", 342) + `","e":"AQAB"},{"kty":"oct","k":"AAAA"},{"kty":"EC","x5c":["AAAA"]}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, set []byte) {
		lenient, err := parseKeySet(set, func(error) {})
		if err != nil {
			lenient = nil
		}
		strict, err := parseKeySet(set, nil)
		if err == nil && len(strict) != len(lenient) {
			t.Errorf("%d keys, and %d where none may be skipped", len(lenient), len(strict))
		}
		if len(lenient) > maxKeys {
			t.Errorf("%d keys", len(lenient))
		}
		for _, k := range lenient {
			alg, err := jws.AlgorithmOf(k.key)
			if err == nil {
				err = jws.KeyFits(alg, k.key)
			}
			if err != nil {
				t.Errorf("a key that fits nothing was taken: %v", err)
			}
		}
	})
}

// FuzzCredentials: whatever a form and an Authorization header say, what is read from them is one method for one client.
func FuzzCredentials(f *testing.F) {
	for _, seed := range [][2]string{
		{"", "grant_type=client_credentials&client_id=a&client_secret=b"},
		{"Basic YTpi", "grant_type=client_credentials"},
		{"Basic YSUyMDpiJTI2", "client_id=a+&resource=https://a.example&resource=https://b.example"},
		{"", "client_assertion_type=" + url.QueryEscape(assertionType) + "&client_assertion=eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.AAAA"},
		{"Bearer x", "client_id=%ff%00&a=b;c=d&&=&%zz"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, header, body string) {
		r := httptest.NewRequest(http.MethodPost, TokenPath, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		w := httptest.NewRecorder()
		form, err := readForm(w, r)
		if err != nil {
			return
		}
		for name, values := range form {
			if len(values) != 1 && name != "resource" || len(values) == 1 && values[0] == "" {
				t.Errorf("parameter %q was taken as %q", name, values)
			}
		}
		cred, err := readCredentials(&call{http: r, form: form})
		if err != nil {
			if refusal, ok := err.(*refusal); !ok || refusal.status < 400 || refusal.status > 499 { //nolint:errorlint // what is wrapped is not answered
				t.Errorf("an error that is no refusal: %v", err)
			}
			return
		}
		if cred.id == "" || used(cred.secret != "" || cred.method != "", cred.assertion != nil) != 1 {
			t.Errorf("credentials of %q with method %q and an assertion: %t", cred.id, cred.method, cred.assertion != nil)
		}
		if id := form.Get("client_id"); id != "" && id != cred.id {
			t.Errorf("client_id %q, credentials of %q", id, cred.id)
		}
	})
}
