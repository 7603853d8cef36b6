package config

import (
	"fmt"
	"io"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/pkid/pkid/internal/secret"
)

// Print writes the configuration with every default filled in. It holds no secret.
func (c *Config) Print(w io.Writer) error {
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(c); err != nil {
		return fmt.Errorf("writing configuration: %w", err)
	}
	return enc.Close()
}

// PassphraseText says where the passphrase is kept, for people.
func (c *Config) PassphraseText() string {
	kind, name, err := secret.Split("passphrase", c.Passphrase)
	switch {
	case err != nil:
		return c.Passphrase
	case kind == "env":
		return "environment variable " + name
	case kind == "credential":
		return "systemd credential " + name
	}
	path := c.Path(name)
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return path
}
