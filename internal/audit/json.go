package audit

import (
	"encoding/hex"
	"slices"
	"strconv"
	"unicode/utf8"
)

// appendJSON appends what encoding/json writes for e, octet for octet: each act pays for it before it can be
// committed, and reflection takes ten times as long. The error is that of a time that JSON cannot tell.
func (e *Entry) appendJSON(b []byte) ([]byte, error) {
	b = strconv.AppendUint(append(b, `{"seq":`...), e.Seq, 10)
	b, err := e.Time.AppendText(append(b, `,"time":"`...))
	if err != nil {
		return nil, err
	}
	b = appendString(append(b, `","actor":`...), e.Actor)
	if e.Address != "" {
		b = appendString(append(b, `,"address":`...), e.Address)
	}
	if e.RequestID != "" {
		b = appendString(append(b, `,"request_id":`...), e.RequestID)
	}
	b = appendString(append(b, `,"action":`...), e.Action)
	b = appendString(append(b, `,"subject":`...), e.Subject)
	if len(e.Detail) > 0 {
		b = appendDetail(append(b, `,"detail":`...), e.Detail)
	}
	b = hex.AppendEncode(append(b, `,"prev":"`...), e.Prev[:])
	b = hex.AppendEncode(append(b, `","hash":"`...), e.Hash[:])
	return append(b, `"}`...), nil
}

func appendDetail(b []byte, detail map[string]string) []byte {
	var room [8]string
	keys := room[:0]
	for k := range detail {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	sep := byte('{')
	for _, k := range keys {
		b = appendString(append(b, sep), k)
		b = appendString(append(b, ':'), detail[k])
		sep = ','
	}
	return append(b, '}')
}

const hexDigits = "0123456789abcdef"

// appendString escapes as encoding/json does: what JSON demands, and what would end a script element.
func appendString(b []byte, s string) []byte {
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
		t[c] = c >= ' ' && !slices.Contains([]byte(`"\<>&`), byte(c))
	}
	return t
}()
