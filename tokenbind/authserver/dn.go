package authserver

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// distinguishedName is a sequence of relative distinguished names in the order of a certificate, which is the
// reverse of RFC 4514's text.
type distinguishedName [][]attribute

// attribute is a type, as a dotted OID, and a value with its insignificant spaces removed.
type attribute struct{ oid, value string }

// maxDN bounds the text of a distinguished name in octets.
const maxDN = 1024

// attributeOIDs are the short names of RFC 4514 section 3 and of the attributes that client certificates use
// beside them. Every other type is written as an OID.
var attributeOIDs = map[string]string{
	"CN": "2.5.4.3", "SN": "2.5.4.4", "SERIALNUMBER": "2.5.4.5", "C": "2.5.4.6", "L": "2.5.4.7",
	"ST": "2.5.4.8", "STREET": "2.5.4.9", "O": "2.5.4.10", "OU": "2.5.4.11", "TITLE": "2.5.4.12",
	"BUSINESSCATEGORY": "2.5.4.15", "POSTALCODE": "2.5.4.17", "GIVENNAME": "2.5.4.42", "GN": "2.5.4.42",
	"ORGANIZATIONIDENTIFIER": "2.5.4.97", "DC": "0.9.2342.19200300.100.1.25", "UID": "0.9.2342.19200300.100.1.1",
	"EMAILADDRESS": "1.2.840.113549.1.9.1",
}

// matches is distinguishedNameMatch (RFC 4517 section 4.2.15): the same RDNs in the same order, the
// attributes of one RDN in any order, types by OID, values without regard to case and insignificant space
// (RFC 4518 sections 2.2 and 2.6.1). Values are not normalised any further: what differs in its Unicode
// composition differs.
func (d distinguishedName) matches(e distinguishedName) bool {
	return len(d) > 0 && slices.EqualFunc(d, e, func(a, b []attribute) bool {
		return len(a) == len(b) && within(a, b) && within(b, a)
	})
}

func within(a, b []attribute) bool {
	return !slices.ContainsFunc(a, func(x attribute) bool {
		return !slices.ContainsFunc(b, func(y attribute) bool {
			return x.oid == y.oid && strings.EqualFold(x.value, y.value)
		})
	})
}

// decodeDN reads a certificate's RawSubject. Values that are no text, or that hold control characters, a NUL
// above all, are an error, so that such a name matches nothing.
func decodeDN(der []byte) (distinguishedName, error) {
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &rdns); err != nil || len(rest) > 0 {
		return nil, errors.New("the certificate's subject is malformed")
	}
	var out distinguishedName
	for _, set := range rdns {
		var rdn []attribute
		for _, a := range set {
			text, ok := a.Value.(string)
			if !ok {
				return nil, fmt.Errorf("the certificate's subject has a value of type %s that is no text", a.Type)
			}
			value, err := plainValue(text)
			if err != nil {
				return nil, err
			}
			rdn = append(rdn, attribute{a.Type.String(), value})
		}
		out = append(out, rdn)
	}
	return out, nil
}

// parseDN reads the text form of RFC 4514. Spaces beside separators are allowed, as RFC 2253 had it and as
// openssl prints them.
func parseDN(text string) (distinguishedName, error) {
	if len(text) == 0 || len(text) > maxDN {
		return nil, fmt.Errorf("a distinguished name has 1 to %d octets, not %d", maxDN, len(text))
	}
	var out distinguishedName
	rdn := []attribute{}
	for rest := text; ; {
		name, after, ok := strings.Cut(rest, "=")
		if !ok {
			return nil, fmt.Errorf("%q is no TYPE=value, such as CN=billing", rest)
		}
		oid, err := attributeOID(strings.Trim(name, " "))
		if err != nil {
			return nil, err
		}
		value, separator, remaining, err := cutValue(after)
		if err != nil {
			return nil, err
		}
		rdn = append(rdn, attribute{oid, value})
		if separator != '+' {
			out, rdn = append(out, rdn), nil
		}
		if separator == 0 {
			slices.Reverse(out)
			return out, nil
		}
		rest = remaining
	}
}

// attributeOID turns a short name or a dotted OID into the latter.
func attributeOID(name string) (string, error) {
	if oid, ok := attributeOIDs[strings.ToUpper(name)]; ok {
		return oid, nil
	}
	if strings.Trim(name, "0123456789.") == "" && strings.Contains(name, ".") && strings.Trim(name, ".") == name {
		return name, nil
	}
	return "", fmt.Errorf("attribute type %q is unknown: write it as an OID, such as 2.5.4.3", name)
}

// cutValue reads one attribute value up to the next separator: '+', ',' or, at the end, 0.
func cutValue(s string) (value string, separator byte, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ',' || c == '+':
			value, err = finishValue(s[:i], b.String())
			return value, c, s[i+1:], err
		case strings.IndexByte(`";<>`, c) >= 0:
			return "", 0, "", fmt.Errorf("character %q must be escaped with a backslash (RFC 4514 section 2.4)", c)
		case c != '\\':
			b.WriteByte(c)
		case i+1 < len(s) && strings.IndexByte(` "#+,;<=>\`, s[i+1]) >= 0:
			i++
			b.WriteByte(s[i])
		default:
			octet, err := hex.DecodeString(s[min(i+1, len(s)):min(i+3, len(s))])
			if err != nil || len(octet) != 1 {
				return "", 0, "", errors.New("a backslash is followed by a special character or two hex digits (RFC 4514 section 2.4)")
			}
			b.WriteByte(octet[0])
			i += 2
		}
	}
	value, err = finishValue(s, b.String())
	return value, 0, "", err
}

// finishValue takes a value's text as written and unescaped. "#" starts the hex form of its BER encoding.
func finishValue(written, text string) (string, error) {
	if digits, ok := strings.CutPrefix(strings.Trim(written, " "), "#"); ok {
		var v any
		ber, err := hex.DecodeString(digits)
		if err != nil {
			return "", fmt.Errorf("%q is no hex string (RFC 4514 section 2.4)", written)
		}
		if rest, err := asn1.Unmarshal(ber, &v); err != nil || len(rest) > 0 {
			return "", fmt.Errorf("%q does not encode one value", written)
		}
		if text, ok = v.(string); !ok {
			return "", fmt.Errorf("%q does not encode text", written)
		}
	}
	return plainValue(text)
}

// plainValue removes insignificant spaces and refuses what no name should hold.
func plainValue(s string) (string, error) {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return "", fmt.Errorf("the name %q has control characters or is no UTF-8", s)
	}
	words := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' })
	if len(words) == 0 {
		return "", errors.New("a distinguished name has an empty value")
	}
	return strings.Join(words, " "), nil
}

// escapeDN writes a value as RFC 4514 section 2.4 has it.
func escapeDN(value string) string {
	var b strings.Builder
	for i := range len(value) {
		c := value[i]
		edge := c == ' ' && (i == 0 || i == len(value)-1) || c == '#' && i == 0
		if edge || strings.IndexByte(`"+,;<>\`, c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}
