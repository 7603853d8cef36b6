package config

import (
	"fmt"

	"github.com/pkid/pkid/internal/secret"
)

// MinPassphrase is the shortest passphrase that is taken, in octets.
const MinPassphrase = 16

// ReadPassphrase reads the passphrase from where the configuration says. The error says where that is.
func (c *Config) ReadPassphrase() ([]byte, error) {
	text, err := c.readSecret("passphrase", c.Passphrase)
	if err == nil && len(text) < MinPassphrase {
		err = fmt.Errorf("passphrase: %s holds %d octets; want at least %d", c.Passphrase, len(text), MinPassphrase)
	}
	if err != nil {
		return nil, err
	}
	return text, nil
}

// readSecret reads the secret of a key of the configuration.
func (c *Config) readSecret(key, from string) ([]byte, error) { return secret.Read(key, from, c.dir) }
