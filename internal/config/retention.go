package config

import (
	"fmt"
	"time"
)

// Retention says for how long what is over is kept. The audit log is not pruned; pkictl audit archive moves its start
// into a file.
type Retention struct {
	// Certificates is how long the record of an expired certificate and its revocation stay: at least the longest
	// max_lifetime of a profile, so that what was renewed from it has expired too, or 0, for ever. A revoked one
	// stays on one more CRL in any case. Default 9552h, the longest lifetime that a profile may have.
	Certificates *time.Duration `yaml:"certificates,omitempty"`
	// Invitations is how long one stays after it expired, used or not, so that somebody who comes late is told so: 1h or
	// more, or 0, for ever. Default 720h.
	Invitations *time.Duration `yaml:"invitations,omitempty"`
}

// longestLifetime bounds max_lifetime of every profile: 398 days.
const longestLifetime = 9552 * time.Hour

func (r *Retention) complete() {
	for p, d := range map[**time.Duration]time.Duration{&r.Certificates: longestLifetime, &r.Invitations: 720 * time.Hour} {
		if *p == nil {
			*p = &d
		}
	}
}

func (r *Retention) validate(profiles map[string]Profile) error {
	least, name := time.Hour, ""
	for n, p := range profiles {
		if longest := max(p.Lifetime, p.MaxLifetime); longest > least {
			least, name = longest, n
		}
	}
	if d := *r.Certificates; d != 0 && d < least {
		return fmt.Errorf("retention.certificates: want at least %s, the longest lifetime of profile %s, or 0 for ever, not %s", least, name, d)
	}
	if d := *r.Invitations; d != 0 && d < time.Hour {
		return fmt.Errorf("retention.invitations: want at least 1h, or 0 for ever, not %s", d)
	}
	return nil
}
