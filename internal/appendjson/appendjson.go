// Package appendjson appends JSON to a buffer, octet for octet as encoding/json writes it, for what is written so
// often that reflection would cost more than all the rest.
package appendjson

import (
	"strings"
	"unicode/utf8"
)

// Strings appends an array of strings; an empty one for nil too.
func Strings(b []byte, list []string) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = String(b, s)
	}
	return append(b, ']')
}

const hexDigits = "0123456789abcdef"

// String appends a string. It escapes what JSON demands, and what would end a script element or, in JavaScript, a
// line; octets that are not UTF-8 become U+FFFD.
func String(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0 // of what needs no escape and is not yet appended
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if !plain[c] {
				b = appendEscape(append(b, s[start:i]...), c)
				start = i + 1
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(append(b, s[start:i]...), `\ufffd`...)
			start = i + size
		case r == '\u2028' || r == '\u2029': // line ends in JavaScript
			b = append(append(b, s[start:i]...), `\u202`...)
			b = append(b, hexDigits[r&0xf])
			start = i + size
		}
		i += size
	}
	return append(append(b, s[start:]...), '"')
}

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\b':
		return append(b, '\\', 'b')
	case '\f':
		return append(b, '\\', 'f')
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}

// plain are the ASCII characters that stand for themselves.
var plain = func() (t [utf8.RuneSelf]bool) {
	for c := range t {
		t[c] = c >= ' ' && !strings.ContainsRune(`"\<>&`, rune(c))
	}
	return t
}()
