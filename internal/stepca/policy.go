package stepca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/smallstep/certificates/policy"

	"github.com/pkid/pkid/ca"
)

// NameRules permit names, kind by kind. A kind without a rule is refused altogether; "*" permits every name
// of its kind. URIs in rules are in their normal form, as those in certificates are.
type NameRules struct {
	CommonNames []string // exact, but for case
	DNS         []string // "host.example.com", or "*.example.com" for exactly one label more
	IPs         []string // addresses and CIDR ranges
	URIs        []string // a host as in DNS, an exact URI, or a prefix: "urn:uuid:*", "spiffe://example.org/*"
	Emails      []string // "one@example.com", or "@example.com" for every mailbox of that domain

	// Denied takes away again what the rules above permit. Where in doubt it denies: "*.example.com" stands
	// for every host below example.com, however deep, a prefix for itself too, and a mailbox for its name in
	// either case. Its own Denied is not looked at.
	Denied *NameRules
}

// NewNamePolicy compiles rules. It needs at least one that permits.
//
// smallstep's engine does the matching, with an engine of its own for each kind of name and no denying rules
// in it: an engine permits every name of a kind that has only denying rules, and looks at a common name that
// it denied a second time, as a DNS name.
func NewNamePolicy(rules NameRules) (ca.NamePolicy, error) {
	permitted, err := compile(rules, false)
	if err != nil {
		return nil, err
	}
	if len(permitted) == 0 {
		return nil, errors.New("name policy: no rule permits anything")
	}
	p := &namePolicy{permitted: permitted}
	if rules.Denied != nil {
		if p.denied, err = compile(*rules.Denied, true); err != nil {
			return nil, fmt.Errorf("denied: %w", err)
		}
	}
	return p, nil
}

type namePolicy struct {
	permitted, denied map[kind]matcher
}

// Check returns the first name that is not permitted, or that is denied.
func (p *namePolicy) Check(names ca.Names) error {
	all, err := split(names)
	if err != nil {
		return err
	}
	for _, n := range all {
		permit, ok := p.permitted[n.kind]
		if !ok {
			return fmt.Errorf("%s %q: the profile permits no %s at all", n.kind, n.text, n.kind)
		}
		if ok, err := permit(n); err != nil {
			return fmt.Errorf("%s %q: %w", n.kind, n.text, err)
		} else if !ok {
			return fmt.Errorf("%s %q: no rule permits it", n.kind, n.text)
		}
		deny, ok := p.denied[n.kind]
		if !ok {
			continue
		}
		if ok, err := deny(n); err != nil {
			return fmt.Errorf("%s %q: %w", n.kind, n.text, err)
		} else if ok {
			return fmt.Errorf("%s %q: a rule denies it", n.kind, n.text)
		}
	}
	return nil
}

// kind is a kind of name, as it stands in errors.
type kind string

const (
	commonName kind = "common name"
	dnsName    kind = "DNS name"
	ipAddress  kind = "IP address"
	uriName    kind = "URI"
	emailName  kind = "e-mail address"
)

// name is one name of a certificate.
type name struct {
	kind kind
	text string
	ip   netip.Addr // of an IP address
	uri  *url.URL   // of a URI
}

// alone is a certificate of this name and no other, for the engine to look at.
func (n *name) alone() *x509.Certificate {
	c := new(x509.Certificate)
	switch n.kind {
	case commonName:
		c.Subject.CommonName = n.text
	case dnsName:
		c.DNSNames = []string{n.text}
	case ipAddress:
		c.IPAddresses = []net.IP{n.ip.AsSlice()}
	case uriName:
		c.URIs = []*url.URL{n.uri}
	case emailName:
		c.EmailAddresses = []string{n.text}
	}
	return c
}

func split(n ca.Names) ([]name, error) {
	out := make([]name, 0, 1+len(n.DNS)+len(n.IPs)+len(n.URIs)+len(n.Emails))
	out = append(out, name{kind: commonName, text: n.CommonName})
	for _, s := range n.DNS {
		out = append(out, name{kind: dnsName, text: s})
	}
	for _, a := range n.IPs {
		out = append(out, name{kind: ipAddress, text: a.String(), ip: a})
	}
	for _, s := range n.URIs {
		u, err := url.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("URI %q: %w", s, err)
		}
		out = append(out, name{kind: uriName, text: s, uri: u})
	}
	for _, s := range n.Emails {
		out = append(out, name{kind: emailName, text: s})
	}
	return out, nil
}

// matcher reports whether a name meets one of its kind's rules. An error means that this cannot be told, and
// stands for a refusal on both sides.
type matcher func(name) (bool, error)

