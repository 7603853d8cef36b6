package stepca

import (
	"net/netip"
	"testing"

	"github.com/pkid/pkid/ca"
)

func names(kind, text string) ca.Names {
	n := ca.Names{CommonName: "svc"}
	switch kind {
	case "cn":
		n.CommonName = text
	case "dns":
		n.DNS = []string{text}
	case "ip":
		n.IPs = []netip.Addr{netip.MustParseAddr(text)}
	case "uri":
		n.URIs = []string{text}
	case "email":
		n.Emails = []string{text}
	}
	return n
}

func TestNamePolicy(t *testing.T) {
	svc := []string{"svc"}
	for _, c := range []struct {
		why        string
		rules      NameRules
		kind, text string
		ok         bool
	}{
		{"exact common name", NameRules{CommonNames: svc}, "cn", "svc", true},
		{"common name, other case", NameRules{CommonNames: svc}, "cn", "SVC", true},
		{"another common name", NameRules{CommonNames: svc}, "cn", "svc2", false},
		{"any common name", NameRules{CommonNames: []string{"*"}}, "cn", "whatever it is", true},
		{"a common name is not permitted by DNS rules", NameRules{DNS: []string{"*.example.com"}}, "cn", "a.example.com", false},
		{"nor beside others", NameRules{CommonNames: svc, DNS: []string{"*"}}, "cn", "a.example.com", false},

		{"DNS without a rule", NameRules{CommonNames: svc}, "dns", "a.example.com", false},
		{"DNS exact", NameRules{CommonNames: svc, DNS: []string{"a.example.com"}}, "dns", "a.example.com", true},
		{"DNS one label", NameRules{CommonNames: svc, DNS: []string{"*.example.com"}}, "dns", "a.example.com", true},
		{"DNS two labels", NameRules{CommonNames: svc, DNS: []string{"*.example.com"}}, "dns", "a.b.example.com", false},
		{"DNS no label", NameRules{CommonNames: svc, DNS: []string{"*.example.com"}}, "dns", "example.com", false},
		{"DNS suffix without dot", NameRules{CommonNames: svc, DNS: []string{"*.example.com"}}, "dns", "evilexample.com", false},
		{"DNS wildcard name", NameRules{CommonNames: svc, DNS: []string{"*.example.com"}}, "dns", "*.example.com", false},
		{"any DNS", NameRules{CommonNames: svc, DNS: []string{"*"}}, "dns", "a.b.c", true},

		{"IP without a rule", NameRules{CommonNames: svc, DNS: []string{"*"}}, "ip", "10.0.0.1", false},
		{"IP in range", NameRules{CommonNames: svc, IPs: []string{"10.0.0.0/8"}}, "ip", "10.1.2.3", true},
		{"IP outside range", NameRules{CommonNames: svc, IPs: []string{"10.0.0.0/8"}}, "ip", "11.1.2.3", false},
		{"IPv6 in range", NameRules{CommonNames: svc, IPs: []string{"2001:db8::/32"}}, "ip", "2001:db8::1", true},
		{"IPv6 in all IPv4", NameRules{CommonNames: svc, IPs: []string{"0.0.0.0/0"}}, "ip", "2001:db8::1", false},
		{"IP itself", NameRules{CommonNames: svc, IPs: []string{"10.0.0.1"}}, "ip", "10.0.0.1", true},
		{"any IP", NameRules{CommonNames: svc, IPs: []string{"*"}}, "ip", "2001:db8::1", true},

		{"URI without a rule", NameRules{CommonNames: svc, DNS: []string{"*"}}, "uri", "https://a.example.com/", false},
		{"URI host", NameRules{CommonNames: svc, URIs: []string{"*.example.com"}}, "uri", "https://a.example.com/x", true},
		{"URI host and port", NameRules{CommonNames: svc, URIs: []string{"*.example.com"}}, "uri", "https://a.example.com:8443/x", true},
		{"URI other host", NameRules{CommonNames: svc, URIs: []string{"*.example.com"}}, "uri", "https://a.example.org/x", false},
		{"URI of an address", NameRules{CommonNames: svc, URIs: []string{"*.example.com"}}, "uri", "https://10.0.0.1/x", false},
		{"urn with a host rule", NameRules{CommonNames: svc, URIs: []string{"example.com"}}, "uri", "urn:uuid:1", false},
		{"urn with a prefix", NameRules{CommonNames: svc, URIs: []string{"urn:uuid:*"}}, "uri", "urn:uuid:1", true},
		{"urn with another prefix", NameRules{CommonNames: svc, URIs: []string{"urn:uuid:*"}}, "uri", "urn:other:1", false},
		{"the prefix alone", NameRules{CommonNames: svc, URIs: []string{"urn:uuid:*"}}, "uri", "urn:uuid:", false},
		{"spiffe prefix", NameRules{CommonNames: svc, URIs: []string{"spiffe://example.org/ns/*"}}, "uri", "spiffe://example.org/ns/a", true},
		{"spiffe other trust domain", NameRules{CommonNames: svc, URIs: []string{"spiffe://example.org/*"}}, "uri", "spiffe://example.org.evil/a", false},
		{"prefix and host rules together", NameRules{CommonNames: svc, URIs: []string{"urn:uuid:*", "example.com"}}, "uri", "https://example.com/", true},
		{"exact URI", NameRules{CommonNames: svc, URIs: []string{"urn:a:b"}}, "uri", "urn:a:b", true},
		{"exact URI, longer", NameRules{CommonNames: svc, URIs: []string{"urn:a:b"}}, "uri", "urn:a:bc", false},
		{"any URI", NameRules{CommonNames: svc, URIs: []string{"*"}}, "uri", "urn:uuid:1", true},
		{"any URI beside a prefix", NameRules{CommonNames: svc, URIs: []string{"*", "urn:a:*"}}, "uri", "urn:uuid:1", true},

		{"mail without a rule", NameRules{CommonNames: svc, DNS: []string{"*"}}, "email", "a@example.com", false},
		{"mail domain", NameRules{CommonNames: svc, Emails: []string{"@example.com"}}, "email", "a@example.com", true},
		{"mail subdomain", NameRules{CommonNames: svc, Emails: []string{"@example.com"}}, "email", "a@b.example.com", false},
		{"mail itself", NameRules{CommonNames: svc, Emails: []string{"a@example.com"}}, "email", "a@example.com", true},
		{"mail other", NameRules{CommonNames: svc, Emails: []string{"a@example.com"}}, "email", "b@example.com", false},

		{"denied common name", NameRules{CommonNames: []string{"*"}, Denied: &NameRules{CommonNames: []string{"root"}}}, "cn", "Root", false},
		{"denied common name that DNS rules permit", NameRules{
			CommonNames: []string{"*"}, DNS: []string{"*.example.com"},
			Denied: &NameRules{CommonNames: []string{"a.example.com"}},
		}, "cn", "a.example.com", false},
		{"not denied", NameRules{CommonNames: []string{"*"}, Denied: &NameRules{CommonNames: []string{"root"}}}, "cn", "svc", true},
		{"denied DNS", NameRules{CommonNames: svc, DNS: []string{"*"}, Denied: &NameRules{DNS: []string{"a.example.com"}}}, "dns", "a.example.com", false},
		{"denied DNS one label", NameRules{CommonNames: svc, DNS: []string{"*"}, Denied: &NameRules{DNS: []string{"*.corp.example"}}}, "dns", "a.corp.example", false},
		{"denied DNS two labels", NameRules{CommonNames: svc, DNS: []string{"*"}, Denied: &NameRules{DNS: []string{"*.corp.example"}}}, "dns", "a.b.corp.example", false},
		{"denied DNS four labels", NameRules{CommonNames: svc, DNS: []string{"*"}, Denied: &NameRules{DNS: []string{"*.Corp.example"}}}, "dns", "a.b.c.d.corp.example", false},
		{"denied DNS below, not itself", NameRules{CommonNames: svc, DNS: []string{"*"}, Denied: &NameRules{DNS: []string{"*.corp.example"}}}, "dns", "corp.example", true},
		{"denied DNS suffix without dot", NameRules{CommonNames: svc, DNS: []string{"*"}, Denied: &NameRules{DNS: []string{"*.corp.example"}}}, "dns", "a.notcorp.example", true},
		{"denied host, two labels", NameRules{CommonNames: svc, URIs: []string{"*"}, Denied: &NameRules{URIs: []string{"*.corp.example"}}}, "uri", "https://a.b.corp.example:8443/x", false},
		{"denied host beside a prefix", NameRules{CommonNames: svc, URIs: []string{"*"}, Denied: &NameRules{URIs: []string{"urn:a:*", "*.corp.example"}}}, "uri", "https://a.b.corp.example/x", false},
		{"denied prefix", NameRules{CommonNames: svc, URIs: []string{"*"}, Denied: &NameRules{URIs: []string{"https://a.example/admin/*"}}}, "uri", "https://a.example/admin/x", false},
		{"denied prefix itself", NameRules{CommonNames: svc, URIs: []string{"*"}, Denied: &NameRules{URIs: []string{"https://a.example/admin/*"}}}, "uri", "https://a.example/admin/", false},
		{"denied mail", NameRules{CommonNames: svc, Emails: []string{"@example.com"}, Denied: &NameRules{Emails: []string{"root@example.com"}}}, "email", "root@example.com", false},
		{"denied mail, other case", NameRules{CommonNames: svc, Emails: []string{"@example.com"}, Denied: &NameRules{Emails: []string{"root@example.com"}}}, "email", "Root@Example.com", false},
		{"not denied mail", NameRules{CommonNames: svc, Emails: []string{"@example.com"}, Denied: &NameRules{Emails: []string{"root@example.com"}}}, "email", "roots@example.com", true},
		{"permitted mail, other case", NameRules{CommonNames: svc, Emails: []string{"root@example.com"}}, "email", "Root@example.com", false},
		{"denying a kind permits nothing of it", NameRules{CommonNames: svc, Denied: &NameRules{Emails: []string{"@example.org"}}}, "email", "a@example.com", false},
		{"denied host, urn", NameRules{CommonNames: svc, URIs: []string{"*"}, Denied: &NameRules{URIs: []string{"example.com"}}}, "uri", "urn:a:b", true},
		{"denied host", NameRules{CommonNames: svc, URIs: []string{"*"}, Denied: &NameRules{URIs: []string{"example.com"}}}, "uri", "https://example.com/", false},
		{"denied host cannot be told", NameRules{CommonNames: svc, URIs: []string{"*"}, Denied: &NameRules{URIs: []string{"example.com"}}}, "uri", "https://10.0.0.1/", false},
	} {
		t.Run(c.why, func(t *testing.T) {
			p, err := NewNamePolicy(c.rules)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Check(names(c.kind, c.text)); (err == nil) != c.ok {
				t.Errorf("%s %q: got %v, want ok %v", c.kind, c.text, err, c.ok)
			}
		})
	}
}

