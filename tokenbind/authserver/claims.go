package authserver

import (
	"encoding/json"
	"strconv"

	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/pkid/pkid/internal/appendjson"
	"github.com/pkid/pkid/tokenbind"
)

// accessClaims are the claims of an access token (RFC 9068 section 2.2, RFC 8705 section 3.1, RFC 9449
// section 6.1). They are not to be changed once they were signed or read.
type accessClaims struct {
	Issuer       string                 `json:"iss"`
	Subject      string                 `json:"sub"`
	Audience     jwt.Audience           `json:"aud"`
	Expiry       jwt.NumericDate        `json:"exp"`
	IssuedAt     jwt.NumericDate        `json:"iat"`
	ID           string                 `json:"jti"`
	ClientID     string                 `json:"client_id"`
	Scope        string                 `json:"scope"`
	Confirmation tokenbind.Confirmation `json:"cnf"`
}

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

// appendAudience writes one audience as a string and several as an array (RFC 7519 section 4.1.3).
func appendAudience(b []byte, audience []string) []byte {
	if len(audience) == 1 {
		return appendjson.String(b, audience[0])
	}
	return appendjson.Strings(b, audience)
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
