package integration

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

const (
	comparedIssuer = "https://pki.example"
	comparedServer = "https://api.example"
	comparedAt     = 1_900_000_000
)

// presented is a request for both verifiers.
type presented struct {
	Name          string   `json:"name"`
	Authorization []string `json:"authorization"`
	DPoP          []string `json:"dpop"`
	Method        string   `json:"method"`
	Target        string   `json:"target"`
}

// comparison makes requests of which all but one thing is right.
type comparison struct {
	t              *testing.T
	issuer, client *ecdsa.PrivateKey
	cases          []presented
}

// recipe is how a request is made: the JSON texts of token and proof, and how they are encoded.
type recipe struct {
	tokenHeader, token, proofHeader, proof string
	encodeToken, encodeProof, encodeSign   func([]byte) string
	scheme, method, target                 string
	key                                    crypto.Signer // of the proof
}

func jwkOf(key *ecdsa.PublicKey) (x, y string) {
	point, err := key.Bytes()
	if err != nil {
		panic(err) // a key of this test's
	}
	return base64.RawURLEncoding.EncodeToString(point[1:33]), base64.RawURLEncoding.EncodeToString(point[33:])
}

func (c *comparison) recipe() recipe {
	c.t.Helper()
	key, err := thumbprint.OfKey(c.client.Public())
	if err != nil {
		c.t.Fatal(err)
	}
	x, y := jwkOf(&c.client.PublicKey)
	plain := base64.RawURLEncoding.EncodeToString
	return recipe{
		tokenHeader: `{"alg":"ES256","kid":"k","typ":"at+jwt"}`,
		token: fmt.Sprintf(`{"iss":"%s","aud":"%s","sub":"app","client_id":"app","jti":"t","scope":"read","iat":%d,"exp":%d,"cnf":{"jkt":"%s"}}`,
			comparedIssuer, comparedServer, comparedAt, comparedAt+60, key),
		proofHeader: fmt.Sprintf(`{"alg":"ES256","typ":"dpop+jwt","jwk":{"kty":"EC","crv":"P-256","x":"%s","y":"%s"}}`, x, y),
		proof:       fmt.Sprintf(`{"jti":"JTI","htm":"GET","htu":"%s/orders","iat":%d,"ath":"ATH"}`, comparedServer, comparedAt),
		encodeToken: plain, encodeProof: plain, encodeSign: plain, scheme: "DPoP", method: "GET", target: "/orders", key: c.client,
	}
}

func (r recipe) sign(t *testing.T, key crypto.Signer, encode func([]byte) string, header, payload string) string {
	t.Helper()
	alg := "ES256"
	if _, is := key.(*rsa.PrivateKey); is {
		alg = "PS256"
	}
	input := encode([]byte(header)) + "." + encode([]byte(payload))
	signature, err := jws.Sign(key, alg, []byte(input))
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + r.encodeSign(signature)
}

func (c *comparison) add(name string, edit func(*recipe)) {
	c.t.Helper()
	r := c.recipe()
	edit(&r)
	token := r.sign(c.t, c.issuer, r.encodeToken, r.tokenHeader, r.token)
	ath := sha256.Sum256([]byte(token))
	payload := strings.NewReplacer("JTI", rand.Text(), "ATH", base64.RawURLEncoding.EncodeToString(ath[:])).Replace(r.proof)
	proof := r.sign(c.t, r.key, r.encodeProof, r.proofHeader, payload)
	c.cases = append(c.cases, presented{name, []string{r.scheme + " " + token}, []string{proof}, r.method, r.target})
}

// replace adds a request in which one text of a part is another.
func (c *comparison) replace(part, old string, others ...string) {
	c.t.Helper()
	for _, other := range others {
		c.add(fmt.Sprintf("%s: %s for %s", part, shortened(other), old), func(r *recipe) {
			in := map[string]*string{"token header": &r.tokenHeader, "token": &r.token, "proof header": &r.proofHeader, "proof": &r.proof}[part]
			if !strings.Contains(*in, old) {
				c.t.Fatalf("%s has no %s", part, old)
			}
			*in = strings.Replace(*in, old, other, 1)
		})
	}
}

func shortened(s string) string { return s[:min(len(s), 60)] }