func TestNamePolicyRefusesRules(t *testing.T) {
	for why, rules := range map[string]NameRules{
		"none":                    {},
		"only denying":            {Denied: &NameRules{DNS: []string{"a.example.com"}}},
		"empty common name":       {CommonNames: []string{" "}},
		"DNS with inner wildcard": {DNS: []string{"a.*.com"}},
		"DNS leading dot":         {DNS: []string{".example.com"}},
		"IP range":                {IPs: []string{"10.0.0.0/33"}},
		"mail with capital":       {Emails: []string{"A@example.com"}},
		"mail with wildcard":      {Emails: []string{"*@example.com"}},
		"URI prefix in host":      {URIs: []string{"spiffe://example.org*"}},
		"URI prefix without host": {URIs: []string{"spiffe://*"}},
		"URI prefix of file":      {URIs: []string{"file:///*"}},
		"URI inner wildcard":      {URIs: []string{"urn:*:a"}},
		"URI host with port":      {URIs: []string{"example.com*"}},
		"URI with capital":        {URIs: []string{"https://Example.com/*"}},
		"URI with default port":   {URIs: []string{"https://example.com:443/"}},
		"URI encoded for nought":  {URIs: []string{"https://example.com/%61/*"}},
		"URI of another kind":     {URIs: []string{"mailto:*"}},
		"denied URI with capital": {CommonNames: []string{"*"}, Denied: &NameRules{URIs: []string{"urn:EXAMPLE:*"}}},
		"denied is wrong":         {CommonNames: []string{"*"}, Denied: &NameRules{DNS: []string{""}}},
	} {
		if _, err := NewNamePolicy(rules); err == nil {
			t.Errorf("%s: accepted", why)
		}
	}
}
