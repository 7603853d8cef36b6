package ca_test

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/pkid/pkid/ca"
)

func TestParseSANs(t *testing.T) {
	for _, c := range []struct {
		san  string
		want ca.Names // without the common name
	}{
		{"a.example.com", ca.Names{DNS: []string{"a.example.com"}}},
		{"localhost", ca.Names{DNS: []string{"localhost"}}},
		{"xn--bcher-kva.example", ca.Names{DNS: []string{"xn--bcher-kva.example"}}},
		{"10.0.0.1", ca.Names{IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}},
		{"::ffff:10.0.0.1", ca.Names{IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}},
		{"2001:DB8::1", ca.Names{IPs: []netip.Addr{netip.MustParseAddr("2001:db8::1")}}},
		{"spiffe://example.com/ns/a", ca.Names{URIs: []string{"spiffe://example.com/ns/a"}}},
		{"urn:uuid:00000000-0000-0000-0000-000000000000", ca.Names{URIs: []string{"urn:uuid:00000000-0000-0000-0000-000000000000"}}},
		{"https://example.com/a%20b?q=1", ca.Names{URIs: []string{"https://example.com/a%20b?q=1"}}},
		{"https://example.com:8443/", ca.Names{URIs: []string{"https://example.com:8443/"}}},
		{"https://example.com/a%2Fb/#c", ca.Names{URIs: []string{"https://example.com/a%2Fb/#c"}}},
		{"https://[2001:db8::1]:8443/", ca.Names{URIs: []string{"https://[2001:db8::1]:8443/"}}},
		{"ldap://10.0.0.1:1389/o=a", ca.Names{URIs: []string{"ldap://10.0.0.1:1389/o=a"}}},
		{"spiffe://example_org.test", ca.Names{URIs: []string{"spiffe://example_org.test"}}},
		{"urn:example:A%20b/c", ca.Names{URIs: []string{"urn:example:A%20b/c"}}},
		{"a@example.com", ca.Names{Emails: []string{"a@example.com"}}},
	} {
		c.want.CommonName = "svc"
		got, err := ca.ParseSANs("svc", []string{c.san, c.san})
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: got %+v, %v", c.san, got, err)
		}
	}
}

// TestA33_NamesHaveOneSpelling: embedded NUL, wildcards, and whatever has a second spelling.
func TestA33_NamesHaveOneSpelling(t *testing.T) {
	for why, san := range map[string]string{
		"empty":                  "",
		"NUL":                    "a.example.com\x00.evil.com",
		"wildcard":               "*.example.com",
		"inner wildcard":         "a*.example.com",
		"upper case":             "A.example.com",
		"unicode":                "bücher.example",
		"Kelvin sign":            "\u212Aube.example.com",
		"trailing dot":           "a.example.com.",
		"empty label":            "a..example.com",
		"leading dot":            ".example.com",
		"hyphen":                 "-a.example.com",
		"underscore":             "a_b.example.com",
		"space":                  "a example.com",
		"long label":             strings.Repeat("a", 64) + ".com",
		"long name":              strings.Repeat("a.", 127) + "com",
		"zone":                   "fe80::1%eth0",
		"broken UTF-8":           "a\xff.example.com",
		"URI with NUL":           "urn:a:\x00b",
		"URI scheme":             "HTTPS://example.com/",
		"URI host":               "https://EXAMPLE.com/",
		"URI with space":         "https://example.com/a b",
		"URI with dot segments":  "https://example.com/a/../b",
		"URI with encoded dots":  "https://example.com/a/%2e%2e/b",
		"URI with wildcard host": "https://*.example.com/",
		"URI with user":          "https://a@example.com/",
		"URI without host":       "https:///a",
		"URI with bad escape":    "https://example.com/%zz",
		"URN alone":              "urn:",
		"URI unicode":            "https://example.com/ü",
		"URI without a path":     "https://example.com",
		"URI encoded for nought": "https://example.com/%61dmin",
		"URI encoded tilde":      "urn:example:%7Euser",
		"URI lower-case hex":     "https://example.com/a%2fb",
		"URI encoded query":      "https://example.com/?q=%41",
		"URI empty segment":      "https://example.com//admin",
		"URI empty segment, end": "https://example.com/admin//",
		"URI empty port":         "https://example.com:/admin",
		"URI default port":       "https://example.com:443/admin",
		"URI other default port": "http://example.com:80/admin",
		"URI port with zero":     "https://example.com:08443/admin",
		"URI port too high":      "https://example.com:65536/admin",
		"URI trailing dot":       "https://example.com./admin",
		"URI empty label":        "https://example..com/admin",
		"URI encoded host":       "https://ex%C3%A4mple.com/admin",
		"URI long IPv6":          "https://[2001:db8:0:0::1]/admin",
		"URI IPv6 with a zone":   "https://[fe80::1%25eth0]/admin",
		"URI IPv4 in IPv6":       "https://[::ffff:10.0.0.1]/admin",
		"URI empty query":        "https://example.com/admin?",
		"URI empty fragment":     "https://example.com/admin#",
		"URN upper case":         "urn:EXAMPLE:a",
		"URN dot segments":       "urn:example:a/../b",
		"UUID upper case":        "urn:uuid:F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6",
		"SPIFFE port":            "spiffe://example.com:8443/a",
		"SPIFFE query":           "spiffe://example.com/a?b",
		"SPIFFE empty query":     "spiffe://example.com/a?",
		"SPIFFE fragment":        "spiffe://example.com/a#b",
		"SPIFFE trailing slash":  "spiffe://example.com/a/",
		"SPIFFE encoded":         "spiffe://example.com/a%20b",
		"SPIFFE other character": "spiffe://example.com/a:b",
		"mail with NUL":          "a\x00@example.com",
		"mail with name":         "Alice <a@example.com>",
		"mail wildcard":          "*@example.com",
		"mail unicode":           "ä@example.com",
		"mail without local":     "@example.com",
		"two at signs":           "a@b@example.com",
	} {
		if got, err := ca.ParseSANs("svc", []string{san}); !errors.Is(err, ca.ErrNames) {
			t.Errorf("%s: %q gave %+v, %v", why, san, got, err)
		}
	}
	for why, cn := range map[string]string{
		"empty":         "",
		"NUL":           "root\x00svc",
		"newline":       "svc\n",
		"leading space": " svc",
		"double space":  "the  svc",
		"space":         " ",
		"wildcard":      "*",
		"unicode":       "svć",
		"too long":      strings.Repeat("a", 65),
	} {
		if _, err := ca.ParseSANs(cn, nil); !errors.Is(err, ca.ErrNames) {
			t.Errorf("common name, %s: %q gave %v", why, cn, err)
		}
	}
}

