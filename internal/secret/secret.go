// Package secret reads secrets from where a configuration says they are, so that none stands in the configuration
// itself, on a command line or in a URI: "file:" and a path, "env:" and the name of an environment variable, or
// "credential:" and the name of a systemd credential.
package secret

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxSize bounds a secret in octets.
const maxSize = 64 << 10

// Read reads a secret without the end of its line. A relative path is relative to dir. Errors begin with key, which is
// what the operator calls the secret, and never show any of it.
func Read(key, from, dir string) ([]byte, error) {
	kind, name, err := Split(key, from)
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
		credentials, ok := os.LookupEnv("CREDENTIALS_DIRECTORY") // set by systemd, see systemd.exec(5), LoadCredential=
		if !ok {
			return nil, fmt.Errorf("%s: no systemd credentials here: start the unit with LoadCredential=%s:/path/to/it", key, name)
		}
		// Rights on it are systemd's business: it may grant them with an access list, which looks like a group's.
		text, err = readFile(filepath.Join(credentials, filepath.Base(name)), false)
	default:
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		text, err = readFile(name, true)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return bytes.TrimRight(text, "\r\n"), nil
}

// Absolute makes the path in file:PATH absolute, for a configuration that will be elsewhere.
func Absolute(key, from string) (string, error) {
	kind, name, err := Split(key, from)
	if err != nil || kind != "file" {
		return from, err
	}
	if name, err = filepath.Abs(name); err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	return "file:" + name, nil
}

// Split checks the form of a source. The error does not repeat it: it may be the secret itself, in the wrong place.
func Split(key, from string) (kind, name string, err error) {
	kind, name, ok := strings.Cut(from, ":")
	if !ok || name == "" || (kind != "file" && kind != "env" && kind != "credential") {
		return "", "", fmt.Errorf("%s: want file:PATH, env:NAME or credential:NAME", key)
	}
	return kind, name, nil
}

// readFile reads a small file. If it must be private, one that others than its owner can read is refused.
func readFile(path string, private bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if private && Exposed(info) {
		return nil, fmt.Errorf("%s can be read by others (mode %#o): chmod 600 it", path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(text) > maxSize {
		err = fmt.Errorf("%s is larger than %d octets", path, maxSize)
	}
	return text, err
}
