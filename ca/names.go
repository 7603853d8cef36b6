package ca

import (
	"crypto/x509"
	"fmt"
	"net/mail"
	"net/netip"
	"slices"
	"strings"
)

// Names is what a certificate says about its holder: the subject's common name and the SANs. They come from
// a grant (an invitation, the certificate to be renewed), never from a CSR.
type Names struct {
	CommonName string
	DNS        []string
	IPs        []netip.Addr
	URIs       []string
	Emails     []string
}

// ParseSANs sorts texts as an operator writes them into kinds: an address with "://" or "urn:" is a URI, one
// with "@" an e-mail address, one that parses as an IP address an IP, anything else a DNS name. A name that is
// given twice counts once.
func ParseSANs(commonName string, sans []string) (Names, error) {
	n := Names{CommonName: commonName}
	seen := map[string]bool{}
	for _, s := range sans {
		addr, err := netip.ParseAddr(s)
		one := s
		if err == nil {
			one = addr.Unmap().String() // addresses have several spellings
		}
		if seen[one] {
			continue
		}
		seen[one] = true
		switch {
		case s == "":
			return Names{}, fmt.Errorf("%w: an empty name", ErrNames)
		case err == nil && addr.Zone() != "":
			return Names{}, fmt.Errorf("%w: IP address %q has a zone", ErrNames, s)
		case err == nil:
			n.IPs = append(n.IPs, addr.Unmap())
		case strings.Contains(s, "://") || strings.HasPrefix(s, "urn:"):
			n.URIs = append(n.URIs, s)
		case strings.Contains(s, "@"):
			n.Emails = append(n.Emails, s)
		default:
			n.DNS = append(n.DNS, s)
		}
	}
	return n, n.validate()
}

// validate refuses names that cannot stand in a certificate, whatever a policy says of them, and names that
// have a second spelling: what a policy and a relying party compare must be one text.
func (n Names) validate() error {
	if n.count() > maxNames {
		return fmt.Errorf("%w: more than %d names", ErrNames, maxNames)
	}
	if err := validCommonName(n.CommonName); err != nil {
		return err
	}
	for _, d := range n.DNS {
		if err := validDNS(d); err != nil {
			return err
		}
	}
	for _, a := range n.IPs {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
			return fmt.Errorf("%w: IP address %q: want IPv4, or IPv6 without a zone", ErrNames, a)
		}
	}
	for _, u := range n.URIs {
		if err := validURI(u); err != nil {
			return err
		}
	}
	for _, e := range n.Emails {
		if err := validEmail(e); err != nil {
			return err
		}
	}
	return nil
}

const maxNames = 32

// plain refuses control characters, an embedded NUL above all, and anything beyond ASCII: SANs are IA5Strings,
// and what looks alike should be alike.
func plain(kind, s string, limit int) error {
	if len(s) == 0 || len(s) > limit {
		return fmt.Errorf("%w: a %s has 1 to %d octets, not %d", ErrNames, kind, limit, len(s))
	}
	for _, r := range s {
		if r < 0x20 || r == 0x7f || r > 0x7e {
			return fmt.Errorf("%w: %s %q has a character outside printable ASCII", ErrNames, kind, s)
		}
	}
	return nil
}

// validCommonName refuses "*", which some verifiers take for a wildcard, and spaces that a comparison of
// distinguished names would not see (RFC 4518 section 2.6.1).
func validCommonName(s string) error {
	if s == "" {
		return fmt.Errorf("%w: no common name", ErrNames)
	}
	if err := plain("common name", s, 64); err != nil { // ub-common-name, RFC 5280 appendix A.1
		return err
	}
	if strings.Contains(s, "*") || s != strings.Join(strings.Fields(s), " ") {
		return fmt.Errorf("%w: common name %q: no \"*\", no space at its ends, no two spaces in a row", ErrNames, s)
	}
	return nil
}

func validEmail(s string) error {
	if err := plain("e-mail address", s, 254); err != nil {
		return err
	}
	if a, err := mail.ParseAddress(s); err != nil || a.Address != s || strings.Contains(s, "*") {
		return fmt.Errorf("%w: %q is no e-mail address", ErrNames, s)
	}
	return nil
}

// validDNS accepts lower-case host names (RFC 1123), without wildcards: a client's name is one name.
func validDNS(name string) error {
	if err := plain("DNS name", name, 253); err != nil {
		return err
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("%w: %q is an IP address, no DNS name", ErrNames, name)
	}
	for label := range strings.SplitSeq(name, ".") {
		ok := len(label) >= 1 && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-' &&
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
		if !ok {
			return fmt.Errorf("%w: %q is no DNS name (lower-case letters, digits and hyphens in labels of up to 63; no wildcard)", ErrNames, name)
		}
	}
	return nil
}

// Text lists the common name and every SAN, without repeats, as a search sees them.
func (n Names) Text() []string {
	out := []string{n.CommonName}
	out = append(out, n.DNS...)
	for _, ip := range n.IPs {
		out = append(out, ip.String())
	}
	out = append(out, n.URIs...)
	out = append(out, n.Emails...)
	slices.Sort(out[1:])
	rest := slices.DeleteFunc(slices.Compact(out[1:]), func(s string) bool { return s == n.CommonName })
	return out[:1+len(rest)]
}

// NamesOf reads a certificate's names back.
func NamesOf(c *x509.Certificate) Names {
	n := Names{CommonName: c.Subject.CommonName, DNS: c.DNSNames, Emails: c.EmailAddresses}
	for _, ip := range c.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			n.IPs = append(n.IPs, a.Unmap())
		}
	}
	for _, u := range c.URIs {
		n.URIs = append(n.URIs, u.String())
	}
	return n
}

// equal reports whether both say the same, kind by kind and in the same order.
func (n Names) equal(m Names) bool {
	return n.CommonName == m.CommonName && slices.Equal(n.DNS, m.DNS) && slices.Equal(n.IPs, m.IPs) &&
		slices.Equal(n.URIs, m.URIs) && slices.Equal(n.Emails, m.Emails)
}

// count is the number of subject alternative names.
func (n Names) count() int { return len(n.DNS) + len(n.IPs) + len(n.URIs) + len(n.Emails) }
