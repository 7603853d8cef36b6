// Package jws reads, verifies and makes compact JSON Web Signatures (RFC 7515), with the JSON and the keys (RFC 7517)
// that stand in them. It takes asymmetric signatures only, and one text for each value wherever there could be two.
package jws

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Token is a compact JWS taken apart (RFC 7515 section 7.1). Nothing in it is verified.
type Token struct {
	Input     string // what was signed: header and payload as they were sent
	Signature []byte
	Header    map[string]any
	Claims    map[string]any
	room      [64]byte // for the commonest signatures
}

var errCompact = errors.New("not a compact JWS of three parts in unpadded base64url")

// Parse takes a compact JWS apart whose header and payload are JSON objects. The caller bounds its length. A
// known header, in its encoded form, is left as it is; nil: none is known.
func Parse(compact string, known func(header string) bool) (*Token, error) {
	header, rest, _ := strings.Cut(compact, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	if signature == "" { // four parts are refused with the signature: a dot is no base64url
		return nil, errCompact
	}
	t := &Token{Input: compact[:len(compact)-len(signature)-1]}
	var err error
	if known == nil || !known(header) {
		if t.Header, err = decodePart(header); err != nil {
			return nil, fmt.Errorf("header: %w", err)
		}
	}
	if t.Claims, err = decodePart(payload); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	t.Signature, err = AppendDecode(t.room[:0], signature)
	return t, err
}

func decodePart(segment string) (map[string]any, error) {
	var small [1 << 10]byte // on the stack; most parts fit
	raw, err := AppendDecode(small[:0], segment)
	if err != nil {
		return nil, err
	}
	return DecodeObject(raw)
}

// AppendDecode decodes base64url, strictly where encoding/base64 is not: it would skip line breaks.
func AppendDecode(to []byte, s string) ([]byte, error) {
	if strings.IndexByte(s, '\r') >= 0 || strings.IndexByte(s, '\n') >= 0 {
		return nil, errCompact
	}
	to, err := base64.RawURLEncoding.Strict().AppendDecode(to, []byte(s))
	if err != nil {
		return nil, errCompact
	}
	return to, nil
}

// hashes are those of the signatures that are taken at all (RFC 7518 section 3.1, RFC 8037 section 3.1).
var hashes = map[string]crypto.Hash{
	"ES256": crypto.SHA256, "ES384": crypto.SHA384, "ES512": crypto.SHA512,
	"PS256": crypto.SHA256, "PS384": crypto.SHA384, "PS512": crypto.SHA512,
	"RS256": crypto.SHA256, "RS384": crypto.SHA384, "RS512": crypto.SHA512,
	"EdDSA": 0, // it signs the message itself
}

// Asymmetric keeps none and the MACs out, whatever a configuration says (RFC 8725 section 3.2).
func Asymmetric(alg string) bool {
	_, known := hashes[alg]
	return known
}

// Sum256 is SHA-256 of a text, which most often is short enough to be hashed without a copy of it on the heap.
func Sum256(s string) [sha256.Size]byte {
	var small [1 << 10]byte
	return sha256.Sum256(append(small[:0], s...))
}

// appendDigest appends the hash that a signature is made over.
func appendDigest(to []byte, alg string, input []byte) []byte {
	switch hashes[alg] {
	case crypto.SHA384:
		sum := sha512.Sum384(input)
		return append(to, sum[:]...)
	case crypto.SHA512:
		sum := sha512.Sum512(input)
		return append(to, sum[:]...)
	default:
		sum := sha256.Sum256(input)
		return append(to, sum[:]...)
	}
}

var errSignature = errors.New("the signature does not hold")

// Verify checks the signature with a key and the algorithm that the header must name. The key was checked by
// KeyFits before.
func (t *Token) Verify(alg string, key crypto.PublicKey) error {
	return Verify(alg, key, t.Input, t.Signature)
}

// Verify checks a signature with a key that was checked by KeyFits before.
func Verify(alg string, key crypto.PublicKey, input string, signature []byte) error {
	holds := false
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if half := octets(k.Curve); len(signature) == 2*half {
			var room [sha512.Size]byte
			holds = ecdsa.VerifyASN1(k, digest(room[:0], alg, input), toDER(signature[:half], signature[half:]))
		}
	case ed25519.PublicKey:
		holds = ed25519.Verify(k, []byte(input), signature)
	case *rsa.PublicKey:
		var room [sha512.Size]byte
		over := digest(room[:0], alg, input)
		if isPSS(alg) {
			holds = rsa.VerifyPSS(k, hashes[alg], over, signature, saltOfHash) == nil
		} else {
			holds = rsa.VerifyPKCS1v15(k, hashes[alg], over, signature) == nil
		}
	}
	if !holds {
		return errSignature
	}
	return nil
}

// digest is appendDigest for a text, which most often is short enough to be hashed without a copy of it on the heap.
func digest(to []byte, alg, input string) []byte {
	var small [1 << 10]byte
	return appendDigest(to, alg, append(small[:0], input...))
}

func isPSS(alg string) bool { return strings.HasPrefix(alg, "PS") }

// saltOfHash is the one length of a salt that RFC 7518 section 3.5 allows.
var saltOfHash = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}

// KeyFits reports whether a public key is one for the algorithm, and within the bounds of RFC 7518 section 3
// and FAPI 2.0 section 5.4: the curve that the algorithm names, or RSA of 2048 to 4096 bits with an odd
// exponent that fits 31 bits, so that a key from a stranger cannot make verifying slow.
func KeyFits(alg string, key crypto.PublicKey) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if suits, err := AlgorithmOf(k); err != nil || suits != alg {
			return fmt.Errorf("an ECDSA key is not one for %s, or not on its curve", alg)
		}
	case ed25519.PublicKey:
		if alg != "EdDSA" || len(k) != ed25519.PublicKeySize {
			return fmt.Errorf("an Ed25519 key of %d octets is not one for %s", len(k), alg)
		}
	case *rsa.PublicKey:
		if !isPSS(alg) && !strings.HasPrefix(alg, "RS") {
			return fmt.Errorf("an RSA key is not one for %s", alg)
		}
		if k.N == nil {
			return errors.New("an RSA key without modulus")
		}
		if n := k.N.BitLen(); n < 2048 || n > 4096 {
			return fmt.Errorf("an RSA key has 2048 to 4096 bits, this one %d", n)
		}
		if k.E < 3 || k.E%2 == 0 || k.E > 1<<31-1 {
			return errors.New("an RSA exponent is odd, at least 3, and fits 31 bits")
		}
	default:
		return fmt.Errorf("a key of type %T is not one for %s", key, alg)
	}
	return nil
}

// AlgorithmOf names the JWS algorithm for a key.
func AlgorithmOf(pub crypto.PublicKey) (string, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return "ES256", nil
		case elliptic.P384():
			return "ES384", nil
		case elliptic.P521():
			return "ES512", nil
		}
	case ed25519.PublicKey:
		return "EdDSA", nil
	case *rsa.PublicKey:
		return "PS256", nil
	}
	return "", fmt.Errorf("no JWS algorithm for a key of type %T", pub)
}
