package tokenbind

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"
	"github.com/go-jose/go-jose/v4/json"
)

// This file alone knows the JOSE library.

// jws is a compact JWS taken apart (RFC 7515 section 7.1). Nothing in it is verified.
type jws struct {
	compact string
	header  map[string]any
	claims  map[string]any
}

var errCompact = errors.New("not a compact JWS of three parts in unpadded base64url")

// parseJWS takes a compact JWS apart whose header and payload are JSON objects. The caller bounds its length.
func parseJWS(compact string) (*jws, error) {
	parts := strings.Split(compact, ".")
	if len(parts) != 3 || parts[2] == "" {
		return nil, errCompact
	}
	j := &jws{compact: compact}
	for i, to := range []*map[string]any{&j.header, &j.claims} {
		raw, err := decodeSegment(parts[i])
		if err != nil {
			return nil, err
		}
		if *to, err = decodeObject(raw); err != nil {
			return nil, fmt.Errorf("%s: %w", [...]string{"header", "payload"}[i], err)
		}
	}
	if _, err := decodeSegment(parts[2]); err != nil {
		return nil, err
	}
	return j, nil
}

// decodeSegment is strict where encoding/base64 is not: it would skip line breaks.
func decodeSegment(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errCompact
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, errCompact
	}
	return raw, nil
}

// decodeObject reads a JSON object. The library's decoder tells members apart by case and refuses a member
// that stands twice, at every depth, so that no two readers can see different values (RFC 7515 section 4).
func decodeObject(raw []byte) (map[string]any, error) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	o, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not a JSON object")
	}
	return o, nil
}

// verify checks the signature with a key and the algorithm that the header must name. The key was checked by
// keyFits before.
func (j *jws) verify(alg string, key crypto.PublicKey) error {
	parsed, err := jose.ParseSignedCompact(j.compact, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
	if err != nil {
		return err
	}
	_, err = parsed.Verify(key)
	return err
}

// keyFits reports whether a public key is one for the algorithm, and within the bounds of RFC 7518 section 3
// and FAPI 2.0 section 5.4: the curve that the algorithm names, or RSA of 2048 to 4096 bits with an odd
// exponent that fits 31 bits, so that a key from a stranger cannot make verifying slow.
func keyFits(alg string, key crypto.PublicKey) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if suits, err := algorithmOf(k); err != nil || suits != alg {
			return fmt.Errorf("a key on %s is not one for %s", k.Curve.Params().Name, alg)
		}
	case ed25519.PublicKey:
		if alg != "EdDSA" {
			return fmt.Errorf("an Ed25519 key is not one for %s", alg)
		}
	case *rsa.PublicKey:
		if !strings.HasPrefix(alg, "PS") && !strings.HasPrefix(alg, "RS") {
			return fmt.Errorf("an RSA key is not one for %s", alg)
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

// signer signs compact JWSs with one key.
type signer struct {
	jose jose.Signer
}

// newSigner signs with the algorithm that suits the key. The header has typ, alg and the public key as jwk.
func newSigner(key crypto.Signer, typ string) (*signer, error) {
	alg, err := algorithmOf(key.Public())
	if err != nil {
		return nil, err
	}
	if err := keyFits(alg, key.Public()); err != nil {
		return nil, err
	}
	if _, isRSA := key.Public().(*rsa.PublicKey); isRSA {
		key = pssSigner{key}
	}
	opts := (&jose.SignerOptions{EmbedJWK: true}).WithType(jose.ContentType(typ))
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: cryptosigner.Opaque(key)}, opts)
	if err != nil {
		return nil, err
	}
	return &signer{s}, nil
}

func (s *signer) sign(claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	obj, err := s.jose.Sign(payload)
	if err != nil {
		return "", err
	}
	return obj.CompactSerialize()
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

// pssSigner makes the salt as long as the digest, as RFC 7518 section 3.5 demands; the library asks for the
// longest that fits, which other verifiers refuse.
type pssSigner struct{ crypto.Signer }

func (s pssSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: opts.HashFunc()}
	return s.Signer.Sign(random, digest, pss)
}
