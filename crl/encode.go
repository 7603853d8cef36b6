package crl

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"
)

// A list is written here, around entries that are kept in DER: x509.CreateRevocationList makes a dozen objects of each
// entry, which at 100,000 entries takes longer than a revocation may take to be published.

// Algorithm identifiers (RFC 5758 section 3.2, RFC 4055 section 5, RFC 8410 section 3).
const (
	algorithmECDSA256 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"
	algorithmECDSA384 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"
	algorithmECDSA512 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04"
	algorithmRSA256   = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"
	algorithmEd25519  = "\x30\x05\x06\x03\x2b\x65\x70"
)

// algorithmOf returns the AlgorithmIdentifier that a key signs its lists with.
func algorithmOf(pub crypto.PublicKey) (string, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Params().Name {
		case "P-256":
			return algorithmECDSA256, nil
		case "P-384":
			return algorithmECDSA384, nil
		case "P-521":
			return algorithmECDSA512, nil
		}
	case *rsa.PublicKey:
		return algorithmRSA256, nil
	case ed25519.PublicKey:
		return algorithmEd25519, nil
	}
	return "", fmt.Errorf("no signature algorithm for a key of type %T: want ECDSA on P-256, P-384 or P-521, RSA or Ed25519", pub)
}

const (
	headroom     = 6       // octets: what a tag and a length can take
	maxListSize  = 1 << 30 // octets
	reasonPrefix = "\x30\x0c\x30\x0a\x06\x03" + oidReasonCode + "\x04\x03\x0a\x01"
)

// draft is a list that is yet to be signed.
type draft struct {
	front     []byte // headroom, then the TBSCertList as far as its entries
	entries   *entries
	back      []byte // the rest of it
	algorithm string
}

// newDraft writes a TBSCertList (RFC 5280 section 5.1.2), of version 2. The extensions are those that every list has,
// and more.
func newDraft(s PublishedShard, number uint64, thisUpdate, nextUpdate time.Time, e *entries, more ...[]byte) (*draft, error) {
	algorithm, err := algorithmOf(s.Issuer.PublicKey)
	if err != nil {
		return nil, err
	}
	extensions, err := extensionsOf(s, number, more...)
	if err != nil {
		return nil, err
	}
	fields := []byte{tagInteger, 1, 1} // v2
	fields = append(fields, algorithm...)
	fields = append(fields, s.Issuer.RawSubject...)
	fields = appendTime(fields, thisUpdate.Unix())
	fields = appendTime(fields, nextUpdate.Unix())
	if e.size > 0 { // an empty list has no revokedCertificates (RFC 5280 section 5.1.2.6)
		fields = appendHeader(fields, tagSequence, e.size)
	}
	size := len(fields) + e.size + len(extensions)
	if size > maxListSize {
		return nil, fmt.Errorf("a list of %d entries is larger than %d octets", e.count, maxListSize)
	}
	front := appendHeader(make([]byte, headroom, 2*headroom+len(fields)), tagSequence, size)
	return &draft{front: append(front, fields...), entries: e, back: extensions, algorithm: algorithm}, nil
}

// tbs returns what is to be signed.
func (d *draft) tbs() DER { return d.around(d.front[headroom:], d.back) }

func (d *draft) around(front, back []byte) DER {
	return slices.Concat(DER{front}, d.entries.parts(), DER{back})
}

// signed puts the list together (RFC 5280 section 5.1.1). It writes into the draft's headroom, once.
func (d *draft) signed(signature []byte) DER {
	back := slices.Concat(d.back, []byte(d.algorithm), wrap(tagBitString, []byte{0}, signature)) // no unused bits
	size := len(d.front) - headroom + d.entries.size + len(back)
	header := appendHeader(make([]byte, 0, headroom), tagSequence, size)
	start := headroom - len(header)
	copy(d.front[start:], header)
	return d.around(d.front[start:], back)
}