// The Node verifier and the Go verifier let the same requests in, and refuse the others for the same reason.
func TestVerifiersAgree(t *testing.T) {
	t.Parallel()
	node := needNode(t, "../examples/node")
	c := &comparison{t: t, issuer: comparedKey(t), client: comparedKey(t)}
	c.add("as it should be", func(*recipe) {})
	c.wrongTypes()
	c.encodings()
	c.keys()
	c.urls()
	c.headers()
	theirs := c.askNode(node)
	good := 0
	for i, ours := range c.askGo() {
		if ours != theirs[i] {
			t.Errorf("%s: Go says %s, Node says %s", c.cases[i].Name, ours, theirs[i])
		}
		if ours == "ok" {
			good++
		}
	}
	if good < 20 || good > len(c.cases)-60 {
		t.Errorf("%d of %d requests are let in", good, len(c.cases))
	}
	t.Logf("%d of %d requests are let in", good, len(c.cases))
}

func comparedKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	for {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if x, _ := jwkOf(&key.PublicKey); !strings.HasPrefix(x, "A") { // AA is what is taken away and added below
			return key
		}
	}
}

func (c *comparison) wrongTypes() {
	wrong := []string{`null`, `1`, `"x"`, `true`, `[]`, `["x"]`, `{}`, `""`, `1e400`, `"\ud800"`}
	for _, m := range []string{"alg", "kid", "typ", "crit", "b64", "jwk", "zip"} {
		for _, v := range wrong {
			c.replace("token header", `{"alg"`, fmt.Sprintf(`{"%s":%s,"alg"`, m, v), fmt.Sprintf(`{"x":{"%s":%s},"alg"`, m, v))
			c.replace("proof header", `{"alg"`, fmt.Sprintf(`{"%s":%s,"alg"`, m, v))
		}
	}
	for _, v := range wrong {
		c.replace("token header", `"ES256"`, v)
		if v != `""` { // which Go takes for none
			c.replace("token header", `"k"`, v)
		}
		c.replace("token header", `"at+jwt"`, v)
		c.replace("proof header", `"ES256"`, v)
		c.replace("proof header", `"dpop+jwt"`, v)
		for _, m := range []string{"iss", "aud", "sub", "client_id", "jti", "scope", "iat", "exp", "nbf", "cnf", "act"} {
			c.replace("token", `{"iss"`, fmt.Sprintf(`{"%s":%s,"iss"`, m, v)) // twice, but for nbf and act
			c.memberOf("token", m, v)
		}
		for _, m := range []string{"jti", "htm", "htu", "iat", "ath", "nonce"} {
			c.memberOf("proof", m, v)
		}
		for _, m := range []string{"kty", "crv", "x", "y", "use", "key_ops", "alg", "ext", "d", "k", "kid", "n"} {
			c.replace("proof header", `"jwk":{`, fmt.Sprintf(`"jwk":{"%s":%s,`, m, v))
		}
	}
	c.replace("token", `"cnf":{`, `"cnf":{"x":1,`, `"cnf":{"x5t#S256":null,`, `"cnf":{"x5t#S256":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",`,
		`"cnf":{"kid":{},`, `"cnf":{"a":{"b":1,"b":2},`, `"cnf":{"a":"{\"b\":1,\"b\":2}",`, `"cnf":{"a":[{"b":1},{"b":2}],`)
	c.replace("token", `"`+comparedServer+`"`, `["`+comparedServer+`"]`, `["x","`+comparedServer+`"]`, `["`+comparedServer+`",1]`, `["`+comparedServer+`",null]`)
	c.replace("token", `"iat":`, `"nbf":1899999999.5,"iat":`, `"nbf":1900000010,"iat":`, `"nbf":1900000011,"iat":`, `"iat":0.`, `"iat":-`, `"iat":1`)
	c.replace("proof", `"iat":1900000000`, `"iat":1899999930`, `"iat":1899999929`, `"iat":1900000010`, `"iat":1900000011`, `"iat":1900000000.25`, `"iat":1.9e9`, `"iat":-1`, `"iat":"1900000000"`)
	c.replace("proof", `"JTI"`, `"`+strings.Repeat("x", 256)+`"`, `"`+strings.Repeat("y", 257)+`"`, `"`+strings.Repeat("é", 128)+`"`, `"`+strings.Repeat("é", 129)+`"`, `"\ud83d\ude00"`, `"\ufffd"`)
	c.replace("proof", `"GET"`, `"get"`, `"POST"`, `"GET "`)
	c.replace("proof", `"ATH"`, `"ATH="`, `"ATHA"`, `" ATH"`)
	c.replace("proof", `{`, ` {`, "\n{", "\ufeff{", `[{`, `{"a":`+strings.Repeat("[", 31)+strings.Repeat("]", 31)+`,`, `{"a":`+strings.Repeat("[", 32)+strings.Repeat("]", 32)+`,`, "{\"a\":\"\xff\",", `{"__proto__":{"nonce":"x"},`)
	c.replace("proof", `}`, `}}`, `} `, `},`, `,}`, ``)
}

