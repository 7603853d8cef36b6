package authserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/pkid/pkid/internal/recent"
	"github.com/pkid/pkid/thumbprint"
)

// tokenType is the "typ" of access tokens (RFC 9068 section 2.1). It keeps any other JWT that one of the keys
// may have signed from passing for one.
const tokenType = "at+jwt"

const (
	// maxToken bounds the text of an access token, issued or asked about. It is what tokenbind.Verifier takes.
	maxToken = 16 << 10
	// verifiedTokens is how many tokens are known to be ours without another look at their signature. Longer ones
	// than maxVerified, which few resources and scopes make, are looked at each time, so that the memory is bounded.
	verifiedTokens = 16 << 10
	maxVerified    = 2 << 10
)

// SigningKey signs access tokens. Its key id is the RFC 7638 thumbprint.
type SigningKey struct {
	Key       crypto.Signer
	Algorithm string // ES256, EdDSA or PS256
}

// signingKeys signs with its first key and verifies with all. They never change; what they have verified is forgotten
// with them.
type signingKeys struct {
	set      []signingKey
	verified *recent.Cache[thumbprint.Token, *accessClaims] // by the hash of the whole token
}

// signingKey is a SigningKey that fits its algorithm.
type signingKey struct {
	jose.JSONWebKey // as it is published
	signer          crypto.Signer
	header          string // of its tokens, encoded, with the dot after it
}

