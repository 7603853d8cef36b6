package crl

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// maxSerial is the longest serial number in octets (RFC 5280 section 4.1.2.2).
const maxSerial = 20

// revoked is an entry as kept in memory: 32 octets.
type revoked struct {
	serial [maxSerial]byte // big endian
	reason uint8
	at     int64 // Unix seconds
}

// compact puts an Entry into this form. The error names the serial that no certificate can have.
func (e Entry) compact() (revoked, error) {
	serial := bytes.TrimLeft(e.Serial, "\x00")
	if len(serial) == 0 || len(serial) > maxSerial {
		return revoked{}, fmt.Errorf("serial number %x: want 1 to %d octets that are not all zero", e.Serial, maxSerial)
	}
	r := revoked{at: e.At.Unix()}
	copy(r.serial[maxSerial-len(serial):], serial)
	if validReason(e.Reason) {
		r.reason = uint8(e.Reason)
	} // else unspecified: an odd reason must not keep a revocation off the list
	return r, nil
}

func (r revoked) entry() Entry {
	return Entry{Serial: bytes.TrimLeft(r.serial[:], "\x00"), Reason: int(r.reason), At: time.Unix(r.at, 0).UTC()}
}

func compareSerials(a, b revoked) int { return bytes.Compare(a.serial[:], b.serial[:]) }

func sortEntries(entries []revoked) []revoked {
	if !slices.IsSortedFunc(entries, compareSerials) {
		slices.SortStableFunc(entries, compareSerials)
	}
	return entries
}

// find returns the entry of a serial number. A number that is no serial is not found.
func find(entries []revoked, serial *big.Int) (revoked, bool) {
	var octets [maxSerial]byte
	if serial.Sign() < 0 || serial.BitLen() > 8*maxSerial {
		return revoked{}, false
	}
	serial.FillBytes(octets[:])
	return findSerial(entries, &octets)
}

func findSerial(entries []revoked, serial *[maxSerial]byte) (revoked, bool) {
	low, high := 0, len(entries)
	for low < high { // slices.BinarySearchFunc would copy each entry that it looks at
		middle := int(uint(low+high) >> 1)
		switch order := bytes.Compare(entries[middle].serial[:], serial[:]); {
		case order == 0:
			return entries[middle], true
		case order < 0:
			low = middle + 1
		default:
			high = middle
		}
	}
	return revoked{}, false
}

// parseEntries reads the content of revokedCertificates, sorted by serial. It refuses what it does not
// understand in full: an entry with an unknown critical extension may mean anything (RFC 5280 section 5.3).
func parseEntries(body []byte) ([]revoked, error) { return parseEntriesWith(body, validReason) }

func parseEntriesWith(body []byte, valid func(reason int) bool) ([]revoked, error) {
	n, err := countEntries(body)
	if err != nil {
		return nil, err
	}
	entries := make([]revoked, 0, n)
	for r := reader(body); len(r) > 0; {
		content, _ := r.take(tagSequence)
		e, err := parseEntry(content, valid)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", len(entries), err)
		}
		entries = append(entries, e)
	}
	return sortEntries(entries), nil
}

// countEntries returns how many there are in the content of revokedCertificates.
func countEntries(body []byte) (n int, err error) {
	for r := reader(body); len(r) > 0; n++ {
		if _, ok := r.take(tagSequence); !ok {
			return 0, fmt.Errorf("entry %d: %w", n, errMalformed)
		}
	}
	return n, nil
}

