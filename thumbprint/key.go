package thumbprint

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
)

// OfKey returns the JWK thumbprint of a public key (RFC 7638 section 3.1; RFC 8037 section 2 for Ed25519).
// It knows *ecdsa.PublicKey on P-256, P-384 and P-521, *rsa.PublicKey and ed25519.PublicKey; any other key
// is an error.
func OfKey(pub crypto.PublicKey) (Key, error) {
	canonical, err := canonicalJWK(pub)
	if err != nil {
		return Key{}, err
	}
	return sha256.Sum256(canonical), nil
}

// canonicalJWK writes the required members of the key's JWK in lexicographic order without white space
// (RFC 7638 section 3.3). The values are base64url or fixed names, so nothing needs escaping.
func canonicalJWK(pub crypto.PublicKey) ([]byte, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		head, ok := curveHeads[k.Curve]
		if !ok {
			return nil, fmt.Errorf("thumbprint: curve %T has no JWK name", k.Curve)
		}
		point, err := k.Bytes() // uncompressed: 0x04, x, y, each coordinate at full length
		if err != nil {
			return nil, fmt.Errorf("thumbprint: %w", err)
		}
		half := len(point) / 2
		return jwk(head, point[1:1+half], `","y":"`, point[1+half:], `"}`), nil
	case *rsa.PublicKey:
		if k.N == nil || k.N.Sign() <= 0 || k.E <= 0 {
			return nil, fmt.Errorf("thumbprint: RSA key without modulus or exponent")
		}
		return jwk(`{"e":"`, big.NewInt(int64(k.E)).Bytes(), `","kty":"RSA","n":"`, k.N.Bytes(), `"}`), nil
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("thumbprint: Ed25519 key of %d octets", len(k))
		}
		return jwk(`{"crv":"Ed25519","kty":"OKP","x":"`, k, `"}`, nil, ""), nil
	default:
		return nil, fmt.Errorf("thumbprint: no JWK thumbprint for %T", pub)
	}
}

// jwk joins the fixed parts of a JWK with two values in base64url.
func jwk(head string, a []byte, middle string, b []byte, tail string) []byte {
	const fixed = 64 // more than the fixed parts of any key
	out := make([]byte, 0, fixed+base64.RawURLEncoding.EncodedLen(len(a))+base64.RawURLEncoding.EncodedLen(len(b)))
	out = base64.RawURLEncoding.AppendEncode(append(out, head...), a)
	out = base64.RawURLEncoding.AppendEncode(append(out, middle...), b)
	return append(out, tail...)
}

// curveHeads begin the JWK of an EC key.
var curveHeads = map[elliptic.Curve]string{
	elliptic.P256(): `{"crv":"P-256","kty":"EC","x":"`,
	elliptic.P384(): `{"crv":"P-384","kty":"EC","x":"`,
	elliptic.P521(): `{"crv":"P-521","kty":"EC","x":"`,
}
