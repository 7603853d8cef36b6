package authserver

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/internal/recent"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
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
	set          []signingKey
	jwks         []byte                                         // what is published of them
	verification tokenbind.StaticKeys                           // the same
	verified     *recent.Cache[thumbprint.Token, *accessClaims] // by the hash of the whole token
}

// signingKey is a SigningKey that fits its algorithm.
type signingKey struct {
	id, alg string
	key     crypto.Signer
	public  crypto.PublicKey
	header  string // of its tokens, encoded, with the dot after it
}

func newSigningKeys(keys []SigningKey) (*signingKeys, error) {
	if len(keys) == 0 {
		return nil, errors.New("Keys is empty: a key to sign tokens with is required")
	}
	k := &signingKeys{verified: recent.New[thumbprint.Token, *accessClaims](verifiedTokens)}
	for i, key := range keys {
		own, err := newSigningKey(key)
		if err != nil {
			return nil, fmt.Errorf("signing key %d: %w", i, err)
		}
		if _, found := k.find(own.header); found {
			return nil, fmt.Errorf("signing key %d: %s is there twice", i, own.id)
		}
		k.set = append(k.set, own)
		k.verification = append(k.verification, tokenbind.VerificationKey{ID: own.id, Algorithm: own.alg, Use: "sig", Key: own.public})
	}
	var err error
	if k.jwks, err = k.publish(); err != nil {
		return nil, fmt.Errorf("encoding the key set: %w", err)
	}
	return k, nil
}

// SetKeys says which keys sign, the first one, and are published from now on. A token of a key that is not among them
// is not ours any more. If they are the ones that are set already, nothing changes.
func (s *Server) SetKeys(keys []SigningKey) error {
	next, err := newSigningKeys(keys)
	if err != nil {
		return fmt.Errorf("authserver: %w", err)
	}
	if now := s.keys.Load(); now != nil && bytes.Equal(now.jwks, next.jwks) { // in their order
		return nil
	}
	s.keys.Store(next)
	return nil
}

func newSigningKey(k SigningKey) (signingKey, error) {
	if k.Key == nil {
		return signingKey{}, errors.New("Key is nil")
	}
	public := k.Key.Public()
	if !slices.Contains([]string{"ES256", "EdDSA", "PS256"}, k.Algorithm) || jws.KeyFits(k.Algorithm, public) != nil {
		return signingKey{}, fmt.Errorf("%T does not go with %q; want ES256 with P-256, EdDSA with Ed25519, or PS256 with RSA of 2048 to 4096 bits",
			public, k.Algorithm)
	}
	kid, err := thumbprint.OfKey(public)
	if err != nil {
		return signingKey{}, err
	}
	header := fmt.Appendf(nil, `{"alg":%q,"kid":%q,"typ":%q}`, k.Algorithm, kid, tokenType)
	return signingKey{kid.String(), k.Algorithm, k.Key, public, base64.RawURLEncoding.EncodeToString(header) + "."}, nil
}

// publish returns the keys as a JWK set (RFC 7517 section 5).
func (k *signingKeys) publish() ([]byte, error) {
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	for _, key := range k.set {
		jwk, err := jws.PublicJWK(key.public)
		if err != nil {
			return nil, err
		}
		jwk["kid"], jwk["alg"], jwk["use"] = key.id, key.alg, "sig"
		set.Keys = append(set.Keys, jwk)
	}
	return json.Marshal(set)
}

// Keys returns those of our keys that have the id, or all for an empty one. It makes the Server the KeySource of a
// verifier in the same process.
func (s *Server) Keys(ctx context.Context, kid string) ([]tokenbind.VerificationKey, error) {
	return s.keys.Load().verification.Keys(ctx, kid)
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
	signature, err := jws.Sign(key.key, key.alg, b[start:])
	if err != nil {
		return nil, fmt.Errorf("signing token: %w", err)
	}
	return base64.RawURLEncoding.AppendEncode(append(b, '.'), signature), nil
}

// verify returns the claims of a token that one of the keys signed as an access token, and nil for any other text. It
// says nothing of what may change while the token lives: its time, its client, what was revoked. So what a node
// remembers of a token is right whatever the others do, and active asks the store for the rest each time.
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
	signature, err := jws.AppendDecode(nil, token[signed+1:])
	if err != nil || signed < len(key.header) || jws.Verify(key.alg, key.public, token[:signed], signature) != nil {
		return nil
	}
	payload, err := jws.AppendDecode(nil, token[len(key.header):signed])
	if err != nil {
		return nil
	}
	claims, err := readClaims(payload)
	if err != nil {
		return nil
	}
	return claims
}
