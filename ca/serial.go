package ca

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
	"time"
)

// Serial is a certificate's serial number: 16 octets, big endian. The first six are Unix milliseconds, so
// that serials sort by time and a B+tree grows at its right edge; the last ten are random (80 bits, more
// than the 64 that CA/Browser Forum rules ask). Its text form is 32 lower-case hex digits.
type Serial [16]byte

// ErrSerial reports a text that is no serial.
var ErrSerial = errors.New("a serial is 32 hex digits, as `pkictl list` shows it")

// newSerial draws a serial for a certificate issued now. The first octet stays below 0x80 until the year
// 6429, so the DER INTEGER is positive and at most 16 octets (RFC 5280 section 4.1.2.2 allows 20).
func newSerial(now time.Time) Serial {
	s := firstSerial(now)
	rand.Read(s[6:])
	return s
}

// firstSerial is not above any serial number that newSerial draws at now or later.
func firstSerial(now time.Time) (s Serial) {
	binary.BigEndian.PutUint64(s[:8], uint64(now.UnixMilli())<<16)
	return s
}

// ParseSerial reads hex digits in either case, with or without colons. The error is ErrSerial.
func ParseSerial(text string) (Serial, error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil || len(raw) != len(Serial{}) {
		return Serial{}, ErrSerial
	}
	return Serial(raw), nil
}

// SerialOf returns a certificate's serial number. The error is ErrSerial: the number is none of ours.
func SerialOf(n *big.Int) (Serial, error) {
	if n == nil || n.Sign() <= 0 || n.BitLen() > 128 {
		return Serial{}, ErrSerial
	}
	var s Serial
	n.FillBytes(s[:])
	return s, nil
}

func (s Serial) String() string { return hex.EncodeToString(s[:]) }

// Int returns the number for a certificate or a CRL entry.
func (s Serial) Int() *big.Int { return new(big.Int).SetBytes(s[:]) }

// IsZero reports whether s was never set.
func (s Serial) IsZero() bool { return s == Serial{} }

// MarshalText writes the hex form.
func (s Serial) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what ParseSerial reads.
func (s *Serial) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSerial(string(b))
	return err
}
