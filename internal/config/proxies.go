package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Proxies are the reverse proxies that end TLS before pkid and may speak for their clients: for their certificates, their
// addresses and the host that they asked. docs/resource-servers has what each proxy is to be told; one that is named here
// and does not replace what its clients send is a hole.
type Proxies struct {
	// Addresses that they connect from, and nobody else can: IP addresses, or prefixes such as 10.1.2.0/24. From these,
	// operators cannot connect directly.
	Addresses []string `yaml:"addresses,omitempty"`
	// Clients are the ids of their clients here: whoever connects with an active certificate of one is a proxy. A revoked
	// certificate, or a disabled client, is none any more at once. A certificate for operators never makes one.
	Clients []string `yaml:"clients,omitempty"`
	// Form is how they hand on their clients' certificates: "rfc9440" (Client-Cert), "nginx" ($ssl_client_escaped_cert),
	// "haproxy" (base64 of the DER), "apache" (%{SSL_CLIENT_CERT}s), "envoy" (X-Forwarded-Client-Cert) or "traefik"
	// (X-Forwarded-Tls-Client-Cert). Default: not at all.
	Form string `yaml:"form,omitempty"`
	// Header is the name of the header with the certificate, for nginx, haproxy and apache. Default X-SSL-Client-Cert.
	Header string `yaml:"header,omitempty"`
	// Original says by which headers they tell host, scheme and address of their clients' requests: "x-forwarded"
	// (X-Forwarded-Host, -Proto and -For), "forwarded" (RFC 7239) or "none". Default x-forwarded.
	Original string `yaml:"original,omitempty"`
}

// Named reports whether there are any.
func (p *Proxies) Named() bool { return len(p.Addresses) > 0 || len(p.Clients) > 0 }

// Prefixes are the addresses; those of one host are prefixes of all its bits.
func (p *Proxies) Prefixes() ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range p.Addresses {
		prefix, err := netip.ParsePrefix(text)
		if addr, notPrefix := netip.ParseAddr(text); notPrefix == nil {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil || strings.Contains(text, "%") {
			return nil, fmt.Errorf("addresses: want an IP address or a prefix such as 10.1.2.0/24, not %q", text)
		}
		switch {
		case prefix.Bits() == 0:
			return nil, fmt.Errorf("addresses: %s is everybody, who would then speak for every client", text)
		case prefix.Addr().Is4In6():
			return nil, fmt.Errorf("addresses: write %s as an IPv4 address", text)
		}
		list = append(list, prefix)
	}
	return list, nil
}

// ProxyForms and ProxyOriginals are the values of form and original.
var (
	ProxyForms     = []string{"apache", "envoy", "haproxy", "nginx", "rfc9440", "traefik"}
	ProxyOriginals = []string{"x-forwarded", "forwarded", "none"}
)

// Check names what is wrong, as of a section of that key.
func (p *Proxies) Check(key string) error {
	if !p.Named() && (p.Form != "" || p.Header != "" || p.Original != "") {
		return fmt.Errorf("%s: name the proxies, by addresses or clients", key)
	}
	return p.CheckValues(key)
}

// CheckValues is Check where proxies may be named elsewhere.
func (p *Proxies) CheckValues(key string) error {
	_, err := p.Prefixes()
	switch {
	case err != nil:
		return fmt.Errorf("%s.%w", key, err)
	case p.Form != "" && !slices.Contains(ProxyForms, p.Form):
		return fmt.Errorf("%s.form: want one of %s, not %q", key, strings.Join(ProxyForms, ", "), p.Form)
	case p.Original != "" && !slices.Contains(ProxyOriginals, p.Original):
		return fmt.Errorf("%s.original: want one of %s, not %q", key, strings.Join(ProxyOriginals, ", "), p.Original)
	case p.Header != "" && !slices.Contains([]string{"nginx", "haproxy", "apache"}, p.Form):
		return errors.New(key + ".header: only the forms nginx, haproxy and apache have a header of your choice")
	}
	return nil
}
