package authserver

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
)

// newSecret returns 256 random bits as text. Its 43 octets are key enough for HS256 (RFC 7518 section 3.2).
func newSecret() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// hashSecret is a plain SHA-256: a secret of 256 random bits needs no slow hash, and a slow one would let
// strangers keep the server busy.
func hashSecret(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// noHash stands in for the hash of a client that has none. No text that can be sent hashes to it.
var noHash = make([]byte, sha256.Size)

// secretMatches takes the same time whether or not there is a hash to compare with.
func secretMatches(hash []byte, secret string) bool {
	want := hash
	if len(want) != sha256.Size {
		want = noHash
	}
	return subtle.ConstantTimeCompare(want, hashSecret(secret)) == 1 && len(hash) == sha256.Size
}

// sealer encrypts the secrets that the server needs back.
type sealer struct{ aead cipher.AEAD }

func newSealer(dataKey []byte) (*sealer, error) {
	key, err := hkdf.Key(sha256.New, dataKey, nil, "pkid client secrets v1", 32)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of client secrets: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("making the cipher of client secrets: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("making the cipher of client secrets: %w", err)
	}
	return &sealer{aead}, nil
}

// seal binds the secret to its client: a sealed secret copied into another record does not open.
func (s *sealer) seal(clientID, secret string) []byte {
	return s.aead.Seal(nil, nil, []byte(secret), []byte(clientID))
}

func (s *sealer) open(clientID string, sealed []byte) ([]byte, error) {
	secret, err := s.aead.Open(nil, nil, sealed, []byte(clientID))
	if err != nil {
		return nil, fmt.Errorf("opening the secret of client %q: the data key is not the one it was sealed with: %w", clientID, err)
	}
	return secret, nil
}
