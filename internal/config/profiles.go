package config

import (
	"slices"
	"time"
)

// The built-in profiles' names. A profile of the same name in the file takes the built-in one's place.
const (
	ProfileClient   = "client"   // mTLS clients
	ProfileOperator = "operator" // who may administer this CA
	ProfileServer   = "server"   // pkid's own listeners, and servers beside it
)

// BuiltinProfiles returns the built-in profiles by name. The lifetimes: a day for clients, which renew by
// themselves; long enough for operators to go on holiday; a week for servers.
func BuiltinProfiles() map[string]Profile {
	keys := []string{"P-256", "P-384", "P-521", "Ed25519", "RSA-2048", "RSA-3072", "RSA-4096"}
	anyHost := Names{CommonNames: []string{"*"}, DNS: []string{"*"}, IPs: []string{"0.0.0.0/0", "::/0"}}
	anyName := anyHost
	anyName.URIs, anyName.Emails = []string{"*"}, []string{"*"}
	const day = 24 * time.Hour
	return map[string]Profile{
		ProfileClient:   {Lifetime: day, MaxLifetime: 90 * day, KeyTypes: slices.Clone(keys), Usages: []string{"clientAuth"}, Allow: anyName},
		ProfileOperator: {Lifetime: 90 * day, KeyTypes: slices.Clone(keys), Usages: []string{"clientAuth"}, Allow: Names{CommonNames: []string{"*"}}},
		ProfileServer:   {Lifetime: 7 * day, MaxLifetime: 90 * day, KeyTypes: slices.Clone(keys), Usages: []string{"serverAuth"}, Allow: anyHost},
	}
}