// memberOf has a member of another type, in place of the right one if there is one.
func (c *comparison) memberOf(part, member, value string) {
	c.t.Helper()
	c.add(fmt.Sprintf("%s: %s is %s", part, member, value), func(r *recipe) {
		in := map[string]*string{"token": &r.token, "proof": &r.proof}[part]
		var members map[string]json.RawMessage
		if err := json.Unmarshal([]byte(*in), &members); err != nil {
			c.t.Fatal(err)
		}
		members[member] = json.RawMessage("0")
		text, err := json.Marshal(members)
		if err != nil {
			c.t.Fatal(err)
		}
		*in = strings.Replace(string(text), `"`+member+`":0`, `"`+member+`":`+value, 1)
	})
}

func (c *comparison) encodings() {
	raw := base64.RawURLEncoding.EncodeToString
	for name, encode := range map[string]func([]byte) string{
		"padded":                      base64.URLEncoding.EncodeToString,
		"one sign more":               func(b []byte) string { return raw(b) + "=" },
		"with a line break":           func(b []byte) string { return raw(b)[:8] + "\n" + raw(b)[8:] },
		"with a blank":                func(b []byte) string { return raw(b)[:8] + " " + raw(b)[8:] },
		"in the alphabet of base64":   func(b []byte) string { return base64.RawStdEncoding.EncodeToString(append(b, ' ', ' ', ' ')) },
		"with bits that do not count": loose,
	} {
		c.add("the token is "+name, func(r *recipe) { r.encodeToken = encode })
		c.add("the proof is "+name, func(r *recipe) { r.encodeProof = encode })
		c.add("the signatures are "+name, func(r *recipe) { r.encodeSign = encode })
	}
	c.add("signatures of another length", func(r *recipe) { r.encodeSign = func(b []byte) string { return raw(append([]byte{0}, b...)) } })
	c.add("signatures that are empty", func(r *recipe) { r.encodeSign = func([]byte) string { return "" } })
	c.add("five parts", func(r *recipe) { r.encodeSign = func(b []byte) string { return raw(b) + ".e30.e30" } })
}

// loose encodes three octets fewer or more so that the last character has bits that are no octet's, and sets one.
func loose(b []byte) string {
	for len(b)%3 != 1 {
		b = append(b, ' ')
	}
	text := []byte(base64.RawURLEncoding.EncodeToString(b))
	text[len(text)-1]++
	return string(text)
}

