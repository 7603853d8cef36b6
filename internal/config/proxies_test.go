package config

import (
	"strings"
	"testing"
)

func TestProxies(t *testing.T) {
	for name, tt := range map[string]struct {
		p    Proxies
		want string // of the error; empty: none
	}{
		"none":              {Proxies{}, ""},
		"all":               {Proxies{Addresses: []string{"192.0.2.1", "2001:db8::/64"}, Clients: []string{"edge"}, Form: "apache", Header: "X-Cert", Original: "forwarded"}, ""},
		"an address alone":  {Proxies{Addresses: []string{"2001:db8::1"}}, ""},
		"no address":        {Proxies{Addresses: []string{"proxy.example"}}, `proxies.addresses: want an IP address`},
		"a port":            {Proxies{Addresses: []string{"192.0.2.1:443"}}, `not "192.0.2.1:443"`},
		"a zone":            {Proxies{Addresses: []string{"fe80::1%eth0"}}, `want an IP address`},
		"everybody":         {Proxies{Addresses: []string{"0.0.0.0/0"}}, `proxies.addresses: 0.0.0.0/0 is everybody`},
		"a mapped address":  {Proxies{Addresses: []string{"::ffff:192.0.2.1"}}, `proxies.addresses: write ::ffff:192.0.2.1 as`},
		"a mapped prefix":   {Proxies{Addresses: []string{"::ffff:192.0.2.0/120"}}, `proxies.addresses: write ::ffff:192.0.2.0/120 as`},
		"a form for nobody": {Proxies{Form: "nginx"}, "proxies: name the proxies"},
		"an unknown form":   {Proxies{Clients: []string{"edge"}, Form: "pem"}, "proxies.form: want one of apache,"},
		"an unknown origin": {Proxies{Clients: []string{"edge"}, Original: "x-real-ip"}, "proxies.original: want one of"},
		"a header, Envoy":   {Proxies{Clients: []string{"edge"}, Form: "envoy", Header: "X-Cert"}, "proxies.header: only the forms"},
		"a header, no form": {Proxies{Clients: []string{"edge"}, Header: "X-Cert"}, "proxies.header: only the forms"},
	} {
		err := tt.p.Check("proxies")
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	list, err := (&Proxies{Addresses: []string{"192.0.2.1", "10.0.0.0/8"}}).Prefixes()
	if err != nil || len(list) != 2 || list[0].String() != "192.0.2.1/32" || list[1].String() != "10.0.0.0/8" {
		t.Errorf("%v, %v", list, err)
	}
}
