package tokenbind

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

// jws is a compact JWS taken apart (RFC 7515 section 7.1). Nothing in it is verified.
type jws struct {
	input     string // what was signed: header and payload as they were sent
	signature []byte
	header    map[string]any
	claims    map[string]any
	room      [64]byte // for the commonest signatures
}

var errCompact = errors.New("not a compact JWS of three parts in unpadded base64url")

// parseJWS takes a compact JWS apart whose header and payload are JSON objects. The caller bounds its length. A
// known header, in its encoded form, is left as it is; nil: none is known.
func parseJWS(compact string, known func(header string) bool) (*jws, error) {
	header, rest, _ := strings.Cut(compact, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	if signature == "" { // four parts are refused with the signature: a dot is no base64url
		return nil, errCompact
	}
	j := &jws{input: compact[:len(compact)-len(signature)-1]}
	var err error
	if known == nil || !known(header) {
		if j.header, err = decodePart(header); err != nil {
			return nil, fmt.Errorf("header: %w", err)
		}
	}
	if j.claims, err = decodePart(payload); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	j.signature, err = appendSegment(j.room[:0], signature)
	return j, err
}

func decodePart(segment string) (map[string]any, error) {
	var small [1 << 10]byte // on the stack; most parts fit
	raw, err := appendSegment(small[:0], segment)
	if err != nil {
		return nil, err
	}
	return decodeObject(raw)
}

// appendSegment decodes base64url, strictly where encoding/base64 is not: it would skip line breaks.
func appendSegment(to []byte, s string) ([]byte, error) {
	if strings.IndexByte(s, '\r') >= 0 || strings.IndexByte(s, '\n') >= 0 {
		return nil, errCompact
	}
	to, err := base64.RawURLEncoding.Strict().AppendDecode(to, []byte(s))
	if err != nil {
		return nil, errCompact
	}
	return to, nil
}

// algorithms are the signatures that are taken at all, with their hashes (RFC 7518 section 3.1, RFC 8037
// section 3.1).
var algorithms = map[string]crypto.Hash{
	"ES256": crypto.SHA256, "ES384": crypto.SHA384, "ES512": crypto.SHA512,
	"PS256": crypto.SHA256, "PS384": crypto.SHA384, "PS512": crypto.SHA512,
	"RS256": crypto.SHA256, "RS384": crypto.SHA384, "RS512": crypto.SHA512,
	"EdDSA": 0, // signs the message itself
}

// asymmetric keeps none and the MACs out, whatever a configuration says (RFC 8725 section 3.2).
func asymmetric(alg string) bool {
	_, known := algorithms[alg]
	return known
}

// sum256 is SHA-256 of a text, which most often is short enough to be hashed without a copy of it on the heap.
func sum256(s string) [sha256.Size]byte {
	var small [1 << 10]byte
	return sha256.Sum256(append(small[:0], s...))
}

// appendDigest appends what a signature is made over: the hash of the input, or for EdDSA the input.
func appendDigest(to []byte, alg, input string) []byte {
	switch algorithms[alg] {
	case crypto.SHA256:
		sum := sum256(input)
		return append(to, sum[:]...)
	case crypto.SHA384:
		sum := sha512.Sum384([]byte(input))
		return append(to, sum[:]...)
	case crypto.SHA512:
		sum := sha512.Sum512([]byte(input))
		return append(to, sum[:]...)
	default:
		return append(to, input...)
	}
}

var errSignature = errors.New("the signature does not hold")

// verify checks the signature with a key and the algorithm that the header must name. The key was checked by
// keyFits before.
func (j *jws) verify(alg string, key crypto.PublicKey) error {
	var room [sha512.Size]byte
	over := appendDigest(room[:0], alg, j.input)
	holds := false
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if half := (k.Curve.Params().BitSize + 7) / 8; len(j.signature) == 2*half { // RFC 7518 section 3.4
			holds = ecdsa.VerifyASN1(k, over, derSignature(j.signature[:half], j.signature[half:]))
		}
	case ed25519.PublicKey:
		holds = ed25519.Verify(k, over, j.signature)
	case *rsa.PublicKey:
		if strings.HasPrefix(alg, "PS") {
			holds = rsa.VerifyPSS(k, algorithms[alg], over, j.signature, saltOfHash) == nil
		} else {
			holds = rsa.VerifyPKCS1v15(k, algorithms[alg], over, j.signature) == nil
		}
	}
	if !holds {
		return errSignature
	}
	return nil
}

// saltOfHash is the one length of a salt that RFC 7518 section 3.5 allows.
var saltOfHash = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}

// derSignature writes the two numbers of an ECDSA signature as crypto/ecdsa wants them: an ASN.1 SEQUENCE of
// two INTEGERs, whose contents are shorter than 256 octets on every curve.
func derSignature(r, s []byte) []byte {
	der := make([]byte, 3, 3+2*3+len(r)+len(s))
	der = appendInteger(appendInteger(der, r), s)
	const long, sequence = 0x80, 0x30
	size := len(der) - 3
	if size < long {
		der[1], der[2] = sequence, byte(size)
		return der[1:]
	}
	der[0], der[1], der[2] = sequence, long|1, byte(size)
	return der
}

// appendInteger writes an unsigned number of less than 127 octets as a DER INTEGER.
func appendInteger(der, number []byte) []byte {
	for len(number) > 1 && number[0] == 0 {
		number = number[1:]
	}
	const integer = 2
	if number[0] >= 0x80 { // or it would be negative
		return append(append(der, integer, byte(len(number)+1), 0), number...)
	}
	return append(append(der, integer, byte(len(number))), number...)
}

// keyFits reports whether a public key is one for the algorithm, and within the bounds of RFC 7518 section 3
// and FAPI 2.0 section 5.4: the curve that the algorithm names, or RSA of 2048 to 4096 bits with an odd
// exponent that fits 31 bits, so that a key from a stranger cannot make verifying slow.
func keyFits(alg string, key crypto.PublicKey) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if suits, err := algorithmOf(k); err != nil || suits != alg {
			return fmt.Errorf("an ECDSA key is not one for %s, or not on its curve", alg)
		}
	case ed25519.PublicKey:
		if alg != "EdDSA" || len(k) != ed25519.PublicKeySize {
			return fmt.Errorf("an Ed25519 key of %d octets is not one for %s", len(k), alg)
		}
	case *rsa.PublicKey:
		if !strings.HasPrefix(alg, "PS") && !strings.HasPrefix(alg, "RS") {
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

// algorithmOf names the JWS algorithm for a key.
func algorithmOf(pub crypto.PublicKey) (string, error) {
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
