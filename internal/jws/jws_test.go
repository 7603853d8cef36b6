package jws

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/hex"
	"io"
	"math/big"
	"slices"
	"testing"
)

// newKey makes a key that fits the algorithm.
func newKey(t testing.TB, alg string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch curve := curveOf[alg]; {
	case curve != nil:
		key, err = ecdsa.GenerateKey(curve, rand.Reader)
	case alg == "EdDSA":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var curveOf = map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}

// What is signed verifies, and nothing else does.
func TestSignAndVerify(t *testing.T) {
	for alg := range hashes {
		key := newKey(t, alg)
		if err := KeyFits(alg, key.Public()); err != nil {
			t.Fatal(err)
		}
		signature, err := Sign(key, alg, []byte("input"))
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		if err := Verify(alg, key.Public(), "input", signature); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		changed := slices.Clone(signature)
		changed[len(changed)/3] ^= 1
		for name, err := range map[string]error{
			"another text":      Verify(alg, key.Public(), "Input", signature),
			"another key":       Verify(alg, newKey(t, alg).Public(), "input", signature),
			"one bit":           Verify(alg, key.Public(), "input", changed),
			"an octet more":     Verify(alg, key.Public(), "input", append(signature, 0)),
			"an octet less":     Verify(alg, key.Public(), "input", signature[1:]),
			"zeros":             Verify(alg, key.Public(), "input", make([]byte, len(signature))),
			"nothing":           Verify(alg, key.Public(), "input", nil),
			"no key":            Verify(alg, nil, "input", signature),
			"a private one":     Verify(alg, key, "input", signature),
			"a key by its name": Verify(alg, alg, "input", signature),
		} {
			if err == nil {
				t.Errorf("%s: %s is taken", alg, name)
			}
		}
	}
	for _, alg := range []string{"none", "HS256", "ES256K", ""} {
		if signature, err := Sign(newKey(t, "EdDSA"), alg, []byte("input")); err == nil {
			t.Errorf("%q makes %x", alg, signature)
		}
	}
}

func TestDER(t *testing.T) {
	numbers := func(size int) [][]byte {
		one := append(make([]byte, size-1), 1)
		high := append([]byte{0x80}, make([]byte, size-1)...)
		low := append([]byte{0, 0, 0x7f}, make([]byte, size-3)...)
		return [][]byte{make([]byte, size), one, high, low, bytes.Repeat([]byte{0xff}, size)}
	}
	for _, curve := range curveOf {
		for _, r := range numbers(octets(curve)) {
			for _, s := range numbers(octets(curve)) {
				want, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)})
				if err != nil {
					t.Fatal(err)
				}
				der := toDER(slices.Clone(r), slices.Clone(s))
				if !bytes.Equal(der, want) {
					t.Errorf("%x, %x: %x, want %x", r, s, der, want)
				}
				if raw, err := fromDER(curve, der); err != nil || !bytes.Equal(raw, slices.Concat(r, s)) {
					t.Errorf("%x: %x, %v", der, raw, err)
				}
			}
		}
	}
}

// A key behind an interface may answer with anything.
func TestSign_RefusesMalformedSignatures(t *testing.T) {
	key := newKey(t, "ES256")
	wide := "0221" + "01" + string(bytes.Repeat([]byte("00"), 32))
	for name, text := range map[string]string{
		"nothing":            "",
		"a tag":              "30",
		"no numbers":         "3000",
		"one number":         "3003020101",
		"three numbers":      "3009020101020101020101",
		"an octet more":      "300602010102010100",
		"an octet too few":   "30060201010201",
		"a padded number":    "300702020001020101",
		"a negative number":  "30060201ff020101",
		"a cut number":       "3006020105020206",
		"too wide":           "3026" + wide + "020101",
		"an empty number":    "30050200020101",
		"no sequence":        "3106020101020101",
		"no integer":         "3006030101020101",
		"a long length":      "308106020101020101",
		"an indefinite one":  "3080020101020101",
		"length in 2 octets": "30820006020101020101",
	} {
		der, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := Sign(fixed{key, der}, "ES256", nil); err == nil {
			t.Errorf("%s: %x", name, raw)
		}
	}
	if _, err := Sign(fixed{key, []byte{0x30, 6, 2, 1, 1, 2, 1, 1}}, "ES256", nil); err != nil {
		t.Errorf("two ones: %v", err) // so the rest is refused for what it is
	}
}

// fixed signs everything alike.
type fixed struct {
	crypto.Signer
	signature []byte
}

func (f fixed) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return f.signature, nil }

// FuzzFromDER: two numbers are read as encoding/asn1 reads and writes them; all else is refused.
func FuzzFromDER(f *testing.F) {
	f.Add([]byte{0x30, 6, 2, 1, 1, 2, 1, 1})
	f.Add(toDER(bytes.Repeat([]byte{0xff}, 66), bytes.Repeat([]byte{1}, 66)))
	f.Fuzz(func(t *testing.T, der []byte) {
		for _, curve := range curveOf {
			half := octets(curve)
			fits := func(n *big.Int) bool { return n.Sign() >= 0 && n.BitLen() <= 8*half }
			var want []byte
			var n struct{ R, S *big.Int }
			rest, err := asn1.Unmarshal(der, &n)
			if err == nil && len(rest) == 0 && fits(n.R) && fits(n.S) {
				again, _ := asn1.Marshal(n) // which leaves out what the structure has no place for
				if bytes.Equal(again, der) {
					want = slices.Concat(n.R.FillBytes(make([]byte, half)), n.S.FillBytes(make([]byte, half)))
				}
			}
			if got, err := fromDER(curve, der); !bytes.Equal(got, want) || (err == nil) != (want != nil) {
				t.Errorf("%x: %x, %v; want %x", der, got, err, want)
			}
		}
	})
}

func TestKeyFits_RefusesWhatIsNoKey(t *testing.T) {
	for name, key := range map[string]any{
		"a short Ed25519 key":        ed25519.PublicKey("short"),
		"an ECDSA key without curve": &ecdsa.PublicKey{},
		"an RSA key without modulus": &rsa.PublicKey{},
		"something that is no key":   "key",
	} {
		for _, alg := range []string{"ES256", "EdDSA", "PS256"} {
			if err := KeyFits(alg, key); err == nil {
				t.Errorf("%s fits %s", name, alg)
			}
		}
	}
}
