package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// readSecret reads the secret of a key of the configuration from where that says, without the end of its line.
func (c *Config) readSecret(key, from string) ([]byte, error) {
	kind, name, err := splitSecret(key, from)
	if err != nil {
		return nil, err
	}
	var text []byte
	switch kind {
	case "env":
		v, ok := os.LookupEnv(name)
		if !ok {
			return nil, fmt.Errorf("%s: environment variable %s is not set", key, name)
		}
		text = []byte(v)
	case "credential":
		dir, ok := os.LookupEnv("CREDENTIALS_DIRECTORY") // set by systemd, see systemd.exec(5), LoadCredential=
		if !ok {
			return nil, fmt.Errorf("%s: no systemd credentials here: start the unit with LoadCredential=%s:/path/to/it", key, name)
		}
		text, err = os.ReadFile(filepath.Join(dir, filepath.Base(name)))
	default:
		text, err = readSecretFile(c.Path(name))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return bytes.TrimRight(text, "\r\n"), nil
}

// AbsoluteSecret makes the path in file:PATH absolute, for a configuration that will be elsewhere. The error names the
// key that s is of.
func AbsoluteSecret(key, s string) (string, error) {
	kind, name, err := splitSecret(key, s)
	if err != nil || kind != "file" {
		return s, err
	}
	if name, err = filepath.Abs(name); err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	return "file:" + name, nil
}

// readSecretFile refuses a file that others than its owner can read.
func readSecretFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if exposed(info) {
		return nil, fmt.Errorf("%s can be read by others (mode %#o): chmod 600 it", path, info.Mode().Perm())
	}
	return os.ReadFile(path)
}

func splitSecret(key, s string) (kind, name string, err error) {
	kind, name, ok := strings.Cut(s, ":")
	if !ok || name == "" || (kind != "file" && kind != "env" && kind != "credential") {
		return "", "", fmt.Errorf("%s: want file:PATH, env:NAME or credential:NAME", key)
	}
	return kind, name, nil
}
