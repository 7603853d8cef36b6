package tokenbind

import (
	"bytes"
	"encoding/asn1"
	"math/big"
	"slices"
	"testing"
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
