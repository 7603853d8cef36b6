package ca

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// validURI accepts absolute URIs in their normal form (RFC 3986 sections 6.2.2 and 6.2.3), so that no rule and
// no relying party reads another name into them: a name that a rule denies must have no second spelling that
// passes.
func validURI(s string) error {
	if err := plain("URI", s, 2048); err != nil {
		return err
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || !u.IsAbs() || u.Opaque == "" && u.Host == "":
		return fmt.Errorf("%w: %q is no absolute URI", ErrNames, s)
	case u.User != nil || strings.Contains(u.Host, "*"):
		return fmt.Errorf("%w: URI %q: no user and no wildcard", ErrNames, s)
	case u.String() != s:
		return fmt.Errorf("%w: URI %q is not in its normal form: lower-case scheme, spaces and the like percent-encoded", ErrNames, s)
	}
	if err := cmp.Or(normalEscapes(s), normalHost(u), normalPath(u), normalScheme(u)); err != nil {
		return fmt.Errorf("%w: URI %q: %w", ErrNames, s, err)
	}
	return nil
}

// normalEscapes refuses percent-encoding of what needs none, and in lower case (section 6.2.2.1 and 6.2.2.2).
func normalEscapes(s string) error {
	for rest := s; ; {
		var found bool
		if _, rest, found = strings.Cut(rest, "%"); !found {
			return nil
		}
		n, err := strconv.ParseUint(rest[:min(2, len(rest))], 16, 8)
		if err != nil || len(rest) < 2 || rest[:2] != fmt.Sprintf("%02X", n) {
			return errors.New("percent-encoding has two upper-case hex digits")
		}
		if c := byte(n); 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			return fmt.Errorf("%%%02X is %q, which needs no percent-encoding", n, c)
		}
	}
}

// defaultPorts of the schemes that a certificate may well name; in the normal form they are left out.
var defaultPorts = map[string]string{"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21", "ldap": "389", "ldaps": "636"}

// normalHost accepts an address in its shortest form, or a name like a DNS name.
func normalHost(u *url.URL) error {
	if u.Host == "" {
		return nil
	}
	port := u.Port()
	n, err := strconv.ParseUint(cmp.Or(port, "1"), 10, 16)
	if err != nil || port != "" && (port == defaultPorts[u.Scheme] || port != strconv.FormatUint(n, 10)) || strings.HasSuffix(u.Host, ":") {
		return errors.New("a port is a number up to 65535 without zeros before it, and is left out if it is empty or the scheme's default")
	}
	host := u.Hostname()
	if a, err := netip.ParseAddr(host); err == nil {
		if a.String() != host || a.Zone() != "" || a.Is4In6() {
			return errors.New("an address is in its shortest form, without a zone")
		}
		return nil
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return errors.New("a host has lower-case letters, digits, hyphens and underscores in its labels, none of them empty")
		}
	}
	return nil
}

// normalPath refuses dot segments (section 6.2.2.3) and empty ones, which many servers merge.
func normalPath(u *url.URL) error {
	segments := strings.Split(strings.TrimPrefix(cmp.Or(u.Opaque, u.EscapedPath()), "/"), "/")
	for i, s := range segments {
		if s == "." || s == ".." || s == "" && i < len(segments)-1 {
			return errors.New("no empty path segment and no dot segment")
		}
	}
	if u.ForceQuery {
		return errors.New("an empty query is left out")
	}
	return nil
}

// normalScheme knows what single schemes ask for beyond that.
func normalScheme(u *url.URL) error {
	switch u.Scheme {
	case "http", "https":
		if u.Path == "" {
			return errors.New(`its path is "/" at least (RFC 9110 section 4.2.3)`)
		}
	case "urn": // RFC 8141 section 3.1, and RFC 9562 section 4 for UUIDs
		space, name, _ := strings.Cut(u.Opaque, ":")
		if space != strings.ToLower(space) || space == "uuid" && name != strings.ToLower(name) {
			return errors.New("a URN's namespace is in lower case, and a UUID too")
		}
	case "spiffe": // SPIFFE-ID section 2
		const segment = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"
		beyond := u.Port() != "" || u.RawQuery != "" || u.Fragment != ""
		if beyond || strings.HasSuffix(u.Path, "/") || strings.Trim(u.EscapedPath(), segment+"/") != "" {
			return errors.New("a SPIFFE ID is a trust domain and a path of letters, digits, dots, hyphens and underscores, with no slash at its end")
		}
	}
	return nil
}
