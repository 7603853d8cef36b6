package client

import (
	"net/http"
	"strings"
)

// challengeError returns the error of the first Bearer or DPoP challenge that has one; other schemes and other
// parameters are skipped (RFC 9449 section 7.1).
func challengeError(refusal http.Header) string {
	for _, value := range refusal.Values("WWW-Authenticate") {
		for _, c := range parseChallenges(value) {
			code := c.params["error"]
			if ours := strings.EqualFold(c.scheme, "Bearer") || strings.EqualFold(c.scheme, "DPoP"); ours && code != "" {
				return code
			}
		}
	}
	return ""
}

// challenge is one of a WWW-Authenticate header (RFC 9110 section 11.6.1).
type challenge struct {
	scheme string
	params map[string]string // by name in lower case; the first of a name counts
}

// parseChallenges takes a header's value apart. A word with a "=" after it is a parameter of the challenge
// before it; one without begins a challenge, or is a token68, which looks like one and does no harm.
func parseChallenges(value string) (out []challenge) {
	for {
		word, rest := cutToken(strings.TrimLeft(value, ", \t"))
		if word == "" {
			return out
		}
		text, isParam := strings.CutPrefix(skipSpace(rest), "=")
		if !isParam {
			out = append(out, challenge{word, map[string]string{}})
			value = rest
			continue
		}
		param, after, ok := cutValue(skipSpace(text))
		if !ok { // the padding of a token68, or malformed
			_, value, _ = strings.Cut(text, ",")
			continue
		}
		if name := strings.ToLower(word); len(out) > 0 {
			params := out[len(out)-1].params
			if _, found := params[name]; !found {
				params[name] = param
			}
		}
		value = after
	}
}

func skipSpace(s string) string { return strings.TrimLeft(s, " \t") }

// cutToken cuts off a token (RFC 9110 section 5.6.2) or a token68 without its padding (section 11.2).
func cutToken(s string) (token, rest string) {
	end := strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"(),:;<=>?@[\]{}`, r) })
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:]
}

// cutValue cuts off a token or a quoted string (RFC 9110 section 5.6.4).
func cutValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		value, rest = cutToken(s)
		return value, rest, value != ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], true
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return "", "", false // it does not end
}
