package tokenbind

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha512" // for ES384 and its kin
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"github.com/pkid/pkid/thumbprint"
)

var hashes = map[string]crypto.Hash{
	"ES256": crypto.SHA256, "ES384": crypto.SHA384, "ES512": crypto.SHA512,
	"PS256": crypto.SHA256, "PS384": crypto.SHA384, "PS512": crypto.SHA512,
	"RS256": crypto.SHA256, "RS384": crypto.SHA384, "RS512": crypto.SHA512,
}

// verifyIndependently checks a proof's signature and claims with the standard library alone.
func verifyIndependently(t *testing.T, proof, method, token string, p *Proof) {
	t.Helper()
	parts := strings.Split(proof, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	var raw [3][]byte
	for i, part := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			t.Fatal(err)
		}
	}
	var header struct {
		Typ, Alg string
		JWK      map[string]any
	}
	var claims struct{ JTI, HTM, ATH string }
	if err := json.Unmarshal(raw[0], &header); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw[1], &claims); err != nil {
		t.Fatal(err)
	}
	if header.Typ != "dpop+jwt" || claims.HTM != method || claims.JTI != p.ID || header.JWK["d"] != nil {
		t.Errorf("header %+v, claims %+v", header, claims)
	}
	if token != "" && claims.ATH != thumbprint.OfToken(token).String() {
		t.Errorf("ath %q", claims.ATH)
	}
	if !signatureHolds(p.PublicKey, header.Alg, []byte(parts[0]+"."+parts[1]), raw[2]) {
		t.Error("the signature does not hold")
	}
}

func signatureHolds(key crypto.PublicKey, alg string, input, sig []byte) bool {
	if k, ok := key.(ed25519.PublicKey); ok {
		return alg == "EdDSA" && ed25519.Verify(k, input, sig)
	}
	h := hashes[alg].New()
	h.Write(input)
	digest := h.Sum(nil)
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		half := len(sig) / 2
		return ecdsa.Verify(k, digest, new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:]))
	case *rsa.PublicKey:
		return rsa.VerifyPSS(k, hashes[alg], digest, sig, nil) == nil
	}
	return false
}
