package tokenbind

import (
	"strings"
	"testing"
)

func TestNormalURL(t *testing.T) {
	for raw, want := range map[string]string{
		"https://a":                              "https://a/",
		"https://a/":                             "https://a/",
		"https://a?q#f":                          "https://a/",
		"https://a/b?c/../d":                     "https://a/b",
		"https://a/b#c?d":                        "https://a/b",
		"HTTPS://A.B/C":                          "https://a.b/C",
		"https://a:443/b":                        "https://a/b",
		"http://a:80/b":                          "http://a/b",
		"http://a:443/b":                         "http://a:443/b",
		"https://a:/b":                           "https://a/b",
		"https://a:8443/b":                       "https://a:8443/b",
		"https://[::1]:443/b":                    "https://[::1]/b",
		"https://[2001:DB8::1]:8443/":            "https://[2001:db8::1]:8443/",
		"https://a/%7Euser/%2d%2E%5f":            "https://a/~user/-._",
		"https://a/%c3%a9":                       "https://a/%C3%A9",
		"https://a/é":                            "https://a/%C3%A9",
		"https://a/b%2fc":                        "https://a/b%2Fc",
		"https://a/%2541":                        "https://a/%2541",
		"https://a/./b/../c":                     "https://a/c",
		"https://a/b/.":                          "https://a/b/",
		"https://a/b/..":                         "https://a/",
		"https://a/../../b":                      "https://a/b",
		"https://a/%2e%2E/b":                     "https://a/b",
		"https://a/b//c":                         "https://a/b//c",
		"https://a//b/..":                        "https://a//",
		"https://a/.b/..c/d...":                  "https://a/.b/..c/d...",
		"https://a/b;p=1/c=d&e":                  "https://a/b;p=1/c=d&e",
		"https://a/" + strings.Repeat("x", 2000): "https://a/" + strings.Repeat("x", 2000),
	} {
		if got, err := NormalURL(raw); err != nil || got != want {
			t.Errorf("NormalURL(%q) = %q, %v; want %q", raw, got, err, want)
		}
	}
	for _, raw := range []string{
		"", "/", "a", "https:", "https://", "https:///b", "https:a", "ftp://a/b", "javascript:alert(1)",
		"https://u@a/", "https://u:p@a/", "https://@a/", "https://a/%", "https://a/%zz", "https://a b/", "https://a\x00/",
		"https://a/\n", "https://é.example/", "https://[::1", "https://[::1%25eth0]/", "https://a%62/", "https://:443/", "https://a:b/",
		"https://a/" + strings.Repeat("x", maxURL),
	} {
		if got, err := NormalURL(raw); err == nil {
			t.Errorf("NormalURL(%q) = %q, want an error", raw, got)
		}
	}
}

func FuzzHTU(f *testing.F) {
	for _, v := range readVectors(f) {
		if v.URL != "" {
			f.Add(v.URL)
		}
	}
	f.Add("HTTPS://U@[::1]:443/a/%2e%2E/%7e//./b?c#d")
	f.Fuzz(func(t *testing.T, raw string) {
		once, err := NormalURL(raw)
		if err != nil {
			return
		}
		twice, err := NormalURL(once)
		if err != nil || twice != once {
			t.Errorf("%q becomes %q, and that %q, %v", raw, once, twice, err)
		}
		if strings.ContainsAny(once, "?#@ \r\n") && !strings.Contains(raw, "@") {
			t.Errorf("%q becomes %q", raw, once)
		}
		if strings.Contains(once+"/", "/../") || strings.Contains(once+"/", "/./") {
			t.Errorf("%q becomes %q, with dot segments", raw, once)
		}
	})
}
