package tokenbind

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Nonces makes and knows the nonces of RFC 9449 sections 8 and 9 without remembering any: a nonce is a MAC
// over the current stretch of time, so all nodes that share the key agree. One is valid for at least the
// lifetime and for less than twice that.
type Nonces struct {
	key      []byte
	purpose  string
	lifetime time.Duration
	now      func() time.Time
}

// NewNonces takes a key of 32 random octets. Nonces of one purpose are not valid for another, so that those
// of a token endpoint and of a resource server stay apart though they share a key. The lifetime is a second
// at least. A nil now is time.Now.
func NewNonces(key []byte, purpose string, lifetime time.Duration, now func() time.Time) (*Nonces, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("a nonce key has 32 octets, this one %d", len(key))
	}
	if purpose == "" {
		return nil, errors.New("nonces need a purpose")
	}
	if lifetime < time.Second {
		return nil, fmt.Errorf("a nonce must live a second at least, not %v", lifetime)
	}
	if now == nil {
		now = time.Now
	}
	return &Nonces{append([]byte(nil), key...), purpose, lifetime, now}, nil
}

// Current returns the nonce to hand out now: 43 characters of base64url, which are NQCHAR (RFC 9449
// section 8.1).
func (n *Nonces) Current() string { return n.at(n.bucket()) }

// Valid reports, in constant time, whether a nonce is the current one or the one before.
func (n *Nonces) Valid(nonce string) bool {
	b := n.bucket()
	current := hmac.Equal([]byte(nonce), []byte(n.at(b)))
	before := hmac.Equal([]byte(nonce), []byte(n.at(b-1)))
	return current || before
}

func (n *Nonces) bucket() int64 { return n.now().UnixNano() / int64(n.lifetime) }

func (n *Nonces) at(bucket int64) string {
	mac := hmac.New(sha256.New, n.key)
	mac.Write([]byte("pkid DPoP nonce\x00" + n.purpose + "\x00"))
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(bucket)))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
