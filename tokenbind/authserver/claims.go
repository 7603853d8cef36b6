package authserver

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/pkid/pkid/internal/appendjson"
	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/tokenbind"
)

// accessClaims are the claims of an access token (RFC 9068 section 2.2, RFC 8705 section 3.1, RFC 9449
// section 6.1). They are not to be changed once they were signed or read.
type accessClaims struct {
	Issuer       string                 `json:"iss"`
	Subject      string                 `json:"sub"`
	Audience     audience               `json:"aud"`
	Expiry       numericDate            `json:"exp"`
	IssuedAt     numericDate            `json:"iat"`
	ID           string                 `json:"jti"`
	ClientID     string                 `json:"client_id"`
	Scope        string                 `json:"scope"`
	Confirmation tokenbind.Confirmation `json:"cnf"`
}

// audience is written as a string if it is one, and as an array otherwise (RFC 7519 section 4.1.3).
type audience []string

// UnmarshalJSON reads both forms.
func (a *audience) UnmarshalJSON(text []byte) error {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	list, ok := jws.StringList(v)
	if !ok {
		return fmt.Errorf("aud: %s", jws.Show(v))
	}
	*a = list
	return nil
}

// numericDate is a time in seconds since 1970 (RFC 7519 section 2). A fraction, which ours do not have, is left out.
type numericDate int64

// UnmarshalJSON reads any notation of a number.
func (d *numericDate) UnmarshalJSON(text []byte) error {
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || math.Abs(f) > 1<<53 {
		return fmt.Errorf("%s is no time", text)
	}
	*d = numericDate(f)
	return nil
}

// Time returns it as a time.
func (d numericDate) Time() time.Time { return time.Unix(int64(d), 0) }

// readClaims reads the payload of a token that one of our keys has signed.
func readClaims(payload []byte) (*accessClaims, error) {
	c := new(accessClaims)
	if err := json.Unmarshal(payload, c); err != nil {
		return nil, err
	}
	return c, nil
}

// appendMembers appends the claims as members of a JSON object, without its braces: a token's payload has them, and
// the answer to an introspection (RFC 7662 section 2.2) has the same under the same names.
func (c *accessClaims) appendMembers(b []byte) []byte {
	b = appendjson.String(append(b, `"iss":`...), c.Issuer)
	b = appendjson.String(append(b, `,"sub":`...), c.Subject)
	b = appendAudience(append(b, `,"aud":`...), c.Audience)
	b = strconv.AppendInt(append(b, `,"exp":`...), int64(c.Expiry), 10)
	b = strconv.AppendInt(append(b, `,"iat":`...), int64(c.IssuedAt), 10)
	b = appendjson.String(append(b, `,"jti":`...), c.ID)
	b = appendjson.String(append(b, `,"client_id":`...), c.ClientID)
	b = appendScope(b, c.Scope)
	return appendConfirmation(b, c.Confirmation)
}

func appendAudience(b []byte, a audience) []byte {
	if len(a) == 1 {
		return appendjson.String(b, a[0])
	}
	return appendjson.Strings(b, a)
}

// appendScope appends a scope as a further member; there is none for an empty one.
func appendScope(b []byte, scope string) []byte {
	if scope == "" {
		return b
	}
	return appendjson.String(append(b, `,"scope":`...), scope)
}

// appendConfirmation appends "cnf" as a further member; there is none for a bearer token.
func appendConfirmation(b []byte, cnf tokenbind.Confirmation) []byte {
	if cnf.IsZero() {
		return b
	}
	b = append(b, `,"cnf":{`...)
	if !cnf.Cert.IsZero() {
		b = appendjson.String(append(b, `"x5t#S256":`...), cnf.Cert.String())
	}
	if !cnf.Key.IsZero() {
		if !cnf.Cert.IsZero() {
			b = append(b, ',')
		}
		b = appendjson.String(append(b, `"jkt":`...), cnf.Key.String())
	}
	return append(b, '}')
}
