package boltstore

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// pattern is a certificate that others of its issuer and profile are stored as a difference to: they share the
// issuer's name, the extensions, the algorithms and the URLs, which is more than half of each. It never changes.
type pattern struct {
	id              uint64
	issuer, profile string
	der             []byte
	index           [1 << indexBits]uint16 // hash of a window of der -> 1 + where that window begins
}

const (
	indexBits  = 10
	window     = 8 // octets that must agree to find a copy anywhere in the pattern
	minCopy    = 6 // octets that must agree to go on copying where the pattern goes on
	maxPattern = math.MaxUint16 - window
)

func newPattern(id uint64, issuer, profile string, der []byte) *pattern {
	p := &pattern{id: id, issuer: issuer, profile: profile, der: der}
	for i := 0; i+window <= len(der); i++ {
		p.index[windowHash(der[i:])] = uint16(i + 1)
	}
	return p
}

func windowHash(b []byte) uint64 {
	return binary.LittleEndian.Uint64(b) * 0x9e3779b97f4a7c15 >> (64 - indexBits)
}

// appendDifference appends the length of text, and text as steps: so many octets as they are, then so many from the
// pattern, which mostly goes on where it would if only the octets in between had changed.
func (p *pattern) appendDifference(b, text []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(text)))
	expected, start := 0, 0 // where the pattern would go on; where the octets as they are begin
	for i := 0; i < len(text); {
		from, n := p.find(text[i:], expected)
		if n == 0 {
			i++
			expected++
			continue
		}
		b = binary.AppendUvarint(b, uint64(i-start))
		b = append(b, text[start:i]...)
		b = binary.AppendVarint(b, int64(from-expected))
		b = binary.AppendUvarint(b, uint64(n))
		i += n
		start, expected = i, from+n
	}
	b = binary.AppendUvarint(b, uint64(len(text)-start))
	return append(b, text[start:]...)
}

// find returns where in the pattern text begins, and how much of it is there; n is 0 if it is not worth a step.
func (p *pattern) find(text []byte, expected int) (from, n int) {
	if expected < len(p.der) {
		if n := common(p.der[expected:], text); n >= minCopy {
			return expected, n
		}
	}
	if len(text) < window {
		return 0, 0
	}
	if at := int(p.index[windowHash(text)]); at > 0 {
		if n := common(p.der[at-1:], text); n >= window {
			return at - 1, n
		}
	}
	return 0, 0
}

// common is how many octets a and b begin with alike.
func common(a, b []byte) int {
	n, most := 0, min(len(a), len(b))
	for ; n+8 <= most; n += 8 {
		if d := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); d != 0 {
			return n + bits.TrailingZeros64(d)/8
		}
	}
	for n < most && a[n] == b[n] {
		n++
	}
	return n
}

// text puts together what appendDifference took apart. It reports false if that is damaged.
func (p *pattern) text(difference []byte) ([]byte, bool) {
	f := fields{rest: difference}
	size := f.count()
	if f.short || size > maxText {
		return nil, false
	}
	b := make([]byte, 0, size)
	for expected := 0; ; {
		plain := f.text()
		b = append(b, plain...)
		if len(f.rest) == 0 || uint64(len(b)) > size {
			return b, !f.short && uint64(len(b)) == size
		}
		from := int64(expected+len(plain)) + f.number()
		n := f.count()
		if f.short || from < 0 || from > int64(len(p.der)) || n > uint64(len(p.der))-uint64(from) {
			return nil, false
		}
		b = append(b, p.der[from:][:n]...)
		expected = int(from) + int(n)
	}
}

// maxText bounds what a few damaged octets can grow to.
const maxText = 1 << 20
