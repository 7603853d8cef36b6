// Package tokenbind is what a resource server imports to accept access tokens that are bound to a key: to a
// client certificate (RFC 8705) or to a DPoP key (RFC 9449).
//
// Verifier takes a whole request and infers the stricter rule from it, so that a caller cannot forget one:
// a token with a confirmation is never accepted as a bearer token, a token without one is refused unless
// the verifier was told AllowBearer, and a token with two members must satisfy both.
package tokenbind

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/pkid/pkid/thumbprint"
)

// Confirmation is a token's "cnf" claim (RFC 7800 section 3.1): what its holder must prove.
type Confirmation struct {
	Cert thumbprint.Cert `json:"x5t#S256,omitzero"` // RFC 8705 section 3.1
	Key  thumbprint.Key  `json:"jkt,omitzero"`      // RFC 9449 section 6.1
}

// IsZero reports whether the token is bound to nothing.
func (c Confirmation) IsZero() bool { return c.Cert.IsZero() && c.Key.IsZero() }

// Claims is a verified access token (RFC 9068 section 2.2). The struct belongs to its request. Its slices and Raw
// are shared with other requests that carry the same token: they are read-only.
type Claims struct {
	Issuer       string
	Subject      string
	ClientID     string
	Audience     []string
	Scope        []string
	ID           string // jti
	IssuedAt     time.Time
	NotBefore    time.Time
	ExpiresAt    time.Time
	Confirmation Confirmation
	Raw          map[string]any // every claim, as decoded
}

// Revocation checks a client certificate's revocation status; *crl.Checker is one. A nil error means: not
// revoked, as far as can be known now. Any error refuses the request.
type Revocation interface {
	Check(ctx context.Context, cert *x509.Certificate) error
}

// TokenStatus knows which tokens were revoked before they expired: themselves, with their client, or with the certificate
// that they are bound to. A nil error means: none of it, as far as can be known now. Any error refuses the request.
type TokenStatus interface {
	CheckToken(ctx context.Context, claims *Claims) error
}

// ErrUnavailable is wrapped by what Revocation and TokenStatus return when they cannot know for now: the store or the
// authorization server is away, a list is stale. The request is then answered with 503, since neither the client nor its
// token is at fault, and nothing of the error is shown to it.
var ErrUnavailable = errors.New("cannot be checked right now")

// ErrReplayed reports a DPoP proof, or a client assertion, that was used before.
var ErrReplayed = errors.New("already used")

// Replay remembers what may be used once. Use returns nil exactly once for a key until that instant has
// passed, however many callers there are at once, and ErrReplayed to all others. Any other error refuses.
type Replay interface {
	Use(ctx context.Context, key [32]byte, until time.Time) error
}
