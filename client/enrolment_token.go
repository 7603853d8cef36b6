package client

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"

	"github.com/pkid/pkid/thumbprint"
)

// EnrolmentToken is all that a machine needs to get its first certificate, as one string: where the CA is,
// which root to trust, and the invitation's id and one-time secret. Treat what String writes as a password; fmt,
// slog and encoding/json show the token without its secret.
type EnrolmentToken struct {
	URL    string          // of the public listener, https
	Root   thumbprint.Cert // SHA-256 of the root's DER
	ID     [16]byte        // the invitation's
	Secret [32]byte
}

// ErrEnrolmentToken reports a text that is no enrolment token, or a part of one.
var ErrEnrolmentToken = errors.New("not an enrolment token: copy the whole line that `pkictl invite` printed, from pkid1_ to its end")

const (
	enrolmentPrefix = "pkid1_"
	checksumLen     = 4
	maxTokenURL     = 512
)

// String writes the token. Its form is the prefix and base64url of root, id, secret, URL and a checksum.
func (t EnrolmentToken) String() string {
	raw := bytes.Join([][]byte{t.Root[:], t.ID[:], t.Secret[:], []byte(t.URL)}, nil)
	sum := sha256.Sum256(raw)
	return enrolmentPrefix + base64.RawURLEncoding.EncodeToString(append(raw, sum[:checksumLen]...))
}

// Format prints the token without its secret, whatever the verb, so that none gets into a log or an error by
// accident. String writes it whole, for who means to.
func (t EnrolmentToken) Format(f fmt.State, _ rune) { fmt.Fprint(f, t.redacted()) }

// LogValue is the token without its secret.
func (t EnrolmentToken) LogValue() slog.Value { return slog.StringValue(t.redacted()) }

// MarshalText is the token without its secret, as in JSON of what it is a part of.
func (t EnrolmentToken) MarshalText() ([]byte, error) { return []byte(t.redacted()), nil }

func (t EnrolmentToken) redacted() string {
	return "enrolment token for " + t.URL + ", invitation " + t.InvitationID()
}

// InvitationID returns the invitation's id in hex, as the audit log and the API show it.
func (t EnrolmentToken) InvitationID() string { return hex.EncodeToString(t.ID[:]) }

// ParseEnrolmentToken reads what String wrote; white space around it is ignored. The error is
// ErrEnrolmentToken, also for a token that was cut short or mistyped: the checksum tells.
func ParseEnrolmentToken(s string) (EnrolmentToken, error) {
	const fixed = 32 + 16 + 32
	text, ok := strings.CutPrefix(strings.TrimSpace(s), enrolmentPrefix)
	if !ok || len(text) > base64.RawURLEncoding.EncodedLen(fixed+maxTokenURL+checksumLen) || strings.ContainsAny(text, "\r\n") {
		return EnrolmentToken{}, ErrEnrolmentToken
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) <= fixed+checksumLen {
		return EnrolmentToken{}, ErrEnrolmentToken
	}
	body, check := raw[:len(raw)-checksumLen], raw[len(raw)-checksumLen:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:checksumLen], check) {
		return EnrolmentToken{}, ErrEnrolmentToken
	}
	t := EnrolmentToken{URL: string(body[fixed:])}
	copy(t.Root[:], body)
	copy(t.ID[:], body[32:])
	copy(t.Secret[:], body[48:])
	if u, err := url.Parse(t.URL); err != nil || u.Scheme != "https" || u.Host == "" {
		return EnrolmentToken{}, fmt.Errorf("%w: its URL %q is not https", ErrEnrolmentToken, t.URL)
	}
	return t, nil
}