func TestNamesText(t *testing.T) {
	n := ca.Names{CommonName: "b.example.com", DNS: []string{"c.example.com", "b.example.com", "a.example.com", "a.example.com"}}
	if got, want := n.Text(), []string{"b.example.com", "a.example.com", "c.example.com"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// FuzzParseSANs: a name that is taken is read back from its certificate text unchanged.
func FuzzParseSANs(f *testing.F) {
	for _, s := range []string{"a.example.com", "10.0.0.1", "::1", "urn:a:b", "https://example.com/%41?x#y", "a@example.com", "\x00", "*.com"} {
		f.Add("svc", s)
	}
	f.Fuzz(func(t *testing.T, cn, san string) {
		n, err := ca.ParseSANs(cn, []string{san})
		if err != nil {
			if !errors.Is(err, ca.ErrNames) {
				t.Fatalf("%v is no ErrNames", err)
			}
			return
		}
		for _, s := range n.Text() {
			if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
				t.Fatalf("%q was taken", s)
			}
		}
		again, err := ca.ParseSANs(cn, n.Text()[min(1, len(n.Text())-1):])
		if err != nil && len(n.Text()) > 1 {
			t.Fatalf("%q was taken, and its text %q is not: %v", san, n.Text(), err)
		}
		if len(n.Text()) > 1 && !reflect.DeepEqual(again, n) {
			t.Fatalf("%+v reads back as %+v", n, again)
		}
	})
}

func TestParseSerial(t *testing.T) {
	const text = "018f0000aabbccddeeff001122334455"
	for _, s := range []string{text, strings.ToUpper(text), "01:8f:00:00:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55"} {
		got, err := ca.ParseSerial(s)
		if err != nil || got.String() != text {
			t.Errorf("%q: %s, %v", s, got, err)
		}
		if back, err := ca.SerialOf(got.Int()); err != nil || back != got {
			t.Errorf("%q: its number reads back as %s, %v", s, back, err)
		}
	}
	for _, s := range []string{"", "01", text + "00", text[:31], "g" + text[1:], "0x" + text, " " + text, text[:30] + "\x00\x00"} {
		if got, err := ca.ParseSerial(s); !errors.Is(err, ca.ErrSerial) {
			t.Errorf("%q: %s, %v", s, got, err)
		}
	}
	if _, err := ca.SerialOf(nil); !errors.Is(err, ca.ErrSerial) {
		t.Errorf("nil: %v", err)
	}
}

func TestParseSANsCountsAnAddressOnce(t *testing.T) {
	n, err := ca.ParseSANs("a", []string{"2001:db8::1", "2001:db8:0::1", "2001:DB8::1", "192.0.2.1", "::ffff:192.0.2.1"})
	if err != nil || len(n.IPs) != 2 {
		t.Errorf("%v, %v; want two addresses", n.IPs, err)
	}
}
