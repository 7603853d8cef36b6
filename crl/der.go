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

// reader takes DER elements off the front of a byte slice.
type reader []byte

// next takes one element: body is its content, whole includes tag and length. It accepts only what DER
// allows: definite lengths in their shortest form, of at most four octets here.
func (r *reader) next() (tag byte, body, whole []byte, ok bool) {
	b := *r
	if len(b) < 2 || b[0]&0x1f == 0x1f { // tags above 30 take more octets; a CRL has none
		return 0, nil, nil, false
	}
	head, length := 2, uint64(b[1])
	if length >= 0x80 {
		octets := int(length & 0x7f)
		if octets == 0 || octets > 4 || len(b) < 2+octets || b[2] == 0 {
			return 0, nil, nil, false
		}
		length = 0
		for _, o := range b[2 : 2+octets] {
			length = length<<8 | uint64(o)
		}
		if length < 0x80 {
			return 0, nil, nil, false
		}
		head += octets
	}
	if length > uint64(len(b)-head) {
		return 0, nil, nil, false
	}
	end := head + int(length)
	*r = b[end:]
	return b[0], b[head:end], b[:end], true
}

// take takes one element that must have the tag.
func (r *reader) take(tag byte) (body []byte, ok bool) {
	got, body, _, ok := r.next()
	return body, ok && got == tag
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

// split cuts a CRL into what was signed (tbs), the content of revokedCertificates, and the CRL without
// these: header has the other fields and the signature, which of course does not verify over it.
func split(der []byte) (header, tbs, revoked []byte, err error) {
	outer := reader(der)
	list, ok := outer.take(tagSequence)
	if !ok || len(outer) > 0 {
		return nil, nil, nil, errMalformed
	}
	in := reader(list)
	tag, tbsBody, tbs, ok := in.next()
	trailer := in // signatureAlgorithm, signatureValue
	_, okAlg := in.take(tagSequence)
	_, okSig := in.take(tagBitString)
	if !ok || tag != tagSequence || !okAlg || !okSig || len(in) > 0 {
		return nil, nil, nil, errMalformed
	}

	fields := reader(tbsBody)
	for _, want := range []byte{tagInteger, tagSequence, tagSequence} { // version, signature, issuer
		if _, ok := fields.take(want); !ok {
			return nil, nil, nil, errors.New("malformed DER, or a version 1 list")
		}
	}
	for _, name := range []string{"thisUpdate", "nextUpdate"} {
		isTime := fields.peek(tagUTCTime, tagTime)
		if _, _, _, ok := fields.next(); !ok || !isTime {
			return nil, nil, nil, errors.New("no " + name)
		}
	}
	front := tbsBody[:len(tbsBody)-len(fields)]
	if fields.peek(tagSequence) {
		if revoked, ok = fields.take(tagSequence); !ok {
			return nil, nil, nil, errMalformed
		}
	}
	back := []byte(fields)
	if _, ok := fields.take(tagExtensions); !ok || len(fields) > 0 {
		return nil, nil, nil, errors.New("malformed DER, or no extensions")
	}
	return wrap(tagSequence, wrap(tagSequence, front, back), trailer), tbs, revoked, nil
}
