package boltstore

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"time"
)

// packer writes the texts of an audit entry in few octets. A text that has one of the forms below, exactly as its
// writer writes it, is kept as what it stands for; every other one as it is.
type packer struct {
	serial string // in hex, of the certificate that the entry brought; empty if it brought none
	actor  string
}

// How a text is kept, by its first octet. Less than longText is the length of one that follows as it is.
const (
	longText    = 240 + iota // a length, and the text as it is
	hexText                  // a length, and octets: lower-case hex
	hashText                 // 32 octets: base64url without padding, as thumbprints are written
	secondText               // Unix seconds: RFC 3339 in UTC
	randomText               // 17 octets: what crypto/rand.Text gives
	addressText              // 4 octets: an IPv4 address
	actorText                // the actor
	serialText               // the serial
)

func (p *packer) append(b []byte, s string) []byte {
	start := len(b)
	switch s {
	case "":
		return append(b, 0)
	case p.serial:
		return append(b, serialText)
	case p.actor:
		return append(b, actorText)
	}
	if packed := appendForm(b, s); len(packed) > start {
		back := fields{rest: packed[start:]}
		if (&packer{}).read(&back) == s && !back.short {
			return packed
		}
	}
	b = b[:start]
	if len(s) < longText {
		return append(append(b, byte(len(s))), s...)
	}
	return appendText(append(b, longText), s)
}

// appendForm appends s in the form that its length and first look suggest, and nothing if none does. Only reading it
// back tells whether it was the right one.
func appendForm(b []byte, s string) []byte {
	switch {
	case len(s) == 20 && s[19] == 'Z':
		if at, err := time.Parse(time.RFC3339, s); err == nil {
			return binary.AppendVarint(append(b, secondText), at.Unix())
		}
	case len(s) == 43:
		if packed, err := base64.RawURLEncoding.AppendDecode(append(b, hashText), []byte(s)); err == nil {
			return packed
		}
	case len(s) == randomLen:
		return appendRandom(append(b, randomText), s)
	case len(s) <= len("255.255.255.255") && strings.Count(s, ".") == 3:
		if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
			v4 := a.As4()
			return append(append(b, addressText), v4[:]...)
		}
	case len(s)%2 == 0:
		packed := binary.AppendUvarint(append(b, hexText), uint64(len(s)/2))
		if packed, err := hex.AppendDecode(packed, []byte(s)); err == nil {
			return packed
		}
	}
	return b
}

func (p *packer) read(f *fields) string {
	switch form := f.octet(); form {
	case longText:
		return string(f.text())
	case hexText:
		return hex.EncodeToString(f.text())
	case hashText:
		return base64.RawURLEncoding.EncodeToString(f.take(32))
	case secondText:
		return time.Unix(f.number(), 0).UTC().Format(time.RFC3339)
	case randomText:
		return readRandom(f.take(randomOctets))
	case addressText:
		if v := f.take(4); v != nil {
			return netip.AddrFrom4([4]byte(v)).String()
		}
		return ""
	case actorText:
		return p.actor
	case serialText:
		return p.serial
	default:
		return string(f.take(int(form)))
	}
}

// crypto/rand.Text gives 26 characters of base32, which are 130 bits. encoding/base32 would drop the last two.
const (
	randomLen    = 26
	randomOctets = (randomLen*5 + 7) / 8
	alphabet     = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
)

func appendRandom(b []byte, s string) []byte {
	bits, n := 0, 0
	for i := range len(s) {
		bits, n = bits<<5|max(strings.IndexByte(alphabet, s[i]), 0), n+5
		if n >= 8 {
			n -= 8
			b = append(b, byte(bits>>n))
			bits &= 1<<n - 1
		}
	}
	return append(b, byte(bits<<(8-n)))
}

func readRandom(v []byte) string {
	var out [randomLen]byte
	bits, n, i := 0, 0, 0
	for _, c := range v {
		bits, n = bits<<8|int(c), n+8
		for n >= 5 && i < len(out) {
			n -= 5
			out[i] = alphabet[bits>>n]
			bits &= 1<<n - 1
			i++
		}
	}
	return string(out[:i])
}