func (c *comparison) keys() {
	x, y := jwkOf(&c.client.PublicKey)
	c.replace("proof header", `"`+x+`"`, `"`+x+`="`, `"AA`+x+`"`, `"`+x[2:]+`"`, `"`+y+`"`, `"`+x[:42]+string(x[42]+1)+`"`, `"`+x[:20]+` `+x[20:]+`"`)
	c.replace("proof header", `"P-256"`, `"P-384"`, `"p-256"`, `"secp256k1"`, `"Ed25519"`)
	c.replace("proof header", `"EC"`, `"ec"`, `"RSA"`, `"OKP"`, `"oct"`)
	c.replace("proof header", `"kty"`, `"use":"sig","kty"`, `"use":"enc","kty"`, `"key_ops":["verify"],"kty"`, `"key_ops":["sign"],"kty"`, `"alg":"ES384","kty"`,
		`"ext":false,"kty"`, `"kid":"any","kty"`, `"d":"AA","kty"`, `"p":"AA","kty"`, `"priv":"AA","kty"`, `"k":"AA","kty"`)
	c.add("the proof is another key's", func(r *recipe) { r.key = comparedKey(c.t) })
	for _, bits := range []int{1024, 2048} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			continue // the library makes no shorter ones
		}
		c.add(fmt.Sprintf("an RSA key of %d bits", bits), func(r *recipe) {
			n, e := base64.RawURLEncoding.EncodeToString(key.N.Bytes()), base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())
			r.key, r.proofHeader = key, fmt.Sprintf(`{"alg":"PS256","typ":"dpop+jwt","jwk":{"kty":"RSA","n":"%s","e":"%s"}}`, n, e)
			own, err := thumbprint.OfKey(key.Public())
			if err == nil {
				r.token = r.token[:strings.Index(r.token, `"jkt":"`)] + `"jkt":"` + own.String() + `"}}`
			}
		})
	}
}

func (c *comparison) urls() {
	for _, htu := range []string{
		"https://api.example/orders?page=2", "https://api.example/orders#top", "https://api.example/orders?#", "https://api.example:443/orders", "https://api.example:/orders",
		"https://api.example:0443/orders", "https://api.example:8443/orders", "https://api.example:99999/orders", "https://api.example:x/orders", "https://API.example/orders", "HTTPS://api.example/orders",
		"http://api.example/orders", "http://api.example:443/orders", "https://api.example./orders", "https://api.example/Orders", "https://api.example/orders/",
		"https://api.example//orders", "https://api.example/./orders", "https://api.example/a/../orders", "https://api.example/a/%2e%2E/orders", "https://api.example/%6frders",
		"https://api.example/%6Frders", "https://api.example/orders%2f", "https://api.example/orders%", "https://api.example/orders%zz", "https://api.example/orders%00",
		"https://%61pi.example/orders", "https://api.example%2forders", "https://u@api.example/orders", "https://u:p@api.example/orders", "https://@api.example/orders", "https://api.example",
		"https:///api.example/orders", "https:/api.example/orders", "https:api.example/orders", "https:\\\\api.example\\orders", "https://api.example\\orders", "//api.example/orders", "/orders", "orders",
		" https://api.example/orders", "https://api.example/orders ", "https://api.example/ord\ters", "https://api.example/orders\n", "https://api .example/orders", "https://\u0430pi.example/orders",
		"https://api.example/orders\u200b", "https://[::1]/orders", "https://api.example/orders?" + strings.Repeat("x", 4000), "https://api.example/" + strings.Repeat("x", 3000), "ftp://api.example/orders", "javascript:alert(1)",
	} {
		text, err := json.Marshal(htu)
		if err != nil {
			c.t.Fatal(err)
		}
		c.replace("proof", `"`+comparedServer+`/orders"`, string(text))
	}
	for target, htu := range map[string]string{
		"/orders?page=2": "/orders", "/orders?a=%zz": "/orders", "/a%2Fb": "/a%2fb", "/a%2fb": "/a/b", "/%7Ea": "/~a", "/a/../b": "/b", "/a;b=c/$&'()*+,=:@": "/a;b=c/$&'()*+,=:@", "//a": "//a", "//evil.example/a": "//evil.example/a",
		"/%e2%82%ac": "/%E2%82%AC", "/a!": "/a%21", "/orders?access_token=x": "/orders", "/orders?access%5ftoken=x": "/orders", "/orders?x=access_token": "/orders", "/a|b": "/a%7Cb", "/a\"b": "/a%22b", "/[a]": "/[a]", "/a%5Bb": "/a[b",
	} {
		c.add("a request for "+target+" with a proof for "+htu, func(r *recipe) {
			text, err := json.Marshal(comparedServer + htu)
			if err != nil {
				c.t.Fatal(err)
			}
			r.target, r.proof = target, strings.Replace(r.proof, `"`+comparedServer+`/orders"`, string(text), 1)
		})
	}
}

