package daemon

import (
	"fmt"

	"github.com/pkid/pkid/forwardauth"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/tokenbind"
)

// verifiedTokens is how many tokens are remembered, for all resource servers together.
const verifiedTokens = 16 << 10

// openVerify makes what answers proxies at /v1/verify. It asks this process's own authorization server for keys and for
// what became of a token, its client and its certificate, so what is revoked is refused from then on, on every node.
// Proofs are remembered where the token endpoint's are.
func (d *Daemon) openVerify(proxies *tokenbind.Proxies, nonceKey []byte) (*forwardauth.Handler, error) {
	var servers []forwardauth.Server
	var revocation tokenbind.Revocation
	if d.cfg.Profile == config.ProfileFAPI2 {
		revocation = certificates{d.authority} // a verifier under the profile insists on it, though Tokens looks too
	}
	for _, s := range d.cfg.Verify {
		servers = append(servers, forwardauth.Server{Name: s.Name, Config: tokenbind.Config{
			Issuer: d.cfg.URLs.Public, Audience: s.Audience, BaseURL: s.BaseURL, RequiredScopes: s.Scopes,
			Keys: d.oauth, Tokens: d.oauth, // which looks at the certificate too
			Revocation: revocation, FAPI2: d.cfg.Profile == config.ProfileFAPI2, AllowBearer: s.InsecureAllowBearer, NoDPoP: s.NoDPoP,
			RequireNonce: s.RequireNonce, NonceKey: nonceKey, Tolerance: *d.cfg.Tokens.ClockTolerance,
			Replay: d.proofs.Replay, ReplaySince: d.proofs.since,
			MaxTokens: max(verifiedTokens/len(d.cfg.Verify), 2), Logger: d.log,
		}})
	}
	h, err := forwardauth.New(forwardauth.Config{Proxies: proxies, Servers: servers, Replay: d.proofs.Replay, Logger: d.log})
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	return h, nil
}
