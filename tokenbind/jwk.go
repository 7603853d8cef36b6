package tokenbind

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
)

// privateMembers are the JWK members that a public key never has (RFC 7518 section 6, RFC 8037, RFC 9964).
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}

// privateMember names a private member of a JWK, if it has one.
func privateMember(jwk map[string]any) (string, bool) {
	for _, m := range privateMembers {
		if _, found := jwk[m]; found {
			return m, true
		}
	}
	return "", false
}

// curves of RFC 7518 section 6.2.1.1, with the length of a coordinate in octets.
var curves = map[string]struct {
	curve elliptic.Curve
	size  int
}{
	"P-256": {elliptic.P256(), 32},
	"P-384": {elliptic.P384(), 48},
	"P-521": {elliptic.P521(), 66},
}

// publicKey builds the key that a JWK describes (RFC 7518 section 6, RFC 8037 section 2). A point that is
// not on its curve, or a coordinate that is not of full length, is an error. Sizes of RSA keys are for
// keyFits to judge; building one costs no more than reading it.
func publicKey(jwk map[string]any) (crypto.PublicKey, error) {
	switch kty := jwk["kty"]; kty {
	case "EC":
		return ecKey(jwk)
	case "OKP":
		if jwk["crv"] != "Ed25519" {
			return nil, errors.New(`an OKP key must have crv "Ed25519"`)
		}
		x, err := member(jwk, "x")
		if err != nil {
			return nil, err
		}
		if len(x) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("an Ed25519 key has 32 octets, this one %d", len(x))
		}
		return ed25519.PublicKey(x), nil
	case "RSA":
		return rsaKey(jwk)
	default:
		return nil, fmt.Errorf("kty must be EC, OKP or RSA, not %s", show(kty))
	}
}

func ecKey(jwk map[string]any) (*ecdsa.PublicKey, error) {
	crv, _ := jwk["crv"].(string)
	c, known := curves[crv]
	if !known {
		return nil, fmt.Errorf("crv must be P-256, P-384 or P-521, not %s", show(jwk["crv"]))
	}
	point := []byte{4} // uncompressed (SEC 1 section 2.3.3)
	for _, name := range []string{"x", "y"} {
		v, err := member(jwk, name)
		if err != nil {
			return nil, err
		}
		if len(v) != c.size {
			return nil, fmt.Errorf("%s must have %d octets, not %d", name, c.size, len(v))
		}
		point = append(point, v...)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(c.curve, point)
	if err != nil {
		return nil, fmt.Errorf("the point is not on %s", crv)
	}
	return key, nil
}

func rsaKey(jwk map[string]any) (*rsa.PublicKey, error) {
	n, err := member(jwk, "n")
	if err != nil {
		return nil, err
	}
	e, err := member(jwk, "e")
	if err != nil {
		return nil, err
	}
	if len(n) == 0 || n[0] == 0 || len(e) == 0 || e[0] == 0 || len(e) > 4 {
		return nil, errors.New("n and e must have no leading zeros (RFC 7518 section 2), and e at most 4 octets")
	}
	exponent := new(big.Int).SetBytes(e).Int64()
	if exponent > 1<<31-1 {
		return nil, errors.New("an RSA exponent must fit 31 bits")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent)}, nil
}

// member decodes a base64url member.
func member(jwk map[string]any, name string) ([]byte, error) {
	s, ok := jwk[name].(string)
	if !ok {
		return nil, fmt.Errorf("%s must be a string, not %s", name, show(jwk[name]))
	}
	raw, err := decodeSegment(s)
	if err != nil {
		return nil, fmt.Errorf("%s must be unpadded base64url", name)
	}
	return raw, nil
}

// show renders a JSON value that a stranger sent, for a message.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case string:
		return fmt.Sprintf("%q", short(v))
	case bool, float64:
		return fmt.Sprint(v)
	case []any:
		return "an array"
	case map[string]any:
		return "an object"
	default:
		return fmt.Sprintf("%T", v)
	}
}
