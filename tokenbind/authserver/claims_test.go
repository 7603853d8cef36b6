package authserver

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

// Claims are written as encoding/json writes them, in the same order, and read back as they were.
func TestClaims_AreWrittenAsJSON(t *testing.T) {
	cert, key := thumbprint.OfDER([]byte("x")), thumbprint.Key(thumbprint.OfToken("y"))
	for name, change := range map[string]func(*accessClaims){
		"as usual":       func(*accessClaims) {},
		"both keys":      func(c *accessClaims) { c.Confirmation.Key = key },
		"a DPoP key":     func(c *accessClaims) { c.Confirmation = tokenbind.Confirmation{Key: key} },
		"bearer":         func(c *accessClaims) { c.Confirmation = tokenbind.Confirmation{} },
		"no scope":       func(c *accessClaims) { c.Scope = "" },
		"two audiences":  func(c *accessClaims) { c.Audience = []string{"https://a.example", "urn:b"} },
		"odd characters": func(c *accessClaims) { c.ClientID, c.Audience = `a"\b`, []string{"https://ü.example/\"\x01"} },
		"before 1970":    func(c *accessClaims) { c.Expiry, c.IssuedAt = -1, -1<<40 },
	} {
		c := &accessClaims{
			Issuer: "https://as.example", Subject: "a", Audience: []string{"https://rs.example"}, Expiry: 1795380061, IssuedAt: 1795379761,
			ID: "eajNh_dA-lDiYlIkefa1YA", ClientID: "a", Scope: "read write", Confirmation: tokenbind.Confirmation{Cert: cert},
		}
		change(c)
		text := append(c.appendMembers([]byte{'{'}), '}')
		theirs, err := json.Marshal(struct { // as RFC 9068 has it: what is empty is left out
			Issuer       string                 `json:"iss"`
			Subject      string                 `json:"sub"`
			Audience     jwt.Audience           `json:"aud"`
			Expiry       jwt.NumericDate        `json:"exp"`
			IssuedAt     jwt.NumericDate        `json:"iat"`
			ID           string                 `json:"jti"`
			ClientID     string                 `json:"client_id"`
			Scope        string                 `json:"scope,omitempty"`
			Confirmation tokenbind.Confirmation `json:"cnf,omitzero"`
		}{
			c.Issuer, c.Subject, jwt.Audience(c.Audience), jwt.NumericDate(c.Expiry), jwt.NumericDate(c.IssuedAt),
			c.ID, c.ClientID, c.Scope, c.Confirmation,
		})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text, theirs) {
			t.Errorf("%s: %s; want %s", name, text, theirs)
		}
		if got, err := readClaims(text); err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%s: read back as %+v, %v; want %+v", name, got, err, c)
		}
	}
}
