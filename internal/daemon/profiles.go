package daemon

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/stepca"
)

var usages = map[string]x509.ExtKeyUsage{
	"clientAuth": x509.ExtKeyUsageClientAuth,
	"serverAuth": x509.ExtKeyUsageServerAuth,
}

// Profiles turns configured profiles into validated ones, in the order of their names.
func Profiles(configured map[string]config.Profile) ([]*ca.Profile, error) {
	var out []*ca.Profile
	for _, name := range slices.Sorted(maps.Keys(configured)) {
		p, err := newProfile(name, configured[name])
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func newProfile(name string, p config.Profile) (*ca.Profile, error) {
	rules, denied := nameRules(p.Allow), nameRules(p.Deny)
	rules.Denied = &denied
	policy, err := stepca.NewNamePolicy(rules)
	if err != nil {
		return nil, fmt.Errorf("profile %q: %w", name, err)
	}
	c := ca.ProfileConfig{Name: name, Lifetime: p.Lifetime, MaxLifetime: p.MaxLifetime, Policy: policy}
	for _, k := range p.KeyTypes {
		c.KeyTypes = append(c.KeyTypes, ca.KeyType(k))
	}
	for _, u := range p.Usages {
		usage, ok := usages[u]
		if !ok {
			return nil, fmt.Errorf("profile %q: usage %q: want clientAuth or serverAuth", name, u)
		}
		c.ExtKeyUsage = append(c.ExtKeyUsage, usage)
	}
	return ca.NewProfile(c)
}

func nameRules(n config.Names) stepca.NameRules {
	return stepca.NameRules{CommonNames: n.CommonNames, DNS: n.DNS, IPs: n.IPs, URIs: n.URIs, Emails: n.Emails}
}
