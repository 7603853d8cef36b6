package thumbprint

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"
)

// vector is an entry of testdata/vectors.json.
type vector struct {
	ID          string            `json:"id"`
	Kind        string            `json:"kind"`
	PEM         string            `json:"pem"`
	X5T         string            `json:"x5t#S256"`
	JWK         map[string]string `json:"jwk"`
	JKT         string            `json:"jkt"`
	AccessToken string            `json:"access_token"`
	ATH         string            `json:"ath"`
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile("../testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var out []vector
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// texts are the thumbprints that stand in the vectors.
func texts(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, v := range readVectors(t) {
		for _, s := range []string{v.X5T, v.JKT, v.ATH} {
			if s != "" {
				out = append(out, s)
			}
		}
	}
	if len(out) < 3 {
		t.Fatalf("%d thumbprints in the vectors", len(out))
	}
	return out
}

func TestVectors(t *testing.T) {
	certs, keys, tokens := 0, 0, 0
	for _, v := range readVectors(t) {
		t.Run(v.ID, func(t *testing.T) {
			if v.PEM != "" && v.X5T != "" {
				certs++
				block, _ := pem.Decode([]byte(v.PEM))
				cert, err := x509.ParseCertificate(block.Bytes)
				if err != nil {
					t.Fatal(err)
				}
				if got := OfCertificate(cert).String(); got != v.X5T || OfDER(block.Bytes).String() != got {
					t.Errorf("got %s, want %s", got, v.X5T)
				}
			}
			if v.JWK["kty"] == "RSA" && v.JKT != "" {
				keys++
				if got, err := OfKey(rsaKey(t, v.JWK)); err != nil || got.String() != v.JKT {
					t.Errorf("got %s, %v; want %s", got, err, v.JKT)
				}
			}
			if v.ATH != "" {
				tokens++
				if got := OfToken(v.AccessToken).String(); got != v.ATH {
					t.Errorf("got %s, want %s", got, v.ATH)
				}
			}
		})
	}
	if certs == 0 || keys == 0 || tokens == 0 {
		t.Errorf("%d certificates, %d keys, %d tokens", certs, keys, tokens)
	}
}

func rsaKey(t *testing.T, jwk map[string]string) *rsa.PublicKey {
	t.Helper()
	n, err := base64.RawURLEncoding.DecodeString(jwk["n"])
	if err != nil {
		t.Fatal(err)
	}
	e, err := base64.RawURLEncoding.DecodeString(jwk["e"])
	if err != nil {
		t.Fatal(err)
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
}

// The EC key of RFC 9449 figure 2 and the Ed25519 key of RFC 8037 appendix A.3.
func TestOfKeyKinds(t *testing.T) {
	decode := func(s string) []byte {
		raw, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	point := append(append([]byte{4}, decode("l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs")...), decode("9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA")...)
	ec, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OfKey(ec); err != nil || got.String() != "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" {
		t.Errorf("EC: %s, %v", got, err)
	}
	ed := ed25519.PublicKey(decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"))
	if got, err := OfKey(ed); err != nil || got.String() != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" {
		t.Errorf("Ed25519: %s, %v", got, err)
	}
	for name, curve := range map[string]elliptic.Curve{"P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		text, err := canonicalJWK(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		var jwk map[string]string
		if err := json.Unmarshal(text, &jwk); err != nil {
			t.Fatal(err)
		}
		size := (curve.Params().BitSize + 7) / 8
		if jwk["crv"] != name || len(decode(jwk["x"])) != size || len(decode(jwk["y"])) != size {
			t.Errorf("%s: %s", name, text)
		}
	}
}

func TestOfKeyRefuses(t *testing.T) {
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]any{
		"P-224": p224.Public(), "nil": nil, "private": p224, "text": "key", "empty RSA": &rsa.PublicKey{}, "short Ed25519": ed25519.PublicKey{1, 2},
	} {
		if got, err := OfKey(key); err == nil || !got.IsZero() {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestZeroEqualsNothing(t *testing.T) {
	if (Cert{}).Equal(Cert{}) || (Key{}).Equal(Key{}) || (Token{}).Equal(Token{}) {
		t.Error("a zero value equals itself")
	}
	set := OfToken("x")
	if set.Equal(Token{}) || (Token{}).Equal(set) || Cert(set).Equal(Cert{}) || Key(set).Equal(Key{}) {
		t.Error("a zero value equals one that is set")
	}
	if !set.Equal(set) || !Cert(set).Equal(Cert(set)) || !Key(set).Equal(Key(set)) {
		t.Error("a value does not equal itself")
	}
	if set.IsZero() || !(Token{}).IsZero() || !(Cert{}).IsZero() || !(Key{}).IsZero() {
		t.Error("IsZero")
	}
}

func TestB09_EveryBitCounts(t *testing.T) {
	a := Cert(OfToken("x"))
	for bit := range 8 * Size {
		b := a
		b[bit/8] ^= 1 << (bit % 8)
		if a.Equal(b) {
			t.Errorf("bit %d does not count", bit)
		}
	}
}

func TestB09_OneSpellingOnly(t *testing.T) {
	const good = "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2" // RFC 8705 section 3.1 has a non-canonical last character
	canonical := texts(t)[0]
	raw, err := ParseCert(canonical)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"stray bits":     good,
		"padded":         canonical + "=",
		"standard":       base64.RawStdEncoding.EncodeToString(append([]byte{0xfb, 0xff}, raw[2:]...)),
		"hex":            strings.Repeat("ab", 32),
		"empty":          "",
		"short":          canonical[1:],
		"long":           canonical + "A",
		"line break":     canonical[:20] + "\n" + canonical[21:],
		"trailing break": canonical[:42] + "\n",
		"space":          " " + canonical[1:],
		"quoted":         `"` + canonical[2:] + `"`,
	}
	for name, text := range bad {
		t.Run(name, func(t *testing.T) {
			_, cert := ParseCert(text)
			_, key := ParseKey(text)
			_, token := ParseToken(text)
			var c Cert
			for _, err := range []error{cert, key, token, c.UnmarshalText([]byte(text))} {
				if !errors.Is(err, ErrText) {
					t.Errorf("%q: %v", text, err)
				}
			}
			if !c.IsZero() {
				t.Error("a refused text changed the value")
			}
		})
	}
}

func TestJSON(t *testing.T) {
	type doc struct {
		Cert  Cert  `json:"c,omitzero"`
		Key   Key   `json:"k,omitzero"`
		Token Token `json:"t,omitzero"`
	}
	want := doc{Cert: Cert(OfToken("1")), Key: Key(OfToken("2")), Token: OfToken("3")}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got doc
	if err := json.Unmarshal(text, &got); err != nil || got != want {
		t.Errorf("%s: %v, %v", text, got, err)
	}
	if text, err := json.Marshal(doc{}); err != nil || string(text) != "{}" {
		t.Errorf("empty: %s, %v", text, err)
	}
	for _, bad := range []string{`{"c":7}`, `{"c":"x"}`, `{"k":["x"]}`, `{"t":""}`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s: taken", bad)
		}
	}
}

// FuzzText: what is parsed is written back as it was, and only 32 octets in their one spelling are parsed.
func FuzzText(f *testing.F) {
	for _, s := range texts(f) {
		f.Add(s)
		f.Add(s + "=")
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCert(s)
		if err != nil {
			if !errors.Is(err, ErrText) || !c.IsZero() {
				t.Errorf("%q: %v, %v", s, c, err)
			}
			return
		}
		if c.String() != s {
			t.Errorf("%q is written as %q", s, c)
		}
		var k Key
		var token Token
		for _, to := range []encoding.TextUnmarshaler{&k, &token} {
			if err := to.UnmarshalText([]byte(s)); err != nil {
				t.Errorf("%q: %v", s, err)
			}
		}
		if [Size]byte(k) != [Size]byte(c) || [Size]byte(token) != [Size]byte(c) {
			t.Errorf("%q: the types disagree", s)
		}
	})
}