// compile makes a matcher for each kind that has rules. Rules that deny match more than those that permit.
func compile(r NameRules, denies bool) (map[kind]matcher, error) {
	hosts, patterns, err := splitURIRules(r.URIs)
	if err != nil {
		return nil, err
	}
	for _, e := range r.Emails {
		// The engine writes rules in lower case and compares the local part as it is.
		if local, _, ok := strings.Cut(e, "@"); ok && local != strings.ToLower(local) {
			return nil, fmt.Errorf("e-mail rule %q: write it in lower case", e)
		}
	}
	out := map[kind]matcher{}
	for _, k := range []struct {
		kind  kind
		rules []string
		with  func(...string) policy.NamePolicyOption
	}{
		{commonName, r.CommonNames, policy.WithPermittedCommonNames},
		{dnsName, r.DNS, policy.WithPermittedDNSDomains},
		{ipAddress, r.IPs, policy.WithPermittedIPsOrCIDRs},
		{uriName, hosts, policy.WithPermittedURIDomains},
		{emailName, r.Emails, policy.WithPermittedEmailAddresses},
	} {
		switch {
		case len(k.rules) == 0:
			continue
		case slices.Contains(k.rules, "*"):
			out[k.kind] = func(name) (bool, error) { return true, nil }
			continue
		}
		engine, err := policy.New(k.with(k.rules...), policy.WithSubjectCommonNameVerification())
		if err != nil {
			return nil, fmt.Errorf("%s rule: %w", k.kind, err)
		}
		out[k.kind] = func(n name) (bool, error) { return ask(engine, n) }
	}
	if denies {
		widen(out, dnsName, below(r.DNS, func(n name) string { return n.text }))
		widen(out, uriName, below(hosts, func(n name) string { return n.uri.Hostname() }))
		widen(out, emailName, mailboxes(r.Emails))
	}
	if len(r.URIs) > 0 && !slices.Contains(r.URIs, "*") {
		out[uriName] = matchURI(patterns, out[uriName], denies)
	}
	return out, nil
}

// widen lets a kind's matcher, if it has one, match what also matches.
func widen(matchers map[kind]matcher, k kind, also func(name) bool) {
	if narrow := matchers[k]; narrow != nil {
		matchers[k] = func(n name) (bool, error) {
			if also(n) {
				return true, nil
			}
			return narrow(n)
		}
	}
}

// below matches names whose host is, at whatever depth, below that of a rule such as "*.example.com".
func below(rules []string, host func(name) string) func(name) bool {
	return func(n name) bool {
		return slices.ContainsFunc(rules, func(r string) bool {
			domain, ok := strings.CutPrefix(r, "*.")
			return ok && strings.HasSuffix(strings.ToLower(host(n)), "."+strings.ToLower(domain))
		})
	}
}

// mailboxes matches addresses in either case. Which ones a mail server takes for the same is its own affair
// (RFC 5321 section 2.4), and most take these.
func mailboxes(rules []string) func(name) bool {
	return func(n name) bool {
		return slices.ContainsFunc(rules, func(r string) bool { return strings.EqualFold(r, n.text) })
	}
}

func ask(engine *policy.NamePolicyEngine, n name) (bool, error) {
	err := engine.IsX509CertificateAllowed(n.alone())
	var refused *policy.NamePolicyError
	if errors.As(err, &refused) && refused.Reason == policy.NotAllowed {
		return false, nil
	}
	return err == nil, err
}

// splitURIRules tells host rules, which the engine reads, from URIs and prefixes, which it does not know.
func splitURIRules(rules []string) (hosts, patterns []string, err error) {
	for _, r := range rules {
		prefix, isPrefix := strings.CutSuffix(r, "*")
		switch {
		case !strings.Contains(r, ":"): // "*" as well
			hosts = append(hosts, r)
		case strings.Contains(prefix, "*"):
			return nil, nil, fmt.Errorf("URI rule %q: \"*\" stands at the end only", r)
		case isPrefix && !prefixEnds(prefix):
			return nil, nil, fmt.Errorf("URI rule %q: what comes before \"*\" ends with the \"/\" after the host, or with \":\" or \"/\" later on", r)
		default:
			if err := possible(prefix, isPrefix); err != nil {
				return nil, nil, fmt.Errorf("URI rule %q: %w", r, err)
			}
			patterns = append(patterns, r)
		}
	}
	return hosts, patterns, nil
}

// possible refuses a URI or prefix that no URI in a certificate can meet, such as one with a capital in its
// host: it would permit nothing, or, worse, deny nothing.
func possible(uri string, isPrefix bool) error {
	if isPrefix {
		uri += "x"
	}
	n, err := ca.ParseSANs("x", []string{uri})
	if err == nil && len(n.URIs) == 0 {
		err = errors.New(`a URI has "://", or begins with "urn:"`)
	}
	return err
}

// prefixEnds reports whether a prefix ends where a part of the URI ends, with its host complete: so that
// "spiffe://example.org*" does not permit spiffe://example.org.evil.
func prefixEnds(prefix string) bool {
	if _, rest, ok := strings.Cut(prefix, "://"); ok {
		return strings.Contains(rest, "/") && strings.HasSuffix(rest, "/") && !strings.HasPrefix(rest, "/")
	}
	return strings.HasSuffix(prefix, ":") || strings.HasSuffix(prefix, "/")
}

// matchURI compares with whole URIs and prefixes, and leaves URIs that have a host to hosts, if there is one:
// the engine refuses to look at the others. Package ca lets no URI through that is not in its normal form, so
// no dot segment leads out of a prefix.
func matchURI(patterns []string, hosts matcher, denies bool) matcher {
	return func(n name) (bool, error) {
		for _, p := range patterns {
			prefix, isPrefix := strings.CutSuffix(p, "*")
			if n.text == p || isPrefix && strings.HasPrefix(n.text, prefix) && (denies || n.text != prefix) {
				return true, nil
			}
		}
		if hosts == nil || n.uri.Host == "" {
			return false, nil
		}
		return hosts(n)
	}
}