func newSigningKeys(keys []SigningKey) (*signingKeys, error) {
	if len(keys) == 0 {
		return nil, errors.New("Keys is empty: a key to sign tokens with is required")
	}
	k := &signingKeys{verified: recent.New[thumbprint.Token, *accessClaims](verifiedTokens)}
	for i, key := range keys {
		jwk, err := key.public()
		if err != nil {
			return nil, fmt.Errorf("signing key %d: %w", i, err)
		}
		header := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"alg":%q,"kid":%q,"typ":%q}`, jwk.Algorithm, jwk.KeyID, tokenType)) + "."
		if _, found := k.find(header); found {
			return nil, fmt.Errorf("signing key %d: %s is there twice", i, jwk.KeyID)
		}
		k.set = append(k.set, signingKey{jwk, key.Key, header})
	}
	return k, nil
}

// public returns the key as it is published, after a look at whether it fits its algorithm.
func (k SigningKey) public() (jose.JSONWebKey, error) {
	if k.Key == nil {
		return jose.JSONWebKey{}, errors.New("Key is nil")
	}
	var fits bool
	switch pub := k.Key.Public().(type) {
	case *ecdsa.PublicKey:
		fits = k.Algorithm == string(jose.ES256) && pub.Curve == elliptic.P256()
	case ed25519.PublicKey:
		fits = k.Algorithm == string(jose.EdDSA)
	case *rsa.PublicKey:
		fits = k.Algorithm == string(jose.PS256) && pub.N.BitLen() >= minRSABits
	}
	if !fits {
		return jose.JSONWebKey{}, fmt.Errorf("%T does not go with %q; want ES256 with P-256, EdDSA with Ed25519, or PS256 with RSA of %d bits or more",
			k.Key.Public(), k.Algorithm, minRSABits)
	}
	kid, err := thumbprint.OfKey(k.Key.Public())
	if err != nil {
		return jose.JSONWebKey{}, err
	}
	return jose.JSONWebKey{Key: k.Key.Public(), KeyID: kid.String(), Algorithm: k.Algorithm, Use: "sig"}, nil
}

func (k *signingKeys) public() (set jose.JSONWebKeySet) {
	for _, key := range k.set {
		set.Keys = append(set.Keys, key.JSONWebKey)
	}
	return set
}

// find returns the key whose tokens begin as this one does.
func (k *signingKeys) find(token string) (*signingKey, bool) {
	for i := range k.set {
		if strings.HasPrefix(token, k.set[i].header) {
			return &k.set[i], true
		}
	}
	return nil, false
}

// sign appends a token (RFC 7515 section 7.1) to b.
func (k *signingKeys) sign(b []byte, claims *accessClaims) ([]byte, error) {
	key, start := &k.set[0], len(b)
	var room [1 << 10]byte // on the stack; most payloads fit
	payload := append(claims.appendMembers(append(room[:0], '{')), '}')
	b = base64.RawURLEncoding.AppendEncode(append(b, key.header...), payload)
	signature, err := key.sign(b[start:])
	if err != nil {
		return nil, fmt.Errorf("signing token: %w", err)
	}
	return base64.RawURLEncoding.AppendEncode(append(b, '.'), signature), nil
}

// saltOfHash is the one salt that RFC 7518 section 3.5 allows, where crypto/rsa would take the longest that fits.
var saltOfHash = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}

func (k *signingKey) sign(input []byte) ([]byte, error) {
	if k.Algorithm == string(jose.EdDSA) {
		return k.signer.Sign(rand.Reader, input, crypto.Hash(0))
	}
	digest := sha256.Sum256(input)
	if k.Algorithm == string(jose.PS256) {
		return k.signer.Sign(rand.Reader, digest[:], saltOfHash)
	}
	der, err := k.signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return joseSignature(der)
}

// p256Size is the length of a number of a P-256 signature in octets.
const p256Size = 32

// joseSignature turns an ECDSA signature of P-256 from what a crypto.Signer returns, an ASN.1 SEQUENCE of two INTEGERs,
// into the two numbers at full length (RFC 7518 section 3.4).
func joseSignature(der []byte) ([]byte, error) {
	const sequence, integer = 0x30, 0x02
	malformed := errors.New("the key made a malformed ECDSA signature")
	if len(der) < 2 || der[0] != sequence || int(der[1]) != len(der)-2 { // which is below 128, so this is its only form
		return nil, malformed
	}
	raw, rest := make([]byte, 2*p256Size), der[2:]
	for half := raw; len(half) > 0; half = half[p256Size:] {
		if len(rest) < 3 || rest[0] != integer || rest[1] == 0 || int(rest[1]) > len(rest)-2 {
			return nil, malformed
		}
		number := rest[2 : 2+rest[1]]
		rest = rest[2+rest[1]:]
		negative := number[0] >= 0x80
		if number[0] == 0 {
			number = number[1:]
		}
		if negative || len(number) > p256Size {
			return nil, malformed
		}
		copy(half[p256Size-len(number):], number)
	}
	if len(rest) > 0 {
		return nil, malformed
	}
	return raw, nil
}

// verify returns the claims of a token that one of the keys signed as an access token, and nil for any other text. It
// says nothing of what may change while the token lives: its time, its client, what was revoked.
func (k *signingKeys) verify(token string) *accessClaims {
	if len(token) > maxToken {
		return nil
	}
	if len(token) > maxVerified {
		return k.read(token)
	}
	id := thumbprint.OfToken(token)
	claims, known := k.verified.Get(id)
	if known {
		return claims
	}
	if claims = k.read(token); claims != nil {
		k.verified.Put(id, claims)
	}
	return claims
}

// read verifies a token and reads its claims. Its header must be the very text that we begin a key's tokens with, so
// that there is nothing in it to read.
func (k *signingKeys) read(token string) *accessClaims {
	key, found := k.find(token)
	if !found {
		return nil
	}
	signed := strings.LastIndexByte(token, '.') // the header's dot, at least
	signature, err := decodeBase64URL(token[signed+1:])
	if err != nil || signed < len(key.header) || !key.verifies([]byte(token[:signed]), signature) {
		return nil
	}
	payload, err := decodeBase64URL(token[len(key.header):signed])
	if err != nil {
		return nil
	}
	claims, err := readClaims(payload)
	if err != nil {
		return nil
	}
	return claims
}

// decodeBase64URL decodes base64url, strictly where encoding/base64 is not: it would skip line breaks.
func decodeBase64URL(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("a line break in base64url")
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

func (k *signingKey) verifies(input, signature []byte) bool {
	digest := sha256.Sum256(input)
	switch pub := k.Key.(type) {
	case *ecdsa.PublicKey:
		return len(signature) == 2*p256Size &&
			ecdsa.Verify(pub, digest[:], new(big.Int).SetBytes(signature[:p256Size]), new(big.Int).SetBytes(signature[p256Size:]))
	case ed25519.PublicKey:
		return ed25519.Verify(pub, input, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPSS(pub, crypto.SHA256, digest[:], signature, saltOfHash) == nil
	}
	return false
}
