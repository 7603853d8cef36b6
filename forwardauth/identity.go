package forwardauth

import (
	"errors"
	"strconv"
	"strings"

	"github.com/pkid/pkid/tokenbind"
)

// The headers of an answer that lets a request pass. All of them are always there, so that a proxy which sets them on the
// request that it passes on overwrites whatever the client has put into them. What there is none of is Absent.
const (
	HeaderClientID   = "Pkid-Client-Id"  // the token's client_id
	HeaderSubject    = "Pkid-Subject"    // its sub
	HeaderScope      = "Pkid-Scope"      // its scope, separated by spaces
	HeaderTokenID    = "Pkid-Token-Id"   // its jti
	HeaderExpires    = "Pkid-Expires"    // its exp, Unix time in seconds
	HeaderBinding    = "Pkid-Binding"    // what the client proved: mtls, dpop, "mtls dpop", or bearer, which is nothing
	HeaderThumbprint = "Pkid-Thumbprint" // of the certificate, x5t#S256
	HeaderJKT        = "Pkid-Jkt"        // of the DPoP key

	Absent = "-"
)

// Headers are the names of all of them.
func Headers() []string {
	return []string{HeaderClientID, HeaderSubject, HeaderScope, HeaderTokenID, HeaderExpires, HeaderBinding, HeaderThumbprint, HeaderJKT}
}

// maxIdentity bounds the values together: proxies read an answer's header into one page of memory.
const maxIdentity = 3 << 10

var errIdentity = errors.New("what the token says of its client does not fit into headers")

type field struct{ name, value string }

func identify(c *tokenbind.Claims) ([]field, error) {
	cnf := c.Confirmation
	scopes := make([]string, len(c.Scope))
	for i, s := range c.Scope {
		scopes[i] = value(s)
	}
	var binding []string
	x5t, jkt := "", ""
	if !cnf.Cert.IsZero() {
		binding, x5t = append(binding, "mtls"), cnf.Cert.String()
	}
	if !cnf.Key.IsZero() {
		binding, jkt = append(binding, "dpop"), cnf.Key.String()
	}
	if cnf.IsZero() {
		binding = []string{"bearer"}
	}
	all := []field{
		{HeaderClientID, value(c.ClientID)},
		{HeaderSubject, value(c.Subject)},
		{HeaderScope, strings.Join(scopes, " ")},
		{HeaderTokenID, value(c.ID)},
		{HeaderExpires, strconv.FormatInt(c.ExpiresAt.Unix(), 10)},
		{HeaderBinding, strings.Join(binding, " ")},
		{HeaderThumbprint, value(x5t)},
		{HeaderJKT, value(jkt)},
	}
	if len(scopes) == 0 {
		all[2].value = Absent
	}
	n := 0
	for _, f := range all {
		n += len(f.value)
	}
	if n > maxIdentity {
		return nil, errIdentity // a shortened name could be somebody else's
	}
	return all, nil
}

// value writes a claim so that it is one word of visible ASCII and nobody else's: all other octets and the percent sign
// are percent-encoded (RFC 3986 section 2.1), and so is a claim that would pass for Absent.
func value(s string) string {
	switch s {
	case "":
		return Absent
	case Absent:
		return "%2D"
	}
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}
