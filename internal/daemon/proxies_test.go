package daemon

import (
	"slices"
	"testing"

	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/tokenbind"
)

// The values that the configuration takes are those that the verifier knows.
func TestProxies_ValuesAgree(t *testing.T) {
	if !slices.Equal(config.ProxyForms, tokenbind.CertificateForms()) {
		t.Errorf("forms: %v and %v", config.ProxyForms, tokenbind.CertificateForms())
	}
	for _, form := range config.ProxyForms {
		for _, original := range append(config.ProxyOriginals, "") {
			d := &Daemon{cfg: &config.Config{Proxies: config.Proxies{Addresses: []string{"192.0.2.1"}, Form: form, Original: original}}}
			if p, err := d.openProxies(); err != nil || p == nil {
				t.Errorf("%s, %s: %v", form, original, err)
			}
		}
	}
	if p, err := (&Daemon{cfg: new(config.Config)}).openProxies(); p != nil || err != nil {
		t.Errorf("proxies that nobody named: %v, %v", p, err)
	}
}
