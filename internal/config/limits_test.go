package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLimits_FileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), File)
	if err := os.WriteFile(path, []byte(strings.Repeat("#\n", maxFile)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

func TestLimits_Validate(t *testing.T) {
	var l Limits
	l.complete()
	if err := l.validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	if l.NewConnections < 2*l.ConnectionsPerAddress {
		t.Errorf("one address may have %d connections of the %d that may be new, and so keep the others waiting", l.ConnectionsPerAddress, l.NewConnections)
	}
	small := Limits{Connections: 16}
	small.complete()
	if err := small.validate(); err != nil || small.ConnectionsPerAddress != 4 || small.NewConnections != 8 {
		t.Errorf("%+v, %v", small, err)
	}
	negative := -1
	for key, change := range map[string]func(*Limits){
		"limits.connections:":              func(l *Limits) { l.Connections = 15 },
		"limits.connections_per_address:":  func(l *Limits) { l.ConnectionsPerAddress = l.Connections + 1 },
		"limits.new_connections:":          func(l *Limits) { l.NewConnections = l.Connections + 1 },
		"limits.requests:":                 func(l *Limits) { l.Requests = 1 },
		"limits.wait:":                     func(l *Limits) { l.Wait = time.Millisecond },
		"limits.certificates_per_address:": func(l *Limits) { l.CertificatesPerAddress = -1 },
		"limits.certificates_per_client:":  func(l *Limits) { l.CertificatesPerClient = -1 },
		"limits.tokens_per_address:":       func(l *Limits) { l.TokensPerAddress = -1 },
		"limits.tokens_per_client:":        func(l *Limits) { l.TokensPerClient = -1 },
		"limits.failures_per_address:":     func(l *Limits) { l.FailuresPerAddress = &negative },
	} {
		var l Limits
		l.complete()
		change(&l)
		if err := l.validate(); err == nil || !strings.HasPrefix(err.Error(), key) {
			t.Errorf("%s got %v", key, err)
		}
	}
}
