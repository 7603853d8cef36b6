package authserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

// tokenType is the "typ" of access tokens (RFC 9068 section 2.1). It keeps any other JWT that one of the keys
// may have signed from passing for one.
const tokenType = "at+jwt"

// maxToken bounds the text of an access token, issued or asked about. It is what tokenbind.Verifier takes.
const maxToken = 16 << 10

// SigningKey signs access tokens. Its key id is the RFC 7638 thumbprint.
type SigningKey struct {
	Key       crypto.Signer
	Algorithm string // ES256, EdDSA or PS256
}

// accessClaims are the claims of an access token (RFC 9068 section 2.2, RFC 8705 section 3.1, RFC 9449
// section 6.1).
type accessClaims struct {
	jwt.Claims
	ClientID     string                 `json:"client_id"`
	Scope        string                 `json:"scope,omitempty"`
	Confirmation tokenbind.Confirmation `json:"cnf,omitzero"`
}

// signingKeys signs with its first key and verifies with all.
type signingKeys struct {
	signer jose.Signer
	set    []jose.JSONWebKey // public
}

func newSigningKeys(keys []SigningKey) (*signingKeys, error) {
	if len(keys) == 0 {
		return nil, errors.New("Keys is empty: a key to sign tokens with is required")
	}
	k := &signingKeys{}
	for i, key := range keys {
		jwk, err := key.public()
		if err != nil {
			return nil, fmt.Errorf("signing key %d: %w", i, err)
		}
		if _, found := k.find(jwk.KeyID); found {
			return nil, fmt.Errorf("signing key %d: %s is there twice", i, jwk.KeyID)
		}
		k.set = append(k.set, jwk)
	}
	first := jose.SigningKey{
		Algorithm: jose.SignatureAlgorithm(keys[0].Algorithm),
		Key:       jose.JSONWebKey{Key: cryptosigner.Opaque(jwsSigner{keys[0].Key}), KeyID: k.set[0].KeyID},
	}
	signer, err := jose.NewSigner(first, (&jose.SignerOptions{}).WithType(tokenType))
	if err != nil {
		return nil, fmt.Errorf("signing key 0: %w", err)
	}
	k.signer = signer
	return k, nil
}

// jwsSigner makes PSS signatures with a salt as long as the hash (RFC 7518 section 3.5), where cryptosigner
// asks for the longest salt that fits, which other implementations refuse.
type jwsSigner struct{ crypto.Signer }

func (s jwsSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if pss, ok := opts.(*rsa.PSSOptions); ok {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: pss.Hash}
	}
	return s.Signer.Sign(random, digest, opts)
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

func (k *signingKeys) public() jose.JSONWebKeySet { return jose.JSONWebKeySet{Keys: k.set} }

func (k *signingKeys) find(kid string) (jose.JSONWebKey, bool) {
	for _, key := range k.set {
		if key.KeyID == kid {
			return key, true
		}
	}
	return jose.JSONWebKey{}, false
}

func (k *signingKeys) sign(claims *accessClaims) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding claims: %w", err)
	}
	signed, err := k.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing token: %w", err)
	}
	return signed.CompactSerialize()
}

// verify returns the claims of a token that one of the keys signed as an access token, and nil for any other
// text. It says nothing of their times.
func (k *signingKeys) verify(token string) *accessClaims {
	if len(token) > maxToken {
		return nil
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA, jose.PS256})
	if err != nil {
		return nil
	}
	header := signed.Signatures[0].Header
	key, found := k.find(header.KeyID)
	if !found || header.Algorithm != key.Algorithm || header.ExtraHeaders[jose.HeaderType] != tokenType {
		return nil
	}
	payload, err := signed.Verify(key.Key)
	if err != nil {
		return nil
	}
	claims := new(accessClaims)
	if json.Unmarshal(payload, claims) != nil {
		return nil
	}
	return claims
}
