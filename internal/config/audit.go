package config

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Audit says what of the audit log is written outside of the store, where who can change the store cannot. Every node of
// several writes its own.
type Audit struct {
	// Checkpoints is where signed checkpoints go, a line each: "file:" and a path, or "stdout". A file is appended to, and
	// may be moved away at any time. Default: none.
	Checkpoints string `yaml:"checkpoints,omitempty"`
	// Interval between checkpoints while something happens: 1m to 168h. One is written when pkid stops, too. Default 1h.
	Interval time.Duration `yaml:"interval,omitempty"`
	// Entries after which a checkpoint is written before the interval is over: at least 100. Default 10000.
	Entries int `yaml:"entries,omitempty"`
	// Key signs checkpoints: the path of an encrypted PKCS #8 file with an EC key, made when it is missing, or a key URI,
	// as issuer.key. Its public half stands beside it in a file of the same name that ends in .pub. Default keys/audit.key.
	Key string `yaml:"key,omitempty"`
	// Export is a file, "file:" and a path, that every entry is appended to as a line of JSON, a second after it was made
	// at most. Default: none.
	Export string `yaml:"export,omitempty"`
}

func (a *Audit) complete() {
	if a.Interval == 0 {
		a.Interval = time.Hour
	}
	if a.Entries == 0 {
		a.Entries = 10_000
	}
	if a.Key == "" {
		a.Key = "keys/audit.key"
	}
}

func (a *Audit) validate() error {
	if path, ok := strings.CutPrefix(a.Checkpoints, "file:"); a.Checkpoints != "" && a.Checkpoints != "stdout" && (!ok || path == "") {
		return fmt.Errorf("audit.checkpoints: want file:PATH or stdout, not %q", a.Checkpoints)
	}
	if path, ok := strings.CutPrefix(a.Export, "file:"); a.Export != "" && (!ok || path == "") {
		return fmt.Errorf("audit.export: want file:PATH, not %q", a.Export)
	}
	if a.Export != "" && a.Export == a.Checkpoints {
		return errors.New("audit.export and audit.checkpoints are the same file; give each its own")
	}
	if a.Interval < time.Minute || a.Interval > 168*time.Hour {
		return fmt.Errorf("audit.interval: want 1m to 168h, not %s", a.Interval)
	}
	if a.Entries < 100 {
		return fmt.Errorf("audit.entries: want at least 100, not %d", a.Entries)
	}
	return nil
}