// extensionsOf returns the crlExtensions that each list has: authority key identifier, CRL number and
// issuing distribution point unless it speaks of all certificates (RFC 5280 sections 5.2.1, 5.2.3 and 5.2.5), and more
// after them.
func extensionsOf(s PublishedShard, number uint64, more ...[]byte) ([]byte, error) {
	if len(s.Issuer.SubjectKeyId) == 0 {
		return nil, errors.New("the issuer has no subject key identifier")
	}
	var point []byte
	if !s.Whole {
		idp, err := MarshalIDP(s.URL)
		if err != nil {
			return nil, err
		}
		point = extension(oidIssuingDistributionPoint, isCritical, idp.Value)
	}
	return wrap(tagExtensions, wrap(tagSequence,
		extension(oidAuthorityKeyID, nil, wrap(tagSequence, wrap(tagKeyIdentifier, s.Issuer.SubjectKeyId))),
		extension(oidCRLNumber, nil, unsigned(number)),
		point,
		bytes.Join(more, nil),
	)), nil
}

var isCritical = []byte{tagBoolean, 1, 0xff}

// extension encodes one of X.509's own, 2.5.29.n. It is not critical unless critical, which is in DER, says so.
func extension(id asn1.ObjectIdentifier, critical, value []byte) []byte {
	arcs := []byte{byte(40*id[0] + id[1]), byte(id[2]), byte(id[3])}
	return wrap(tagSequence, wrap(tagOID, arcs), critical, wrap(tagOctetString, value))
}

// unsigned encodes an INTEGER.
func unsigned(n uint64) []byte {
	var octets [9]byte // the first for the sign
	binary.BigEndian.PutUint64(octets[1:], n)
	return wrap(tagInteger, octets[8-bits.Len64(n)/8:])
}

// headerSize is that of an entry and of all in it: none is longer than 127 octets.
const headerSize = 2

// integer splits the serial number's DER in two: whether a zero octet comes first, since the number is not
// negative, and the rest.
func (r *revoked) integer() (zero int, rest []byte) {
	i := 0
	for i < maxSerial-1 && r.serial[i] == 0 {
		i++
	}
	return int(r.serial[i] >> 7), r.serial[i:]
}

// size returns how many octets an entry has after its header.
func (r *revoked) size() int {
	zero, serial := r.integer()
	n := headerSize + zero + len(serial) + headerSize + timeSize(r.at)
	if r.reason != 0 {
		n += len(reasonPrefix) + 1
	}
	return n
}

// appendTo appends the entry. Unspecified is said by leaving the reason out (RFC 5280 section 5.3.1).
func (r *revoked) appendTo(b []byte) []byte {
	zero, serial := r.integer()
	b = append(b, tagSequence, byte(r.size()), tagInteger, byte(zero+len(serial)))
	if zero > 0 {
		b = append(b, 0)
	}
	b = appendTime(append(b, serial...), r.at)
	if r.reason != 0 {
		b = append(append(b, reasonPrefix...), r.reason)
	}
	return b
}

// The years that a UTCTime can tell (RFC 5280 section 5.1.2.4).
const (
	unix1950 = -631_152_000
	unix2050 = 2_524_608_000
)

func isUTCTime(unix int64) bool { return unix1950 <= unix && unix < unix2050 }

// timeSize returns the length of a time's digits and its Z.
func timeSize(unix int64) int {
	if isUTCTime(unix) {
		return len("YYMMDDhhmmssZ")
	}
	return len("YYYYMMDDhhmmssZ")
}

// appendTime appends a UTCTime if that can tell the time, and a GeneralizedTime otherwise.
func appendTime(b []byte, unix int64) []byte {
	t := time.Unix(unix, 0).UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	if isUTCTime(unix) {
		b = append(b, tagUTCTime, byte(timeSize(unix)))
	} else {
		b = append(b, tagTime, byte(timeSize(unix)))
		b = appendTwo(b, year/100)
	}
	b = appendTwo(b, year%100)
	b = appendTwo(b, int(month))
	b = appendTwo(b, day)
	b = appendTwo(b, hour)
	b = appendTwo(b, minute)
	b = appendTwo(b, second)
	return append(b, 'Z')
}

func appendTwo(b []byte, n int) []byte { return append(b, byte('0'+n/10), byte('0'+n%10)) }
