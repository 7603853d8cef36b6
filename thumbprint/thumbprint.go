// Package thumbprint holds the three digests that bind a token to a key, as distinct types, so that one can
// never be compared with another by mistake:
//
//   - Cert: "x5t#S256", SHA-256 of a certificate's DER encoding (RFC 8705 section 3.1)
//   - Key: "jkt", SHA-256 of a public key's canonical JWK (RFC 7638, RFC 9449 section 6.1)
//   - Token: "ath", SHA-256 of an access token's ASCII form (RFC 9449 section 4.2)
//
// All are 32 octets, compared in constant time. Their zero values equal nothing, themselves included, so a
// confirmation that was never filled in cannot match. Their text form is unpadded base64url, exactly 43
// characters; any other spelling of the same octets is refused.
package thumbprint

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
)

// Size is the length of every digest in octets.
const Size = sha256.Size

// textLen is the length of the unpadded base64url text of Size octets.
const textLen = 43

// ErrText reports a text that is not the unpadded base64url form of 32 octets.
var ErrText = errors.New("thumbprint: want 43 characters of unpadded base64url")

// Cert is the "x5t#S256" of a certificate: SHA-256 of its DER encoding (RFC 8705 section 3.1).
type Cert [Size]byte

// Key is the "jkt" of a public key: the SHA-256 JWK thumbprint (RFC 7638, RFC 9449 section 6.1).
type Key [Size]byte

// Token is the "ath" of an access token: SHA-256 of its ASCII form (RFC 9449 section 4.2).
type Token [Size]byte

// OfCertificate returns the thumbprint of c. It hashes what was parsed, so a certificate of any version,
// expired or not, has one.
func OfCertificate(c *x509.Certificate) Cert { return sha256.Sum256(c.Raw) }

// OfDER returns the thumbprint of a certificate in its DER encoding.
func OfDER(der []byte) Cert { return sha256.Sum256(der) }

// OfToken returns the hash of an access token as sent, without its scheme.
func OfToken(token string) Token { return sha256.Sum256([]byte(token)) }

// ParseCert reads the text form of a Cert. The error is ErrText.
func ParseCert(s string) (Cert, error) { return parse[Cert](s) }

// ParseKey reads the text form of a Key. The error is ErrText.
func ParseKey(s string) (Key, error) { return parse[Key](s) }

// ParseToken reads the text form of a Token. The error is ErrText.
func ParseToken(s string) (Token, error) { return parse[Token](s) }

// Equal reports in constant time whether both are the same thumbprint. The zero value equals nothing.
func (t Cert) Equal(u Cert) bool { return equal(t, u) }

// Equal reports in constant time whether both are the same thumbprint. The zero value equals nothing.
func (t Key) Equal(u Key) bool { return equal(t, u) }

// Equal reports in constant time whether both are the same hash. The zero value equals nothing.
func (t Token) Equal(u Token) bool { return equal(t, u) }

// IsZero reports whether t was never set.
func (t Cert) IsZero() bool { return t == Cert{} }

// IsZero reports whether t was never set.
func (t Key) IsZero() bool { return t == Key{} }

// IsZero reports whether t was never set.
func (t Token) IsZero() bool { return t == Token{} }

func (t Cert) String() string  { return base64.RawURLEncoding.EncodeToString(t[:]) }
func (t Key) String() string   { return base64.RawURLEncoding.EncodeToString(t[:]) }
func (t Token) String() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

// MarshalText writes the text form.
func (t Cert) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalText writes the text form.
func (t Key) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalText writes the text form.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the text form. The error is ErrText.
func (t *Cert) UnmarshalText(b []byte) error { return unmarshal(t, b) }

// UnmarshalText reads the text form. The error is ErrText.
func (t *Key) UnmarshalText(b []byte) error { return unmarshal(t, b) }

// UnmarshalText reads the text form. The error is ErrText.
func (t *Token) UnmarshalText(b []byte) error { return unmarshal(t, b) }

func equal[T ~[Size]byte](t, u T) bool {
	var zero T
	a, b, z := [Size]byte(t), [Size]byte(u), [Size]byte(zero)
	same := subtle.ConstantTimeCompare(a[:], b[:])
	set := 1 - subtle.ConstantTimeCompare(a[:], z[:])
	return same&set == 1
}

func unmarshal[T ~[Size]byte](t *T, b []byte) error {
	v, err := parse[T](string(b))
	if err != nil {
		return err
	}
	*t = v
	return nil
}

// parse accepts the one canonical spelling only: no padding, no line breaks (which encoding/base64 skips
// unless the length is checked), no standard alphabet, no stray bits in the last character.
func parse[T ~[Size]byte](s string) (T, error) {
	var out [Size]byte
	if len(s) != textLen {
		return T{}, fmt.Errorf("%w, got %d", ErrText, len(s))
	}
	n, err := base64.RawURLEncoding.Strict().Decode(out[:], []byte(s))
	if err != nil || n != Size {
		return T{}, ErrText
	}
	return T(out), nil
}
