package config

import (
	"strings"
	"testing"
)

func TestCheckResourceServers(t *testing.T) {
	for text, want := range map[string]string{
		"": "",
		"[{audience: 'https://a'}, {name: b-2, audience: 'https://b', scopes: [x]}]": "",
		"[{audience: api, base_url: 'https://a/v1'}]":                                "",
		"[{audience: api, no_dpop: true}]":                                           "",
		"[{name: a}]":                                                                "verify[0].audience",
		"[{audience: api}]":                                                          "set base_url",
		"[{audience: api, base_url: 'a.example'}]":                                   "verify[0].base_url",
		"[{audience: 'https://a', name: A}]":                                         "verify[0].name",
		"[{audience: 'https://a', name: a/b}]":                                       "verify[0].name",
		"[{audience: 'https://a'}, {audience: 'https://a'}]":                         "verify[1].audience",
		"[{audience: 'https://a', name: x}, {audience: 'b:', name: x}]":              "verify[1].name",
		"[{audience: 'https://a', allow_bearer: true}]":                              "unknown key allow_bearer",
		"[" + strings.Repeat("{audience: 'https://a'},", 101) + "]":                  "at most 100",
	} {
		_, err := Parse([]byte(minimal+"\nproxies: {clients: [gateway]}\nverify: "+text+"\n"), "/srv/pkid")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := Parse([]byte(minimal+"\nverify: [{audience: 'https://a'}]\n"), "/srv/pkid"); err == nil || !strings.Contains(err.Error(), "under proxies") {
		t.Errorf("nobody may ask: %v", err)
	}
}
