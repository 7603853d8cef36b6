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
	b64 := base64.RawURLEncoding.EncodeToString
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		crv, ok := curveNames[k.Curve]
		if !ok {
			return nil, fmt.Errorf("thumbprint: curve %T has no JWK name", k.Curve)
		}
		point, err := k.Bytes() // uncompressed: 0x04, x, y, each coordinate at full length
		if err != nil {
			return nil, fmt.Errorf("thumbprint: %w", err)
		}
		half := (len(point) - 1) / 2
		return fmt.Appendf(nil, `{"crv":%q,"kty":"EC","x":%q,"y":%q}`, crv, b64(point[1:1+half]), b64(point[1+half:])), nil
	case *rsa.PublicKey:
		if k.N == nil || k.N.Sign() <= 0 || k.E <= 0 {
			return nil, fmt.Errorf("thumbprint: RSA key without modulus or exponent")
		}
		e := big.NewInt(int64(k.E)).Bytes()
		return fmt.Appendf(nil, `{"e":%q,"kty":"RSA","n":%q}`, b64(e), b64(k.N.Bytes())), nil
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("thumbprint: Ed25519 key of %d octets", len(k))
		}
		return fmt.Appendf(nil, `{"crv":"Ed25519","kty":"OKP","x":%q}`, b64(k)), nil
	default:
		return nil, fmt.Errorf("thumbprint: no JWK thumbprint for %T", pub)
	}
}

var curveNames = map[elliptic.Curve]string{
	elliptic.P256(): "P-256",
	elliptic.P384(): "P-384",
	elliptic.P521(): "P-521",
}
