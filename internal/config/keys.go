package config

import (
	"fmt"
	"net/url"
	"strings"
)

// CheckKey refuses the URI of a key in a device if the device's PIN stands in it: the configuration is printed, copied and
// backed up. The error does not repeat the URI. key is what the operator calls it.
func CheckKey(key, uri string) error {
	text, err := url.QueryUnescape(uri)
	if err != nil {
		text = uri
	}
	if isURI(uri) && strings.Contains(strings.ToLower(text), "pin-value") {
		return fmt.Errorf("%s: the PIN stands in the URI: put it into a file, mode 600, and name that with pin-source=file:/PATH, or with env:NAME or credential:NAME", key)
	}
	return nil
}

func (c *Config) validateKeys() error {
	if err := CheckKey("issuer.key", c.Issuer.Key); err != nil {
		return err
	}
	if err := CheckKey("audit.key", c.Audit.Key); err != nil {
		return err
	}
	for i, k := range c.Tokens.Keys {
		if err := CheckKey(fmt.Sprintf("tokens.keys[%d].key", i), k.Key); err != nil {
			return err
		}
	}
	return nil
}
