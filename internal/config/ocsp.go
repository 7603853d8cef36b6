package config

import (
	"fmt"
	"time"
)

// OCSP answers what became of a certificate to whoever asks, on the status listener (RFC 6960).
type OCSP struct {
	// Enabled has the daemon answer, name the responder in the certificates that it issues, and staple an answer to its own
	// one. Leave it as it is while certificates live that name the responder: a client may insist on an answer. Default
	// true.
	Enabled *bool `yaml:"enabled,omitempty"`
	// Lifetime of an answer, nextUpdate - thisUpdate: 1m to 24h. The daemon itself tells of a revocation at once; who
	// keeps an answer, as clients, proxies and servers that staple do, tells of it so much later at the most. Default 10m.
	Lifetime time.Duration `yaml:"lifetime,omitempty"`
}

// ProfileResponder is the profile of OCSP responders' certificates, which is not to be configured.
const ProfileResponder = "ocsp"

// On reports whether there is a responder.
func (o OCSP) On() bool { return o.Enabled == nil || *o.Enabled }

func (o *OCSP) complete() {
	if o.Lifetime == 0 {
		o.Lifetime = 10 * time.Minute
	}
}

func (o *OCSP) validate(profiles map[string]Profile) error {
	if o.Lifetime < time.Minute || o.Lifetime > 24*time.Hour {
		return fmt.Errorf("ocsp.lifetime: want 1m to 24h, not %s", o.Lifetime)
	}
	if _, taken := profiles[ProfileResponder]; taken {
		return fmt.Errorf("profiles: %s is the name of the daemon's own profile of OCSP responders: choose another", ProfileResponder)
	}
	return nil
}
