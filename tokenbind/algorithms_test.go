package tokenbind

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/pkid/pkid/thumbprint"
)

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