func (c *comparison) headers() {
	for _, scheme := range []string{"dpop", "DPOP ", "Bearer", "bearer", "Basic", "", "DPoP DPoP", "DPoP\t"} {
		c.add("the scheme is "+scheme, func(r *recipe) { r.scheme = scheme })
	}
	c.add("another method", func(r *recipe) { r.method = "DELETE" })
	c.add("a proof for another method", func(r *recipe) { r.proof = strings.Replace(r.proof, "GET", "PATCH", 1) })
	c.add("bound to nothing", func(r *recipe) { r.token, r.scheme = strings.Replace(r.token, `"cnf"`, `"fnc"`, 1), "Bearer" })
	c.add("bound to nothing, as DPoP", func(r *recipe) { r.token = strings.Replace(r.token, `"cnf"`, `"fnc"`, 1) })
	good := len(c.cases)
	for _, edit := range []func(*presented){
		func(p *presented) { p.Authorization = append(p.Authorization, p.Authorization[0]) },
		func(p *presented) { p.Authorization = nil },
		func(p *presented) { p.DPoP = nil },
		func(p *presented) { p.DPoP = append(p.DPoP, p.DPoP[0]) },
		func(p *presented) { p.DPoP[0] += ", " + p.DPoP[0] },
		func(p *presented) { p.DPoP[0] = "" },
		func(p *presented) { p.DPoP[0] = strings.Repeat("a", 9000) },
		func(p *presented) { p.DPoP = c.cases[0].DPoP }, // was used
		func(p *presented) { p.Authorization[0] += " " },
		func(p *presented) { p.Authorization[0] += "=" },
		func(p *presented) { p.Authorization[0] += ", Bearer x" },
		func(p *presented) { p.Authorization[0] = "DPoP " + strings.Repeat("a", 20_000) },
		func(p *presented) { p.Authorization[0] = "DPoP a.b.c" },
	} {
		c.add(fmt.Sprintf("headers, %d", len(c.cases)-good), func(*recipe) {})
		edit(&c.cases[len(c.cases)-1])
	}
}

// remembering is a replay memory of a verifier that never ran before.
type remembering struct{ *tokenbind.MemoryReplay }

func (c *comparison) askGo() (outcomes []string) {
	c.t.Helper()
	now := func() time.Time { return time.Unix(comparedAt, 0) }
	v, err := tokenbind.NewVerifier(tokenbind.Config{
		Issuer: comparedIssuer, Audience: comparedServer, Keys: tokenbind.StaticKeys{{ID: "k", Key: c.issuer.Public()}}, RequiredScopes: []string{"read"},
		Replay: remembering{tokenbind.NewMemoryReplay(10_000, now)}, Now: now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range c.cases {
		r := httptest.NewRequestWithContext(c.t.Context(), p.Method, "/", nil)
		r.RequestURI, r.URL.RawQuery = p.Target, ""
		if _, query, found := strings.Cut(p.Target, "?"); found {
			r.URL.RawQuery = query
		}
		r.Header["Authorization"], r.Header["Dpop"] = p.Authorization, p.DPoP
		_, err := v.Verify(r)
		refused, is := errors.AsType[*tokenbind.Error](err)
		switch {
		case err == nil:
			outcomes = append(outcomes, "ok")
		case is && refused.Code == "":
			outcomes = append(outcomes, "no_credentials")
		case is:
			outcomes = append(outcomes, refused.Code)
		default:
			c.t.Fatalf("%s: %v", p.Name, err)
		}
	}
	return outcomes
}

func (c *comparison) askNode(node string) (outcomes []string) {
	c.t.Helper()
	x, y := jwkOf(&c.issuer.PublicKey)
	in, err := json.Marshal(map[string]any{
		"issuer": comparedIssuer, "audience": comparedServer, "now": comparedAt, "cases": c.cases,
		"jwk": map[string]string{"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "k", "alg": "ES256"},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.CommandContext(c.t.Context(), node, "node/verify.mjs")
	cmd.Stdin, cmd.Stderr = strings.NewReader(string(in)), c.t.Output()
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := json.Unmarshal(out, &outcomes); err != nil || len(outcomes) != len(c.cases) {
		c.t.Fatalf("%d answers to %d requests: %v", len(outcomes), len(c.cases), err)
	}
	return outcomes
}
