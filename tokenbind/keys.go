package tokenbind

import (
	"context"
	"crypto"
	"errors"
	"fmt"

	"github.com/pkid/pkid/internal/jws"
)

// VerificationKey is a public key of an issuer, with what its JWK says of it (RFC 7517 section 4).
type VerificationKey struct {
	ID        string // kid; may be empty
	Algorithm string // alg; empty: any that suits the key
	Use       string // use; empty or "sig"
	Key       crypto.PublicKey
}

// KeySource knows an issuer's keys. It is safe for concurrent use.
type KeySource interface {
	// Keys returns the keys that a token with this kid (empty: without one) may be signed with, none if the
	// kid is not known. An error means that the keys cannot be had at the moment. A Verifier asks on every
	// request and does not change what it gets; a token that it knows ends when its key is no more among them.
	Keys(ctx context.Context, kid string) ([]VerificationKey, error)
}

// StaticKeys is a KeySource that never changes.
type StaticKeys []VerificationKey

// Keys returns those with the kid and those without any; all, if kid is empty. They are read-only.
func (s StaticKeys) Keys(_ context.Context, kid string) ([]VerificationKey, error) {
	fits := func(k *VerificationKey) bool { return kid == "" || k.ID == "" || k.ID == kid }
	start := 0
	for start < len(s) && !fits(&s[start]) {
		start++
	}
	end := start
	for end < len(s) && fits(&s[end]) {
		end++
	}
	found := s[start:end:end] // most often all there are, and then nothing is copied
	for i := end; i < len(s); i++ {
		if fits(&s[i]) {
			found = append(found, s[i])
		}
	}
	return found, nil
}

// maxKeys bounds a JWK set, and with it the signatures that are tried for one token.
const maxKeys = 32

// ParseJWKS reads a JWK set (RFC 7517 section 5). Keys that are of no use here are left out: those of other
// types, those for encryption, symmetric and private ones. A set in which none is left is an error.
func ParseJWKS(data []byte) (StaticKeys, error) {
	set, err := jws.DecodeObject(data)
	if err != nil {
		return nil, fmt.Errorf("reading a JWK set: %w", err)
	}
	list, ok := set["keys"].([]any)
	if !ok {
		return nil, errors.New("reading a JWK set: no array of keys")
	}
	if len(list) > maxKeys {
		return nil, fmt.Errorf("reading a JWK set: %d keys, at most %d are taken", len(list), maxKeys)
	}
	var keys StaticKeys
	for _, item := range list {
		if k, ok := verificationKey(item); ok {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("reading a JWK set: no key that can verify a signature")
	}
	return keys, nil
}

func verificationKey(item any) (VerificationKey, bool) {
	jwk, ok := item.(map[string]any)
	if !ok {
		return VerificationKey{}, false
	}
	if _, private := jws.PrivateMember(jwk); private {
		return VerificationKey{}, false
	}
	var k VerificationKey
	for name, to := range map[string]*string{"kid": &k.ID, "alg": &k.Algorithm, "use": &k.Use} {
		if v, found := jwk[name]; found {
			if *to, ok = v.(string); !ok {
				return VerificationKey{}, false
			}
		}
	}
	if k.Use != "" && k.Use != "sig" {
		return VerificationKey{}, false
	}
	var err error
	if k.Key, err = jws.PublicKey(jwk); err != nil {
		return VerificationKey{}, false
	}
	return k, true
}

// usable reports whether a key suits the algorithm by its use, alg and type, which tells apart keys that share
// a kid (FAPI 2.0 section 5.4.3).
func (k *VerificationKey) usable(alg string) bool {
	return (k.Use == "" || k.Use == "sig") && (k.Algorithm == "" || k.Algorithm == alg) && jws.KeyFits(alg, k.Key) == nil
}
