// Package stepimport reads what a step-ca that was stopped has left in its home: where its CA is, which certificates it
// issued and which of them it revoked. It changes nothing there.
package stepimport

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

var (
	// ErrHome: the directory is no home of step-ca, or something is missing in it. The text says what.
	ErrHome = errors.New("not a usable home of step-ca")
	// ErrUnsupported: step-ca keeps something where it is not read from. The text says what to do.
	ErrUnsupported = errors.New("not supported")
	// ErrRunning: step-ca has its database open.
	ErrRunning = errors.New("step-ca is running")
)

// maxConfig bounds step-ca's configuration, in octets.
const maxConfig = 16 << 20

// Home is what the configuration of a step-ca says.
type Home struct {
	Root            string // file of the root's certificate
	Intermediate    string // file of the issuing CA's certificate
	IntermediateKey string // file of its key; empty if it is in a device
	RootKey         string // file of the root's key; empty if it is not there

	database, source, values string
}

// names is one text, or a list of them.
type names []string

func (n *names) UnmarshalJSON(b []byte) error {
	var one string
	if err := json.Unmarshal(b, &one); err == nil {
		*n = names{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(n))
}

// Open reads the configuration of the step-ca whose home is dir, as `step path` prints it.
func Open(dir string) (*Home, error) {
	path := filepath.Join(dir, "config", "ca.json")
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; give the directory that `step path` prints", ErrHome, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHome, err)
	}
	var c struct {
		Root names           `json:"root"`
		Crt  string          `json:"crt"`
		Key  string          `json:"key"`
		KMS  json.RawMessage `json:"kms"`
		DB   *struct {
			Type     string `json:"type"`
			Source   string `json:"dataSource"`
			ValueDir string `json:"valueDir"`
		} `json:"db"`
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrHome, path, err)
	}
	switch {
	case len(c.Root) == 0 || c.Crt == "":
		return nil, fmt.Errorf("%w: %s names no root or no intermediate: this step-ca has another CA sign", ErrUnsupported, path)
	case len(c.Root) > 1:
		return nil, fmt.Errorf("%w: %s names %d roots, and pkid has one trust anchor: leave the one there that signed the intermediate", ErrUnsupported, path, len(c.Root))
	case c.DB == nil || c.DB.Type == "":
		return nil, fmt.Errorf("%w: step-ca kept no database, so nobody knows its certificates; `pkid init --issuer-cert FILE --issuer-key-file FILE --root-cert FILE` takes the CA over alone", ErrUnsupported)
	}
	h := &Home{database: strings.ToLower(c.DB.Type)}
	at := func(path string) string { return located(dir, path) }
	h.Root, h.Intermediate, h.source = at(c.Root[0]), at(c.Crt), at(c.DB.Source)
	if c.DB.ValueDir != "" {
		h.values = at(c.DB.ValueDir)
	}
	if !inDevice(c.Key, c.KMS) {
		h.IntermediateKey = at(c.Key)
	}
	if key := filepath.Join(dir, "secrets", "root_ca_key"); exists(key) {
		h.RootKey = key
	}
	for what, path := range map[string]string{"the root's certificate": h.Root, "the intermediate's certificate": h.Intermediate, "the intermediate's key": h.IntermediateKey} {
		if path != "" && !exists(path) {
			return nil, fmt.Errorf("%w: %s is missing at %s", ErrHome, what, path)
		}
	}
	return h, nil
}

// inDevice reports whether a key is named by another thing than a file.
func inDevice(key string, kms json.RawMessage) bool {
	var options struct {
		Type string `json:"type"`
	}
	_ = json.Unmarshal(kms, &options) // of no kms is an error too
	return options.Type != "" && !strings.EqualFold(options.Type, "softkms") || strings.Contains(key, ":") && !filepath.IsAbs(key)
}

// located finds a file where the configuration says or, in a copy of the home, in the same place below dir: in one of
// the directories that every home has.
func located(dir, path string) string {
	if !filepath.IsAbs(path) || exists(path) {
		return path
	}
	for _, part := range []string{"/certs/", "/secrets/", "/db"} {
		if i := strings.LastIndex(filepath.ToSlash(path), part); i >= 0 {
			if copied := filepath.Join(dir, filepath.FromSlash(path[i:])); exists(copied) {
				return copied
			}
		}
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
