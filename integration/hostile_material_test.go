package integration

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
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

// csrs are the kinds of certificate requests; each returns DER.
func (f *forge) csr(kind string) (string, error) {
	key := ecKey(f.t, elliptic.P256())
	switch kind {
	case "good":
		return f.pemCSR(f.signCSR(key, nil, 0))
	case "sans-200", "sans-10000":
		names := make([]string, map[string]int{"sans-200": 200, "sans-10000": 10_000}[kind])
		for i := range names {
			names[i] = fmt.Sprintf("h%d.example", i)
		}
		return f.pemCSR(f.signCSR(key, names, 0))
	case "wrong-signature":
		der := f.signCSR(key, nil, 0)
		der[len(der)-1] ^= 1
		return f.pemCSR(der)
	case "p-224":
		return f.pemCSR(f.signCSR(ecKey(f.t, elliptic.P224()), nil, 0))
	case "rsa-1024", "rsa-16384", "rsa-16384-der":
		bits := map[string]int{"rsa-1024": 1024}[kind]
		if bits == 0 {
			bits = 16384
		}
		der := f.forgedCSR(rsaSPKI(odd(bits), big.NewInt(65537)))
		if kind == "rsa-16384-der" {
			return string(der), nil
		}
		return f.pemCSR(der)
	case "e-3", "e-even", "e-1", "e-2^40", "e-2^2000", "e-negative":
		e := map[string]*big.Int{
			"e-3": big.NewInt(3), "e-even": big.NewInt(65538), "e-1": big.NewInt(1), "e-negative": big.NewInt(-65537),
			"e-2^40": new(big.Int).SetBit(big.NewInt(1), 40, 1), "e-2^2000": new(big.Int).SetBit(big.NewInt(1), 2000, 1),
		}[kind]
		return f.pemCSR(f.forgedCSR(rsaSPKI(f.rsa.N, e)))
	case "brainpool":
		return f.pemCSR(f.forgedCSR(ecSPKI(f.t, asn1.ObjectIdentifier{1, 3, 36, 3, 3, 2, 8, 1, 1, 7}, key)))
	case "explicit-curve":
		return f.pemCSR(f.forgedCSR(ecSPKI(f.t, struct {
			Version int
			Field   struct {
				Type  asn1.ObjectIdentifier
				Prime *big.Int
			}
		}{Version: 1, Field: struct {
			Type  asn1.ObjectIdentifier
			Prime *big.Int
		}{asn1.ObjectIdentifier{1, 2, 840, 10045, 1, 1}, key.Params().P}}, key)))
	case "off-curve":
		point, err := key.PublicKey.Bytes()
		if err != nil {
			return "", err
		}
		point[len(point)-1] ^= 1
		return f.pemCSR(f.forgedCSR(pointSPKI(f.t, asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}, point)))
	case "dsa":
		return f.pemCSR(f.forgedCSR(must(f.t, pkixKey{pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}}, asn1.BitString{Bytes: []byte{2, 1, 5}, BitLength: 24}})))
	case "sha1", "md5":
		return f.pemCSR(f.weakCSR(kind))
	}
	return "", fmt.Errorf("no CSR of kind %q", kind)
}

func (f *forge) pemCSR(der []byte) (string, error) {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

func (f *forge) signCSR(key crypto.Signer, names []string, alg x509.SignatureAlgorithm) []byte {
	f.t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names, SignatureAlgorithm: alg}, key)
	if err != nil {
		f.t.Fatal(err)
	}
	return der
}

// odd is a number of so many bits. Nobody looks for its factors.
func odd(bits int) *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))
	if err != nil {
		panic(err) // crypto/rand never fails
	}
	return n.SetBit(n.SetBit(n, bits-1, 1), 0, 1)
}

// pkixKey is a SubjectPublicKeyInfo (RFC 5280 section 4.1).
type pkixKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Key       asn1.BitString
}

func must(t *testing.T, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func rsaSPKI(n, e *big.Int) []byte {
	key, err := asn1.Marshal(struct{ N, E *big.Int }{n, e})
	if err != nil {
		panic(err) // two numbers always encode
	}
	der, err := asn1.Marshal(pkixKey{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: asn1.NullRawValue},
		asn1.BitString{Bytes: key, BitLength: 8 * len(key)},
	})
	if err != nil {
		panic(err)
	}
	return der
}

func ecSPKI(t *testing.T, params any, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return pointSPKI(t, params, point)
}

func pointSPKI(t *testing.T, params any, point []byte) []byte {
	t.Helper()
	return must(t, pkixKey{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, Parameters: asn1.RawValue{FullBytes: must(t, params)}},
		asn1.BitString{Bytes: point, BitLength: 8 * len(point)},
	})
}

var sha256WithRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}

// forgedCSR is a request over a key that nobody has, whose signature is noise.
func (f *forge) forgedCSR(spki []byte) []byte {
	noise := make([]byte, 256)
	rand.Read(noise)
	return f.wrapCSR(spki, sha256WithRSA, func([]byte) []byte { return noise })
}

// weakCSR is a request that is signed with a digest which is broken.
func (f *forge) weakCSR(kind string) []byte {
	spki, err := x509.MarshalPKIXPublicKey(f.rsa.Public())
	if err != nil {
		f.t.Fatal(err)
	}
	oid, hash := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}, crypto.SHA1
	if kind == "md5" {
		oid, hash = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4}, crypto.MD5
	}
	return f.wrapCSR(spki, oid, func(tbs []byte) []byte {
		digest := sha1.Sum(tbs)
		sum := digest[:]
		if kind == "md5" {
			digest := md5.Sum(tbs)
			sum = digest[:]
		}
		signature, err := rsa.SignPKCS1v15(rand.Reader, f.rsa, hash, sum)
		if err != nil {
			f.t.Fatal(err)
		}
		return signature
	})
}

// wrapCSR puts a key into a CertificationRequest (RFC 2986 section 4).
func (f *forge) wrapCSR(spki []byte, alg asn1.ObjectIdentifier, sign func(tbs []byte) []byte) []byte {
	f.t.Helper()
	tbs := must(f.t, struct {
		Version    int
		Subject    pkix.RDNSequence
		Key        asn1.RawValue
		Attributes []asn1.RawValue `asn1:"tag:0"`
	}{Key: asn1.RawValue{FullBytes: spki}})
	signature := sign(tbs)
	return must(f.t, struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		asn1.RawValue{FullBytes: tbs},
		pkix.AlgorithmIdentifier{Algorithm: alg, Parameters: asn1.NullRawValue},
		asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)},
	})
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
