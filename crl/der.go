package crl

import (
	"bytes"
	"errors"
	"slices"
)

// A list may hold a million entries, and x509.ParseRevocationList makes half a dozen objects of each. So the
// entries are read here, straight into the compact form that is kept, and everything else is left to
// crypto/x509: split cuts the entries out, and what remains is a short, complete CRL that it can parse.

// DER tags.
const (
	tagBoolean     = 0x01
	tagInteger     = 0x02
	tagBitString   = 0x03
	tagOctetString = 0x04
	tagOID         = 0x06
	tagEnumerated  = 0x0a
	tagUTCTime     = 0x17
	tagTime        = 0x18 // GeneralizedTime
	tagSequence    = 0x30
	tagExtensions  = 0xa0 // crlExtensions [0]

	tagKeyIdentifier = 0x80 // of an AuthorityKeyIdentifier, [0]
)

// parseHeader reads tag and length of an element, and how many octets these take. It accepts only what DER allows:
// definite lengths in their shortest form, of at most four octets here.
func parseHeader(b []byte) (tag byte, length, head int, ok bool) {
	if len(b) < 2 || b[0]&0x1f == 0x1f { // tags above 30 take more octets; a CRL has none
		return 0, 0, 0, false
	}
	head, length = 2, int(b[1])
	if length >= 0x80 {
		octets := length & 0x7f
		if octets == 0 || octets > 4 || len(b) < 2+octets || b[2] == 0 {
			return 0, 0, 0, false
		}
		length = 0
		for _, o := range b[2 : 2+octets] {
			length = length<<8 | int(o)
		}
		if length < 0x80 {
			return 0, 0, 0, false
		}
		head += octets
	}
	return b[0], length, head, true
}

// reader takes DER elements off the front of a byte slice.
type reader []byte

// next takes one element: body is its content, whole includes tag and length.
func (r *reader) next() (tag byte, body, whole []byte, ok bool) {
	b := *r
	if len(b) >= 2 && int(b[1]) <= len(b)-2 && b[1] < 0x80 && b[0]&0x1f != 0x1f { // the short form, at once
		end := 2 + int(b[1])
		*r = b[end:]
		return b[0], b[2:end:end], b[:end:end], true
	}
	tag, length, head, ok := parseHeader(b)
	if !ok || length > len(b)-head {
		return 0, nil, nil, false
	}
	end := head + length
	*r = b[end:]
	return tag, b[head:end], b[:end], true
}

// take takes one element that must have the tag.
func (r *reader) take(tag byte) (body []byte, ok bool) {
	got, body, _, ok := r.next()
	return body, ok && got == tag
}

// isOID reports whether body is the content of an OBJECT IDENTIFIER: arcs of seven bits an octet, the last of each
// without the top bit, in their fewest octets (X.690 section 8.19.2), and below 2^31, as crypto/x509 has them.
func isOID(body []byte) bool {
	arc, started := 0, false
	for _, o := range body {
		if !started && o == 0x80 || arc >= 1<<(31-7) {
			return false
		}
		arc = arc<<7 | int(o&0x7f)
		if started = o >= 0x80; !started {
			arc = 0
		}
	}
	return len(body) > 0 && !started
}

// peek reports whether the next element has one of the tags.
func (r reader) peek(tags ...byte) bool { return len(r) > 0 && slices.Contains(tags, r[0]) }

// wrap encodes an element.
func wrap(tag byte, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	return append(appendHeader(nil, tag, len(body)), body...)
}

// appendHeader appends tag and length of an element.
func appendHeader(b []byte, tag byte, length int) []byte {
	switch n := length; {
	case n < 0x80:
		return append(b, tag, byte(n))
	case n < 0x100:
		return append(b, tag, 0x81, byte(n))
	case n < 0x10000:
		return append(b, tag, 0x82, byte(n>>8), byte(n))
	case n < 0x1000000:
		return append(b, tag, 0x83, byte(n>>16), byte(n>>8), byte(n))
	default:
		return append(b, tag, 0x84, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
}

var errMalformed = errors.New("malformed DER")

// pieces are a CRL that was cut up.
type pieces struct {
	tbs     DER    // what was signed
	front   DER    // all octets before the entries
	entries DER    // the content of revokedCertificates
	back    DER    // all octets after the entries
	bare    []byte // the CRL without them, whose signature of course does not verify
}

// split cuts a CRL up.
func split(der DER) (pieces, error) {
	var l pieces
	body, rest, ok := der.take(tagSequence)
	if !ok || rest.Len() > 0 {
		return l, errMalformed
	}
	fields, trailer, ok := body.take(tagSequence)
	if !ok {
		return l, errMalformed
	}
	l.tbs, _ = body.cut(body.Len() - trailer.Len())
	_, rest, okAlg := trailer.take(tagSequence) // signatureAlgorithm
	_, rest, okSig := rest.take(tagBitString)   // signatureValue
	if !okAlg || !okSig || rest.Len() > 0 {
		return l, errMalformed
	}

	rest = fields
	for _, want := range []byte{tagInteger, tagSequence, tagSequence} { // version, signature, issuer
		if _, rest, ok = rest.take(want); !ok {
			return l, errors.New("malformed DER, or a version 1 list")
		}
	}
	for _, name := range []string{"thisUpdate", "nextUpdate"} {
		if _, rest, ok = rest.take(tagUTCTime, tagTime); !ok {
			return l, errors.New("no " + name)
		}
	}
	front, _ := fields.cut(fields.Len() - rest.Len())
	if rest.peek() == tagSequence {
		if l.entries, rest, ok = rest.take(tagSequence); !ok {
			return l, errMalformed
		}
	}
	back := rest
	if _, rest, ok = rest.take(tagExtensions); !ok || rest.Len() > 0 {
		return l, errors.New("malformed DER, or no extensions")
	}
	tail := back.Len() + trailer.Len()
	l.front, _ = der.cut(der.Len() - tail - l.entries.Len())
	_, l.back = der.cut(der.Len() - tail)
	l.bare = wrap(tagSequence, wrap(tagSequence, front.Bytes(), back.Bytes()), trailer.Bytes())
	return l, nil
}
