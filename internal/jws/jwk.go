package jws

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// privateMembers are the JWK members that a public key never has (RFC 7518 section 6, RFC 8037, RFC 9964).
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}

// PrivateMember names a private member of a JWK, if it has one.
func PrivateMember(jwk map[string]any) (string, bool) {
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

// PublicKey builds the key that a JWK describes (RFC 7518 section 6, RFC 8037 section 2). A point that is
// not on its curve, or a coordinate that is not of full length, is an error. Sizes of RSA keys are for
// KeyFits to judge; building one costs no more than reading it.
func PublicKey(jwk map[string]any) (crypto.PublicKey, error) {
	switch kty := jwk["kty"]; kty {
	case "EC":
		return ecKey(jwk)
	case "OKP":
		if jwk["crv"] != "Ed25519" {
			return nil, errors.New(`an OKP key must have crv "Ed25519"`)
		}
		x, err := appendMember(nil, jwk, "x")
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
		return nil, fmt.Errorf("kty must be EC, OKP or RSA, not %s", Show(kty))
	}
}

func ecKey(jwk map[string]any) (*ecdsa.PublicKey, error) {
	crv, _ := jwk["crv"].(string)
	c, known := curves[crv]
	if !known {
		return nil, fmt.Errorf("crv must be P-256, P-384 or P-521, not %s", Show(jwk["crv"]))
	}
	point := append(make([]byte, 0, 1+2*c.size), 4) // uncompressed (SEC 1 section 2.3.3)
	for _, name := range []string{"x", "y"} {
		before := len(point)
		var err error
		if point, err = appendMember(point, jwk, name); err != nil {
			return nil, err
		}
		if n := len(point) - before; n != c.size {
			return nil, fmt.Errorf("%s must have %d octets, not %d", name, c.size, n)
		}
	}
	key, err := ecdsa.ParseUncompressedPublicKey(c.curve, point)
	if err != nil {
		return nil, fmt.Errorf("the point is not on %s", crv)
	}
	return key, nil
}

func rsaKey(jwk map[string]any) (*rsa.PublicKey, error) {
	n, err := appendMember(nil, jwk, "n")
	if err != nil {
		return nil, err
	}
	e, err := appendMember(nil, jwk, "e")
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

// PublicJWK describes a public key (RFC 7518 section 6, RFC 8037 section 2); it is PublicKey the other way.
func PublicJWK(pub crypto.PublicKey) (map[string]string, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // uncompressed: 4, x, y
		if err != nil {
			return nil, err
		}
		half := len(point) / 2
		return map[string]string{"kty": "EC", "crv": k.Params().Name, "x": b64(point[1 : 1+half]), "y": b64(point[1+half:])}, nil
	case ed25519.PublicKey:
		return map[string]string{"kty": "OKP", "crv": "Ed25519", "x": b64(k)}, nil
	case *rsa.PublicKey:
		return map[string]string{"kty": "RSA", "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}, nil
	}
	return nil, fmt.Errorf("no JWK for a key of type %T", pub)
}

// appendMember decodes a base64url member.
func appendMember(to []byte, jwk map[string]any, name string) ([]byte, error) {
	s, ok := jwk[name].(string)
	if !ok {
		return nil, fmt.Errorf("%s must be a string, not %s", name, Show(jwk[name]))
	}
	to, err := AppendDecode(to, s)
	if err != nil {
		return nil, fmt.Errorf("%s must be unpadded base64url", name)
	}
	return to, nil
}

// Show renders a JSON value that a stranger sent, for a message.
func Show(v any) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case string:
		return fmt.Sprintf("%q", Short(v))
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

// Short bounds a text that a stranger sent before it is shown or logged.
func Short(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