func parseEntry(body reader, valid func(reason int) bool) (e revoked, err error) {
	serial, ok := body.take(tagInteger)
	if !ok || len(serial) == 0 || serial[0]&0x80 != 0 || (len(serial) > 1 && serial[0] == 0 && serial[1]&0x80 == 0) {
		return e, errors.New("malformed or negative serial number")
	}
	if serial[0] == 0 {
		serial = serial[1:]
	}
	if len(serial) > maxSerial {
		return e, fmt.Errorf("serial number of more than %d octets", maxSerial)
	}
	copy(e.serial[maxSerial-len(serial):], serial)

	tag, text, _, ok := body.next()
	if !ok {
		return e, errMalformed
	}
	if e.at, ok = parseTime(tag, text); !ok {
		return e, errors.New("malformed revocationDate")
	}
	if len(body) == 0 {
		return e, nil
	}
	extensions, ok := body.take(tagSequence)
	if !ok || len(body) > 0 {
		return e, errMalformed
	}
	e.reason, err = parseEntryExtensions(extensions, valid)
	return e, err
}

const (
	oidReasonCode        = "\x55\x1d\x15" // 2.5.29.21
	oidCertificateIssuer = "\x55\x1d\x1d" // 2.5.29.29
)

func parseEntryExtensions(list reader, valid func(reason int) bool) (reason uint8, err error) {
	for len(list) > 0 {
		ext, ok := list.take(tagSequence)
		r := reader(ext)
		oid, okID := r.take(tagOID)
		critical := false
		if r.peek(tagBoolean) {
			value, okBool := r.take(tagBoolean)
			if !okBool || len(value) != 1 || value[0] != 0xff {
				return 0, errMalformed
			}
			critical = true
		}
		value, okValue := r.take(tagOctetString)
		if !ok || !okID || !isOID(oid) || !okValue || len(r) > 0 {
			return 0, errMalformed
		}
		switch {
		case string(oid) == oidCertificateIssuer:
			return 0, errors.New("certificateIssuer: indirect lists are not accepted")
		case string(oid) == oidReasonCode:
			v := reader(value)
			code, ok := v.take(tagEnumerated)
			if !ok || len(v) > 0 || len(code) != 1 || !valid(int(code[0])) {
				return 0, errors.New("reasonCode that such a list cannot have")
			}
			reason = code[0]
		case critical:
			return 0, fmt.Errorf("unknown critical extension %x", oid)
		}
	}
	return reason, nil
}

// parseTime reads a UTCTime or GeneralizedTime in the only forms that RFC 5280 section 5.1.2.4 allows: to the
// second, in Z.
func parseTime(tag byte, text []byte) (unix int64, ok bool) {
	var year int
	var rest []byte
	switch {
	case tag == tagUTCTime && len(text) == len("YYMMDDhhmmssZ"):
		if year = 1900 + two(text); year < 1950 {
			year += 100
		}
		rest = text[2:]
	case tag == tagTime && len(text) == len("YYYYMMDDhhmmssZ"):
		year, rest = 100*two(text)+two(text[2:]), text[4:]
	default:
		return 0, false
	}
	for _, c := range text[:len(text)-1] {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	month, day, hour, minute, second := time.Month(two(rest)), two(rest[2:]), two(rest[4:]), two(rest[6:]), two(rest[8:])
	if rest[10] != 'Z' || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	return time.Date(year, month, day, hour, minute, second, 0, time.UTC).Unix(), true
}

// two returns the number that two digits are.
func two(text []byte) int { return int(text[0])*10 + int(text[1]) - 11*'0' }

func daysIn(year int, month time.Month) int {
	switch month {
	case time.April, time.June, time.September, time.November:
		return 30
	case time.February:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// validReason reports whether a full list may give the reason. 7 is not used, and 8, removeFromCRL, belongs
// to delta lists (RFC 5280 section 5.3.1).
func validReason(code int) bool { return code >= 0 && code <= 10 && code != 7 && code != 8 }

// ReasonName returns the RFC 5280 section 5.3.1 name of a CRLReason.
func ReasonName(code int) string {
	names := [...]string{
		"unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation",
		"certificateHold", 8: "removeFromCRL", 9: "privilegeWithdrawn", 10: "aACompromise",
	}
	if code < 0 || code >= len(names) || names[code] == "" {
		return fmt.Sprintf("reason %d", code)
	}
	return names[code]
}
