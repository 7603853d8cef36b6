package integration

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/internal/pkitest"
)

// forge makes what strangers may send.
type forge struct {
	t        *testing.T
	s        *pkitest.Server
	op       *client.API
	ec       *ecdsa.PrivateKey // registered for the client "assertor"
	stranger *ecdsa.PrivateKey // registered for nobody
	rsa      *rsa.PrivateKey
	secret   string // of the client "app"
	n        int
}

// materials are the functions that the corpus may use.
func materials(t *testing.T, s *pkitest.Server) template.FuncMap {
	t.Helper()
	f := &forge{t: t, s: s, op: s.Operator(t), ec: ecKey(t, elliptic.P256()), stranger: ecKey(t, elliptic.P256())}
	var err error
	if f.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	add := func(c client.ClientRecord) *client.ClientRecord {
		added, err := f.op.AddClient(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return added
	}
	f.secret = add(client.ClientRecord{ID: "app", Auth: "client_secret_post", Scopes: []string{"read"}}).Secret
	jwk := f.jwk(f.ec, nil)
	jwk["kid"] = "registered"
	set, err := json.Marshal(map[string]any{"keys": []any{jwk}})
	if err != nil {
		t.Fatal(err)
	}
	add(client.ClientRecord{ID: "assertor", Auth: "private_key_jwt", JWKS: set})
	return template.FuncMap{
		"repeat": func(s string, n int) string { return strings.Repeat(s, n) },
		"hex":    func(s string) (string, error) { b, err := hex.DecodeString(s); return string(b), err },
		"json":   func(s string) (string, error) { b, err := json.Marshal(s); return string(b), err },
		"form":   url.QueryEscape,
		"token":  f.token, "secret": func() string { return f.secret },
		"csr": f.csr, "assertion": f.assertion, "proof": f.proof, "keyset": f.keyset,
	}
}

func ecKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// token invites somebody, and returns the enrolment token.
func (f *forge) token() (string, error) {
	f.n++
	inv, err := f.op.Invite(f.t.Context(), client.InvitationRequest{ClientID: fmt.Sprintf("hostile-%d", f.n)})
	if err != nil {
		return "", err
	}
	return inv.Token, nil
}

// jwk describes a key, with members of choice in place of its own.
func (f *forge) jwk(key crypto.Signer, change map[string]any) map[string]any {
	f.t.Helper()
	public, err := jws.PublicJWK(key.Public())
	if err != nil {
		f.t.Fatal(err)
	}
	out := map[string]any{}
	for name, v := range public {
		out[name] = v
	}
	maps.Copy(out, change)
	return out
}

func (f *forge) privateJWK(key *ecdsa.PrivateKey) map[string]any {
	d, err := key.Bytes()
	if err != nil {
		f.t.Fatal(err)
	}
	return f.jwk(key, map[string]any{"d": base64.RawURLEncoding.EncodeToString(d)})
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// compact signs a header and claims, which are written as they are if they are texts.
func (f *forge) compact(header, claims any, sign func(input []byte) []byte) string {
	text := func(v any) []byte {
		if s, ok := v.(string); ok {
			return []byte(s)
		}
		b, err := json.Marshal(v)
		if err != nil {
			f.t.Fatal(err)
		}
		return b
	}
	input := b64(text(header)) + "." + b64(text(claims))
	return input + "." + b64(sign([]byte(input)))
}

func (f *forge) es256(key crypto.Signer) func([]byte) []byte {
	return func(input []byte) []byte {
		signature, err := jws.Sign(key, "ES256", input)
		if err != nil {
			f.t.Fatal(err)
		}
		return signature
	}
}

func hs256(secret []byte) func([]byte) []byte {
	return func(input []byte) []byte {
		mac := hmac.New(sha256.New, secret)
		mac.Write(input)
		return mac.Sum(nil)
	}
}

// assertion makes a client_assertion of "assertor" (RFC 7523).
func (f *forge) assertion(kind string) (string, error) {
	f.n++
	header := map[string]any{"alg": "ES256", "kid": "registered"}
	claims := map[string]any{
		"iss": "assertor", "sub": "assertor", "aud": f.s.URLs.Public, "jti": fmt.Sprint("jti-", f.n),
		"exp": time.Now().Add(time.Minute).Unix(),
	}
	text := func(change func(string) string) string {
		b, err := json.Marshal(claims)
		if err != nil {
			f.t.Fatal(err)
		}
		return change(string(b))
	}
	replace := func(name, with string) string {
		return text(func(s string) string { return strings.Replace(s, `"`+name+`"`, with, 1) })
	}
	sign := f.es256(f.ec)
	spki, err := x509.MarshalPKIXPublicKey(f.ec.Public())
	if err != nil {
		return "", err
	}
	switch kind {
	case "good":
	case "none":
		header["alg"] = "none"
		return strings.TrimRight(f.compact(header, claims, func([]byte) []byte { return nil }), ""), nil
	case "hs256-pem":
		header["alg"], sign = "HS256", hs256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	case "hs256-der":
		header["alg"], sign = "HS256", hs256(spki)
	case "hs256-empty":
		header["alg"], sign = "HS256", hs256(nil)
	case "rs256":
		header["alg"] = "RS256"
	case "crit":
		header["crit"], header["exp"] = []string{"exp"}, 1
	case "crit-empty":
		header["crit"] = []string{}
	case "b64":
		header["b64"], header["crit"] = false, []string{"b64"}
	case "unknown-kid":
		header["kid"] = "nobody's"
	case "kid-number":
		header["kid"] = 1
	case "kid-path":
		header["kid"], sign = "../../../../dev/null", hs256(nil)
	case "jwk":
		header["jwk"], sign = f.jwk(f.stranger, nil), f.es256(f.stranger)
	case "jwk-private":
		header["jwk"], sign = f.privateJWK(f.stranger), f.es256(f.stranger)
	case "jku":
		header["jku"], sign = "https://127.0.0.1:1/keys", f.es256(f.stranger)
	case "x5u":
		header["x5u"], sign = "https://127.0.0.1:1/cert", f.es256(f.stranger)
	case "zero-signature":
		sign = func([]byte) []byte { return make([]byte, 64) }
	case "der-signature":
		sign = func(input []byte) []byte {
			digest := sha256.Sum256(input)
			der, err := ecdsa.SignASN1(rand.Reader, f.ec, digest[:])
			if err != nil {
				f.t.Fatal(err)
			}
			return der
		}
	case "exp-1e400":
		return f.compact(header, replace("exp", `"exp":1e400,"x"`), sign), nil
	case "exp-1e300":
		return f.compact(header, replace("exp", `"exp":1e300,"x"`), sign), nil
	case "exp-negative":
		claims["exp"] = -1
	case "exp-text":
		claims["exp"] = "9999999999"
	case "exp-far":
		claims["exp"] = time.Now().Add(24 * time.Hour).Unix()
	case "twice":
		return f.compact(header, replace("sub", `"sub":"app","sub"`), sign), nil
	case "twice-escaped":
		return f.compact(header, replace("sub", `"s\u0075b":"app","sub"`), sign), nil
	case "deep":
		return f.compact(header, replace("sub", `"x":`+strings.Repeat("[", 1000)+strings.Repeat("]", 1000)+`,"sub"`), sign), nil
	case "not-utf8":
		return f.compact(header, replace("sub", "\"x\":\"\xff\",\"sub\""), sign), nil
	case "half-surrogate":
		return f.compact(header, replace("sub", `"x":"\ud800","sub"`), sign), nil
	case "after-object":
		return f.compact(header, text(func(s string) string { return s + "{}" }), sign), nil
	case "array":
		return f.compact(header, `["ES256"]`, sign), nil
	case "two-audiences":
		claims["aud"] = []string{f.s.URLs.Public, "https://elsewhere.example"}
	case "other-audience":
		claims["aud"] = "https://elsewhere.example"
	case "no-jti":
		delete(claims, "jti")
	case "long-jti":
		claims["jti"] = strings.Repeat("j", 300)
	case "long":
		claims["x"] = strings.Repeat("x", 9000)
	case "four-parts":
		return f.compact(header, claims, sign) + ".x", nil
	case "padded":
		return f.compact(header, claims, sign) + "=", nil
	default:
		return "", fmt.Errorf("no assertion of kind %q", kind)
	}
	return f.compact(header, claims, sign), nil
}

// proof makes a DPoP proof (RFC 9449 section 4.2) for the token endpoint.
func (f *forge) proof(kind string) (string, error) {
	f.n++
	key := f.stranger
	header := map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": f.jwk(key, nil)}
	claims := map[string]any{
		"htm": "POST", "htu": f.s.URLs.Public + "/oauth/token", "iat": time.Now().Unix(), "jti": fmt.Sprint("proof-", f.n),
	}
	sign := f.es256(key)
	rsaJWK := func(n, e *big.Int) map[string]any {
		return map[string]any{"kty": "RSA", "n": b64(n.Bytes()), "e": b64(e.Bytes())}
	}
	noise := func([]byte) []byte { return bytes.Repeat([]byte{7}, 256) }
	switch kind {
	case "good":
	case "none":
		header["alg"], sign = "none", func([]byte) []byte { return nil }
	case "hs256":
		header["alg"], header["jwk"], sign = "HS256", map[string]any{"kty": "oct", "k": b64([]byte("secret"))}, hs256([]byte("secret"))
	case "private-jwk":
		header["jwk"] = f.privateJWK(key)
	case "no-jwk":
		delete(header, "jwk")
	case "jku":
		delete(header, "jwk")
		header["jku"] = "https://127.0.0.1:1/keys"
	case "rsa-16384":
		header["alg"], header["jwk"], sign = "PS256", rsaJWK(odd(16384), big.NewInt(65537)), noise
	case "rsa-1024":
		header["alg"], header["jwk"], sign = "PS256", rsaJWK(odd(1024), big.NewInt(65537)), noise
	case "e-1":
		header["alg"], header["jwk"], sign = "PS256", rsaJWK(f.rsa.N, big.NewInt(1)), noise
	case "e-even":
		header["alg"], header["jwk"], sign = "PS256", rsaJWK(f.rsa.N, big.NewInt(65538)), noise
	case "e-2^40":
		header["alg"], header["jwk"], sign = "PS256", rsaJWK(f.rsa.N, new(big.Int).SetBit(big.NewInt(1), 40, 1)), noise
	case "p-224":
		header["jwk"] = f.jwk(key, map[string]any{"crv": "P-224"})
	case "secp256k1":
		header["jwk"] = f.jwk(key, map[string]any{"crv": "secp256k1"})
	case "off-curve":
		header["jwk"] = f.jwk(key, map[string]any{"y": b64(bytes.Repeat([]byte{5}, 32))})
	case "infinity":
		header["jwk"] = f.jwk(key, map[string]any{"x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))})
	case "crit":
		header["crit"] = []string{"x"}
	case "other-typ":
		header["typ"] = "JWT"
	case "other-method":
		claims["htm"] = "GET"
	case "other-url":
		claims["htu"] = "https://elsewhere.example/oauth/token"
	case "old":
		claims["iat"] = time.Now().Add(-time.Hour).Unix()
	case "future":
		claims["iat"] = time.Now().Add(time.Hour).Unix()
	case "iat-1e400":
		return f.compact(header, fmt.Sprintf(`{"htm":"POST","htu":%q,"iat":1e400,"jti":"big"}`, claims["htu"]), sign), nil
	case "twice":
		return f.compact(header, fmt.Sprintf(`{"htm":"POST","htm":"POST","htu":%q,"iat":%d,"jti":"two"}`, claims["htu"], claims["iat"]), sign), nil
	case "long":
		claims["x"] = strings.Repeat("x", 10_000)
	case "long-jti":
		claims["jti"] = strings.Repeat("j", 5000)
	default:
		return "", fmt.Errorf("no proof of kind %q", kind)
	}
	return f.compact(header, claims, sign), nil
}

// keyset makes a JWK set for a client's record.
func (f *forge) keyset(kind string) (string, error) {
	rsaJWK := func(n, e *big.Int) map[string]any {
		return map[string]any{"kty": "RSA", "n": b64(n.Bytes()), "e": b64(e.Bytes())}
	}
	var keys []any
	switch kind {
	case "private":
		keys = []any{f.privateJWK(f.stranger)}
	case "rsa-16384":
		keys = []any{rsaJWK(odd(16384), big.NewInt(65537))}
	case "e-even":
		keys = []any{rsaJWK(f.rsa.N, big.NewInt(65538))}
	case "symmetric":
		keys = []any{map[string]any{"kty": "oct", "k": "c2VjcmV0"}}
	case "many":
		for range 200 {
			keys = append(keys, f.jwk(f.stranger, nil))
		}
	case "x5c-junk":
		keys = []any{f.jwk(f.stranger, map[string]any{"x5c": []string{"AAAA"}})}
	case "x5c-many":
		keys = []any{f.jwk(f.stranger, map[string]any{"x5c": strings.Split(strings.Repeat("AAAA ", 1000), " ")})}
	default:
		return "", fmt.Errorf("no key set of kind %q", kind)
	}
	set, err := json.Marshal(map[string]any{"keys": keys})
	return string(set), err
}
