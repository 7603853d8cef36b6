package jws

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep arrays and objects may lie in each other.
const maxDepth = 32

// DecodeObject reads a JSON object (RFC 8259) into what encoding/json would make of it, but refuses all that
// another reader could see differently (RFC 8725 section 2.4): a member that stands twice, at any depth,
// octets that are not UTF-8, half a surrogate pair, a number beyond float64, and text after the object.
// Member names are told apart by case.
func DecodeObject(raw []byte) (map[string]any, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("not UTF-8")
	}
	r := jsonReader{text: string(raw)}
	r.space()
	if r.peek() != '{' {
		return nil, errors.New("not a JSON object")
	}
	o, err := r.object()
	if err != nil {
		return nil, err
	}
	if r.space(); r.at < len(r.text) {
		return nil, r.malformed()
	}
	return o, nil
}

// jsonReader reads JSON from its text. What it returns shares the text's memory.
type jsonReader struct {
	text  string
	at    int
	depth int
}

func (r *jsonReader) malformed() error { return fmt.Errorf("malformed JSON at octet %d", r.at) }

// peek returns the next octet, or 0, which stands nowhere in JSON, at the end.
func (r *jsonReader) peek() byte {
	if r.at < len(r.text) {
		return r.text[r.at]
	}
	return 0
}

// take skips one octet if it is the next.
func (r *jsonReader) take(c byte) bool {
	if r.peek() != c {
		return false
	}
	r.at++
	return true
}

func (r *jsonReader) space() {
	for r.at < len(r.text) && strings.IndexByte(" \t\r\n", r.text[r.at]) >= 0 {
		r.at++
	}
}

// enter counts a level of nesting; the caller leaves it by r.depth--.
func (r *jsonReader) enter() error {
	if r.depth++; r.depth > maxDepth {
		return fmt.Errorf("JSON nested more than %d deep", maxDepth)
	}
	r.at++
	r.space()
	return nil
}

// common are strings that almost every token or proof has; as values they are made once.
var common = func() map[string]any {
	m := map[string]any{}
	for _, s := range []string{"at+jwt", "dpop+jwt", "ES256", "EdDSA", "PS256", "EC", "P-256", "OKP", "Ed25519", "RSA", "GET", "POST"} {
		m[s] = s
	}
	return m
}()

func (r *jsonReader) value() (any, error) {
	switch r.peek() {
	case '{':
		return r.object()
	case '[':
		return r.array()
	case '"':
		s, err := r.str()
		if v, known := common[s]; known {
			return v, err
		}
		return s, err
	case 't':
		return true, r.literal("true")
	case 'f':
		return false, r.literal("false")
	case 'n':
		return nil, r.literal("null")
	default:
		return r.number()
	}
}

func (r *jsonReader) literal(word string) error {
	if !strings.HasPrefix(r.text[r.at:], word) {
		return r.malformed()
	}
	r.at += len(word)
	return nil
}

func (r *jsonReader) object() (map[string]any, error) {
	if err := r.enter(); err != nil {
		return nil, err
	}
	o := make(map[string]any, r.members())
	for first := true; ; first = false {
		if first && r.take('}') {
			break
		}
		name, err := r.member()
		if err != nil {
			return nil, err
		}
		if _, twice := o[name]; twice {
			return nil, fmt.Errorf("member %q stands twice", Short(name))
		}
		if o[name], err = r.value(); err != nil {
			return nil, err
		}
		r.space()
		if r.take('}') {
			break
		}
		if !r.take(',') {
			return nil, r.malformed()
		}
		r.space()
	}
	r.depth--
	return o, nil
}

// members is how many members the outermost object is given room for: what a text of its length has in a token
// or proof, but never much more than a token has. Others are small, and there may be many of them.
func (r *jsonReader) members() int {
	if r.depth > 1 {
		return 0
	}
	return min(len(r.text)/24, 12)
}

// member reads a name and the colon after it.
func (r *jsonReader) member() (string, error) {
	if r.peek() != '"' {
		return "", r.malformed()
	}
	name, err := r.str()
	if err != nil {
		return "", err
	}
	if r.space(); !r.take(':') {
		return "", r.malformed()
	}
	r.space()
	return name, nil
}

func (r *jsonReader) array() ([]any, error) {
	if err := r.enter(); err != nil {
		return nil, err
	}
	list := []any{}
	for first := true; ; first = false {
		if first && r.take(']') {
			break
		}
		v, err := r.value()
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		r.space()
		if r.take(']') {
			break
		}
		if !r.take(',') {
			return nil, r.malformed()
		}
		r.space()
	}
	r.depth--
	return list, nil
}

// number reads what the grammar of RFC 8259 section 6 allows, which is less than strconv would take.
func (r *jsonReader) number() (float64, error) {
	start := r.at
	r.take('-')
	ok := r.take('0') || r.digits()
	if ok && r.take('.') {
		ok = r.digits()
	}
	if ok && (r.take('e') || r.take('E')) {
		_ = r.take('+') || r.take('-')
		ok = r.digits()
	}
	if !ok {
		return 0, r.malformed()
	}
	f, err := strconv.ParseFloat(r.text[start:r.at], 64)
	if err != nil {
		return 0, fmt.Errorf("number %s is out of range", Short(r.text[start:r.at]))
	}
	return f, nil
}

func (r *jsonReader) digits() bool {
	start := r.at
	for c := r.peek(); '0' <= c && c <= '9'; c = r.peek() {
		r.at++
	}
	return r.at > start
}

// str reads a string, the next octet being its quote.
func (r *jsonReader) str() (string, error) {
	r.at++
	for start := r.at; r.at < len(r.text); r.at++ {
		switch c := r.text[r.at]; {
		case c == '"':
			r.at++
			return r.text[start : r.at-1], nil
		case c == '\\':
			return r.escaped(start)
		case c < ' ':
			return "", r.malformed()
		}
	}
	return "", r.malformed()
}

// escaped reads the rest of a string that began at start and has an escape here.
func (r *jsonReader) escaped(start int) (string, error) {
	s := []byte(r.text[start:r.at])
	for r.at < len(r.text) {
		c := r.text[r.at]
		r.at++
		switch {
		case c == '"':
			return string(s), nil
		case c < ' ':
			return "", r.malformed()
		case c != '\\':
			s = append(s, c)
			continue
		}
		if r.take('u') {
			char, err := r.unicode()
			if err != nil {
				return "", err
			}
			s = utf8.AppendRune(s, char)
			continue
		}
		i := strings.IndexByte(`"\/bfnrt`, r.peek())
		if i < 0 {
			return "", r.malformed()
		}
		s = append(s, "\"\\/\b\f\n\r\t"[i])
		r.at++
	}
	return "", r.malformed()
}

// unicode reads the digits of one \u escape, or of the two that make a surrogate pair.
func (r *jsonReader) unicode() (rune, error) {
	char, ok := r.hex()
	if ok && utf16.IsSurrogate(char) {
		var low rune
		if ok = r.take('\\') && r.take('u'); ok {
			low, ok = r.hex()
		}
		char = utf16.DecodeRune(char, low)
		ok = ok && char != utf8.RuneError
	}
	if !ok {
		return 0, r.malformed()
	}
	return char, nil
}

func (r *jsonReader) hex() (rune, bool) {
	if len(r.text)-r.at < 4 {
		return 0, false
	}
	v, err := strconv.ParseUint(r.text[r.at:r.at+4], 16, 16)
	r.at += 4
	return rune(v), err == nil
}
