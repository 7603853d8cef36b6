package revocation

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/pkid/pkid/thumbprint"
)

// Path is where an issuer's stream is.
const Path = "/v1/revocations/stream"

// ContentType is that of the stream, as the HTML standard names it (section 9.2, server-sent events).
const ContentType = "text/event-stream"

// The events of the stream, by the names that they have in it. Whoever reads it ignores others.
const (
	CertificateEvent = "certificate"
	ClientEvent      = "client"
	TokenEvent       = "token"
	ResetEvent       = "reset"
	HeartbeatEvent   = "heartbeat"
)

// Hash is the SHA-256 of what the stream does not name to everybody: a client's id, or that of a token.
type Hash [sha256.Size]byte

// HashOf hashes an id.
func HashOf(id string) Hash { return sha256.Sum256([]byte(id)) }

// MarshalText writes the hash in unpadded base64url.
func (h Hash) MarshalText() ([]byte, error) {
	return base64.RawURLEncoding.AppendEncode(nil, h[:]), nil
}

// UnmarshalText reads what MarshalText wrote.
func (h *Hash) UnmarshalText(text []byte) error {
	t, err := thumbprint.ParseToken(string(text))
	*h = Hash(t)
	return err
}

// Status of a certificate.
const (
	Revoked = "revoked" // for good
	Held    = "held"    // and may be released
	Good    = "good"    // it was held, and is released
)

// Certificate is what became of a certificate.
type Certificate struct {
	Thumbprint  thumbprint.Cert `json:"x5t#S256"`
	IssuerKeyID string          `json:"issuer_key_id,omitempty"` // its issuer's subject key identifier, in hex
	Serial      string          `json:"serial"`                  // in hex
	Status      string          `json:"status"`
	NotAfter    time.Time       `json:"not_after"`
}

// Client is what became of a client: none of its tokens counts while it is disabled, and none that was issued before
// TokensNotBefore. From Until on there is no token any more that this could concern.
type Client struct {
	ID              Hash      `json:"client"`
	Disabled        bool      `json:"disabled"`
	TokensNotBefore time.Time `json:"tokens_not_before"`
	Until           time.Time `json:"until"`
}

// Token is an access token that was revoked, until it is expired for everybody.
type Token struct {
	ID    Hash      `json:"token"`
	Until time.Time `json:"until"`
}

// Reset says that the stream cannot go on from where its reader was. What the reader knows of clients and tokens is void:
// all that there is to know follows, up to the next heartbeat. Certificates are to be taken from the CRL.
type Reset struct {
	Reason string `json:"reason"`
	// TokensNotBefore: no token counts that was issued before. It is the instant of the last restore from a backup, or a
	// later one in place of what would be too much to tell; zero if there is none.
	TokensNotBefore time.Time `json:"tokens_not_before,omitzero"`
}

// Heartbeat says that the reader knows all that there is to know, up to its id. It comes every so many seconds, and only
// if that was looked at in the meantime.
type Heartbeat struct {
	Every int `json:"every_seconds"`
}

// Append appends an event in its notation on the stream. A nil id leaves the reader's position as it is, and an empty one
// takes it away.
func Append(b []byte, name string, id *string, data any) []byte {
	text, err := json.Marshal(data)
	if err != nil {
		panic("revocation: an event is always encodable: " + err.Error())
	}
	b = append(append(b, "event: "...), name...)
	if id != nil {
		b = append(append(b, "\nid: "...), *id...)
	}
	b = append(append(b, "\ndata: "...), text...)
	return append(b, "\n\n"...)
}

// decode reads an event's data.
func decode[T any](m message) (T, error) {
	var out T
	if err := json.Unmarshal(m.data, &out); err != nil {
		return out, fmt.Errorf("%w: event %q: %w", errStream, m.name, err)
	}
	return out, nil
}
