package ca

import (
	"encoding/asn1"
	"math/bits"
	"time"
)

// A writer of DER (X.690 section 10), as much of it as certificates need. Each function appends an element.

const (
	tagSequence = asn1.TagSequence | 0x20
	tagSet      = asn1.TagSet | 0x20
)

// contextTag is a tag of class context-specific, for content that is not constructed.
func contextTag(n byte) byte { return 0x80 | n }

// element appends tag, length and the content that write appends. Most contents are shorter than 128 octets, so
// room is left for a length of one octet; a longer content is moved.
func element(b []byte, tag byte, write func([]byte) []byte) []byte {
	b = append(b, tag, 0)
	start := len(b)
	b = write(b)
	n := len(b) - start
	if n < 0x80 {
		b[start-1] = byte(n)
		return b
	}
	more := (bits.Len(uint(n)) + 7) / 8
	b = append(b, make([]byte, more)...)
	copy(b[start+more:], b[start:start+n])
	b[start-1] = 0x80 | byte(more)
	for i := range more {
		b[start+i] = byte(n >> (8 * (more - 1 - i)))
	}
	return b
}

// primitive appends an element whose content is at hand.
func primitive[T string | []byte](b []byte, tag byte, content T) []byte {
	return element(b, tag, func(b []byte) []byte { return append(b, content...) })
}

// positive appends a positive INTEGER, given as big-endian octets.
func positive(b, n []byte) []byte {
	for len(n) > 1 && n[0] == 0 {
		n = n[1:]
	}
	return element(b, asn1.TagInteger, func(b []byte) []byte {
		if n[0] >= 0x80 {
			b = append(b, 0)
		}
		return append(b, n...)
	})
}

// bitString appends a BIT STRING of whole octets.
func bitString(b, content []byte) []byte {
	return element(b, asn1.TagBitString, func(b []byte) []byte { return append(append(b, 0), content...) })
}

// instant appends a Time (RFC 5280 section 4.1.2.5): UTCTime through 2049, GeneralizedTime from then on.
func instant(b []byte, t time.Time) []byte {
	t = t.UTC()
	tag, layout := byte(asn1.TagUTCTime), "060102150405Z"
	if t.Year() < 1950 || t.Year() >= 2050 {
		tag, layout = asn1.TagGeneralizedTime, "20060102150405Z"
	}
	return element(b, tag, func(b []byte) []byte { return t.AppendFormat(b, layout) })
}

// directoryString appends a DirectoryString (RFC 5280 section 4.1.2.4): PrintableString where the text allows it,
// else UTF8String.
func directoryString(b []byte, s string) []byte {
	for i := range len(s) {
		if !printable(s[i]) {
			return primitive(b, asn1.TagUTF8String, s)
		}
	}
	return primitive(b, asn1.TagPrintableString, s)
}

// printable reports whether a PrintableString may hold c (X.680 section 41.4).
func printable(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', '\'' <= c && c <= ')', '+' <= c && c <= '/':
		return true
	}
	return c == ' ' || c == ':' || c == '=' || c == '?'
}

// extension appends an Extension (RFC 5280 section 4.1) of this OID, whose content octets are given.
func extension(b []byte, oid string, critical bool, value func([]byte) []byte) []byte {
	return element(b, tagSequence, func(b []byte) []byte {
		b = primitive(b, asn1.TagOID, oid)
		if critical { // false is the default, which DER leaves out
			b = append(b, asn1.TagBoolean, 1, 0xff)
		}
		return element(b, asn1.TagOctetString, value)
	})
}
