package tokenbind

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/pkid/pkid/thumbprint"
)

func TestDERSignature(t *testing.T) {
	numbers := func(size int) [][]byte {
		one := append(make([]byte, size-1), 1)
		high := append([]byte{0x80}, make([]byte, size-1)...)
		low := append([]byte{0, 0, 0x7f}, make([]byte, size-3)...)
		return [][]byte{make([]byte, size), one, high, low, bytes.Repeat([]byte{0xff}, size)}
	}
	for _, size := range []int{32, 48, 66} {
		for _, r := range numbers(size) {
			for _, s := range numbers(size) {
				want, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)})
				if err != nil {
					t.Fatal(err)
				}
				if got := derSignature(slices.Clone(r), slices.Clone(s)); !bytes.Equal(got, want) {
					t.Errorf("%x, %x: %x, want %x", r, s, got, want)
				}
			}
		}
	}
}

// A key behind an interface may answer with anything.
func TestJOSESignatureRefuses(t *testing.T) {
	pub := &ecKeyFor(t).PublicKey
	wide := new(big.Int).Lsh(big.NewInt(1), 256)
	for name, numbers := range map[string][2]*big.Int{"negative": {big.NewInt(-1), big.NewInt(1)}, "too wide": {big.NewInt(1), wide}} {
		der, err := asn1.Marshal(struct{ R, S *big.Int }{numbers[0], numbers[1]})
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := joseSignature(pub, der); err == nil {
			t.Errorf("%s: %x", name, raw)
		}
	}
	for _, der := range [][]byte{nil, {0x30}, append(derSignature([]byte{1}, []byte{1}), 0)} {
		if raw, err := joseSignature(pub, der); err == nil {
			t.Errorf("%x: %x", der, raw)
		}
	}
}

// keyFor makes a key for each algorithm that a proof may be signed with.
func keyFor(t *testing.T, alg string) crypto.Signer {
	t.Helper()
	curve := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[alg]
	switch {
	case curve != nil:
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	case alg == "EdDSA":
		_, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	default:
		return testRSA()
	}
}

func TestD06_EveryAlgorithm(t *testing.T) {
	for _, alg := range ProofAlgorithms() {
		t.Run(alg, func(t *testing.T) {
			k, key := newProofKit(t), keyFor(t, alg)
			header := object{"typ": "dpop+jwt", "alg": alg, "jwk": jwkOf(t, key.Public())}
			claims := object{"jti": "1", "htm": "POST", "htu": "https://as.example/token", "iat": testStart.Unix()}
			proof := compactAs(t, alg, key, header, claims)
			want, err := thumbprint.OfKey(key.Public())
			if err != nil {
				t.Fatal(err)
			}
			for at := range 3 { // one octet changed in each part
				parts := strings.Split(proof, ".")
				raw := []byte(parts[at])
				raw[len(raw)/2] = map[bool]byte{true: 'B', false: 'A'}[raw[len(raw)/2] == 'A']
				parts[at] = string(raw)
				if _, err := k.check(t, strings.Join(parts, ".")); err == nil {
					t.Errorf("part %d may be changed", at)
				}
			}
			for other := range hashes { // the same RSA key, another hash or padding
				if isRSA := alg[0] == 'P'; isRSA && other != alg && other[0] != 'E' {
					k.refuse(t, "signature", compactAs(t, other, key, header, claims))
				}
			}
			if got := k.accept(t, proof); !got.Key.Equal(want) {
				t.Errorf("jkt %v, want %v", got.Key, want)
			}
		})
	}
}
