package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// MinPassphrase is the shortest passphrase that is taken, in octets.
const MinPassphrase = 16

// ReadPassphrase reads the passphrase from where the configuration says. The error says where that is.
func (c *Config) ReadPassphrase() ([]byte, error) {
	kind, name, err := splitPassphrase(c.Passphrase)
	if err != nil {
		return nil, err
	}
	var text []byte
	switch kind {
	case "env":
		v, ok := os.LookupEnv(name)
		if !ok {
			return nil, fmt.Errorf("passphrase: environment variable %s is not set", name)
		}
		text = []byte(v)
	case "credential":
		dir, ok := os.LookupEnv("CREDENTIALS_DIRECTORY") // set by systemd, see systemd.exec(5), LoadCredential=
		if !ok {
			return nil, fmt.Errorf("passphrase: no systemd credentials here: start the unit with LoadCredential=%s:/path/to/it", name)
		}
		text, err = os.ReadFile(filepath.Join(dir, filepath.Base(name)))
	default:
		text, err = readSecretFile(c.Path(name))
	}
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	text = bytes.TrimRight(text, "\r\n")
	if len(text) < MinPassphrase {
		return nil, fmt.Errorf("passphrase: %s holds %d octets; want at least %d", c.Passphrase, len(text), MinPassphrase)
	}
	return text, nil
}

// AbsolutePassphrase makes the path of a file: passphrase absolute, for a configuration that will be elsewhere.
func AbsolutePassphrase(s string) (string, error) {
	kind, name, err := splitPassphrase(s)
	if err != nil || kind != "file" {
		return s, err
	}
	if name, err = filepath.Abs(name); err != nil {
		return "", fmt.Errorf("passphrase: %w", err)
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

func splitPassphrase(s string) (kind, name string, err error) {
	kind, name, ok := strings.Cut(s, ":")
	if !ok || name == "" || (kind != "file" && kind != "env" && kind != "credential") {
		return "", "", errors.New("passphrase: want file:PATH, env:NAME or credential:NAME")
	}
	return kind, name, nil
}
