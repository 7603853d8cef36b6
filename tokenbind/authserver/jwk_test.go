package authserver

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/thumbprint"
)

func TestParseKey(t *testing.T) {
	h := newHouse(t)
	cert, _ := selfSigned(t, h.clock.now())
	other, _ := selfSigned(t, h.clock.now())
	x5c := func(certs ...*x509.Certificate) []string {
		var list []string
		for _, c := range certs {
			list = append(list, base64.StdEncoding.EncodeToString(c.Raw))
		}
		return list
	}
	public, err := jws.PublicJWK(cert.Leaf.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		members map[string]any // beside those of the key, or in place of them
		fails   string
	}{
		"the key alone":                {},
		"as it may be":                 {map[string]any{"kid": "k", "use": "sig", "alg": "ES256", "key_ops": []string{"verify"}}, ""},
		"with its certificate":         {map[string]any{"x5c": x5c(cert.Leaf), "x5t#S256": thumbprint.OfCertificate(cert.Leaf).String()}, ""},
		"with a chain":                 {map[string]any{"x5c": x5c(cert.Leaf, other.Leaf)}, ""},
		"another's certificate":        {map[string]any{"x5c": x5c(other.Leaf)}, "another key"},
		"another's thumbprint":         {map[string]any{"x5c": x5c(cert.Leaf), "x5t#S256": thumbprint.OfCertificate(other.Leaf).String()}, "x5t#S256"},
		"an empty chain":               {map[string]any{"x5c": []string{}}, "array of certificates"},
		"a certificate, not in a list": {map[string]any{"x5c": x5c(cert.Leaf)[0]}, "array of certificates"},
		"a number for a certificate":   {map[string]any{"x5c": []any{7}}, "x5c"},
		"no base64":                    {map[string]any{"x5c": []string{"*"}}, "base64"},
		"no certificate":               {map[string]any{"x5c": []string{"MAA="}}, "x5c"},
		"a private member":             {map[string]any{"d": "AA"}, "not a public key"},
		"a kid that is a number":       {map[string]any{"kid": 7}, "kid must be a string"},
		"no point of the curve":        {map[string]any{"y": public["x"]}, "not on P-256"},
		"a secret":                     {map[string]any{"kty": "oct", "k": "AAAA"}, "not a public key"},
		"another type":                 {map[string]any{"kty": "AKP"}, "kty"},
	} {
		jwk := map[string]any{}
		for member, v := range public {
			jwk[member] = v
		}
		maps.Copy(jwk, tt.members)
		raw, err := json.Marshal(jwk)
		if err != nil {
			t.Fatal(err)
		}
		switch key, err := parseKey(raw); {
		case tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)):
			t.Errorf("%s: %v; want an error with %q", name, err, tt.fails)
		case tt.fails == "" && (err != nil || !cert.Leaf.PublicKey.(*ecdsa.PublicKey).Equal(key.key)):
			t.Errorf("%s: %+v, %v", name, key, err)
		case tt.fails == "" && (key.cert != nil) != (tt.members["x5c"] != nil):
			t.Errorf("%s: certificate %v", name, key.cert)
		}
	}
	for _, text := range []string{``, `null`, `7`, `[]`, `{}`, `{"kty":"EC","kty":"EC"}`} {
		if key, err := parseKey([]byte(text)); err == nil {
			t.Errorf("%s: %+v", text, key)
		}
	}
}

// What two readers could see differently is refused, and what an assertion demands that is not understood here.
func TestAssertion_HeaderAndPayload(t *testing.T) {
	a := newAsserter(t)
	payload := func(jti string) string {
		now := a.clock.now().Unix()
		text, err := json.Marshal(map[string]any{"iss": "a", "sub": "a", "aud": a.config.Issuer, "jti": jti, "exp": now + 60})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	send := func(header, payload string) answer {
		b64 := base64.RawURLEncoding.EncodeToString
		input := b64([]byte(header)) + "." + b64([]byte(payload))
		signature, err := jws.Sign(a.key.(*ecdsa.PrivateKey), "ES256", []byte(input))
		if err != nil {
			t.Fatal(err)
		}
		return a.token([]string{"client_assertion_type", assertionType, "client_assertion", input + "." + b64(signature)})
	}
	mustIssue(t, send(`{"alg":"ES256"}`, payload("1")))
	mustIssue(t, send(`{"alg":"ES256","kid":"0","typ":"JWT","x":[1]}`, payload("2")))
	for name, got := range map[string]answer{
		"crit":                 send(`{"alg":"ES256","crit":["b64"],"b64":true}`, payload("3")),
		"empty crit":           send(`{"alg":"ES256","crit":[]}`, payload("4")),
		"no alg":               send(`{}`, payload("5")),
		"alg that is a list":   send(`{"alg":["ES256"]}`, payload("6")),
		"another alg":          send(`{"alg":"ES384"}`, payload("7")),
		"alg in another case":  send(`{"alg":"es256"}`, payload("8")),
		"kid that is a number": send(`{"alg":"ES256","kid":0}`, payload("9")),
		"alg twice":            send(`{"alg":"none","alg":"ES256"}`, payload("10")),
		"sub twice":            send(`{"alg":"ES256"}`, strings.Replace(payload("11"), "{", `{"sub":"b",`, 1)),
		"nbf that is a text":   send(`{"alg":"ES256"}`, strings.Replace(payload("12"), `"exp":`, `"nbf":"0","exp":`, 1)),
		"exp that is far away": send(`{"alg":"ES256"}`, strings.Replace(payload("13"), `"exp":`, `"exp":1e300,"_":`, 1)),
		"audience of a number": send(`{"alg":"ES256"}`, strings.Replace(payload("14"), `"aud":`, `"aud":[1],"_":`, 1)),
		"no object":            send(`{"alg":"ES256"}`, `[]`),
	} {
		if got.status != 401 || got.text("error") != "invalid_client" {
			t.Errorf("%s: %d %v", name, got.status, got.body)
		}
	}
}
