package tokenbind

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

const maxURL = 2048 // octets of an htu, which has no query

// NormalURL brings an http or https URL into the form in which a proof's htu and a request are compared:
// without query and fragment (RFC 9449 section 4.3), scheme and host in lower case, no default port, percent
// encoding only where it is needed and in upper case, no dot segments, "/" for an empty path (RFC 3986
// sections 6.2.2 and 6.2.3). An URL with user information, or one longer than 2048 octets, is an error.
func NormalURL(raw string) (string, error) {
	raw, _, _ = strings.Cut(raw, "#")
	raw, _, _ = strings.Cut(raw, "?")
	if len(raw) > maxURL {
		return "", fmt.Errorf("an URL of %d octets, at most %d are taken", len(raw), maxURL)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", errors.New("not an URL")
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Opaque != "" || u.Hostname() == "" {
		return "", errors.New("not an absolute http or https URL")
	}
	if u.User != nil {
		return "", errors.New("an URL with user information")
	}
	host, err := normalHost(u)
	if err != nil {
		return "", err
	}
	path := removeDotSegments(normalPercent(u.EscapedPath()))
	if path == "" {
		path = "/"
	}
	return u.Scheme + "://" + host + path, nil
}

func normalHost(u *url.URL) (string, error) {
	host := strings.ToLower(u.Host)
	for _, c := range []byte(host) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"%<>\^{|}`+"`", c) >= 0 {
			return "", errors.New("a host with characters that no host name has (write an IDN in its ASCII form)")
		}
	}
	port := u.Port()
	if port == "" || port == map[string]string{"https": "443", "http": "80"}[u.Scheme] {
		host = strings.TrimSuffix(strings.TrimSuffix(host, port), ":")
	}
	return host, nil
}

// normalPercent decodes what needs no encoding and writes the rest in upper case (RFC 3986 section 6.2.2.2).
// Its input has no broken triplets: it comes from net/url.
func normalPercent(path string) string {
	if !strings.Contains(path, "%") {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' || i+2 >= len(path) {
			b.WriteByte(path[i])
			continue
		}
		if c := unhex(path[i+1])<<4 | unhex(path[i+2]); unreserved(c) {
			b.WriteByte(c)
		} else {
			b.WriteString(strings.ToUpper(path[i : i+3]))
		}
		i += 2
	}
	return b.String()
}

func unhex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	default:
		return c - '0'
	}
}

// unreserved of RFC 3986 section 2.3.
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// removeDotSegments is RFC 3986 section 5.2.4 for a path that is empty or begins with a slash.
func removeDotSegments(path string) string {
	if !strings.Contains(path, "/.") {
		return path
	}
	segments := strings.Split(path, "/")[1:]
	out := make([]string, 0, len(segments))
	for i, s := range segments {
		last := i == len(segments)-1
		switch {
		case s == "." && !last:
		case s == ".":
			out = append(out, "")
		case s == "..":
			out = out[:max(0, len(out)-1)]
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/")
}
