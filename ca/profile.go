package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/bits"
	"slices"
	"time"
)

// NamePolicy decides which names a profile may certify. It has at least one permitted rule: a policy that
// permits everything by having no rule cannot be built. The error says which name was refused and why.
type NamePolicy interface {
	Check(Names) error
}

// KeyType names an algorithm and size: "P-256", "P-384", "P-521", "Ed25519", "RSA-2048", "RSA-3072", "RSA-4096".
type KeyType string

// The key types that pkid knows. RSA keys of other sizes from 2048 to 4096 count as the next lower type.
const (
	P256    KeyType = "P-256"
	P384    KeyType = "P-384"
	P521    KeyType = "P-521"
	Ed25519 KeyType = "Ed25519"
	RSA2048 KeyType = "RSA-2048"
	RSA3072 KeyType = "RSA-3072"
	RSA4096 KeyType = "RSA-4096"
)

// KeyTypes are all of them.
var KeyTypes = []KeyType{P256, P384, P521, Ed25519, RSA2048, RSA3072, RSA4096}

// KeyTypeOf classifies a public key. The error is ErrKey: an unknown kind, an RSA modulus outside 2048 to
// 4096 bits, or an exponent other than an odd one from 65537 to 2^31-1 (NIST SP 800-89 asks for odd, and
// large ones only cost the verifier).
func KeyTypeOf(pub crypto.PublicKey) (KeyType, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if t := KeyType(k.Params().Name); slices.Contains(KeyTypes, t) {
			return t, nil
		}
		return "", fmt.Errorf("%w: curve %s; use P-256, P-384 or P-521", ErrKey, k.Params().Name)
	case ed25519.PublicKey:
		return Ed25519, nil
	case *rsa.PublicKey:
		if k.E < 65537 || k.E&1 == 0 || bits.Len(uint(k.E)) > 31 {
			return "", fmt.Errorf("%w: RSA exponent %d; use 65537", ErrKey, k.E)
		}
		switch n := k.N.BitLen(); {
		case n < 2048 || n > 4096:
			return "", fmt.Errorf("%w: RSA key of %d bits; use 2048 to 4096", ErrKey, n)
		case n < 3072:
			return RSA2048, nil
		case n < 4096:
			return RSA3072, nil
		default:
			return RSA4096, nil
		}
	default:
		return "", fmt.Errorf("%w: %T; use ECDSA, Ed25519 or RSA", ErrKey, pub)
	}
}

// ProfileConfig is what an operator writes about a profile.
type ProfileConfig struct {
	Name        string
	Lifetime    time.Duration      // of a certificate when the request names none
	MaxLifetime time.Duration      // the longest a request may ask for; at least Lifetime
	KeyTypes    []KeyType          // at least one
	ExtKeyUsage []x509.ExtKeyUsage // at least one of clientAuth and serverAuth
	Policy      NamePolicy
}

// Profile is a validated ProfileConfig: what a certificate of its name may be.
type Profile struct {
	c     ProfileConfig
	usage []byte // the extensions that say what its certificates are for
}

// Bounds of every profile's lifetime.
const (
	MinLifetime = 5 * time.Minute
	MaxLifetime = 398 * 24 * time.Hour
)

// NewProfile validates c. The error names the member to mend.
func NewProfile(c ProfileConfig) (*Profile, error) {
	bad := func(format string, args ...any) (*Profile, error) {
		return nil, fmt.Errorf("profile %q: "+format, append([]any{c.Name}, args...)...)
	}
	if c.MaxLifetime == 0 {
		c.MaxLifetime = c.Lifetime
	}
	switch {
	case c.Name == "":
		return bad("no name")
	case c.Lifetime < MinLifetime || c.MaxLifetime > MaxLifetime || c.Lifetime > c.MaxLifetime:
		return bad("want %s <= lifetime <= max_lifetime <= %s, got %s and %s", MinLifetime, MaxLifetime, c.Lifetime, c.MaxLifetime)
	case len(c.KeyTypes) == 0:
		return bad("no key types")
	case len(c.ExtKeyUsage) == 0:
		return bad("no extended key usage")
	case c.Policy == nil:
		return bad("no name policy: permit at least one kind of name")
	}
	for _, t := range c.KeyTypes {
		if !slices.Contains(KeyTypes, t) {
			return bad("unknown key type %q", t)
		}
	}
	for _, u := range c.ExtKeyUsage {
		if u != x509.ExtKeyUsageClientAuth && u != x509.ExtKeyUsageServerAuth {
			return bad("extended key usage %d: only clientAuth and serverAuth", u)
		}
	}
	c.KeyTypes, c.ExtKeyUsage = slices.Clone(c.KeyTypes), slices.Clone(c.ExtKeyUsage)
	return &Profile{c: c, usage: usageExtensions(c.ExtKeyUsage)}, nil
}

// Name returns the profile's name.
func (p *Profile) Name() string { return p.c.Name }

// checkKey reports whether the profile takes a key of this kind.
func (p *Profile) checkKey(key ProvenKey) error {
	if key.pub == nil {
		return fmt.Errorf("%w: possession of the key was not proven", ErrKey)
	}
	kind, err := KeyTypeOf(key.pub)
	if err != nil {
		return err
	}
	if !slices.Contains(p.c.KeyTypes, kind) {
		return fmt.Errorf("%w: profile %q takes %v, not %s", ErrKey, p.c.Name, p.c.KeyTypes, kind)
	}
	return nil
}
