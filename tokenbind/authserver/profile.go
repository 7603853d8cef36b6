package authserver

import (
	"context"
	"slices"
	"time"

	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/tokenbind"
)

// Profile is a security profile that the server, or one client, is held to beyond what holds for all.
type Profile string

// FAPI2 is the FAPI 2.0 Security Profile (final, February 2025), as far as it concerns the client credentials grant.
const FAPI2 Profile = "fapi2"

// fapiMethods are those of FAPI 2.0 section 5.3.2.1 item 6.
var fapiMethods = []AuthMethod{TLSClientAuth, SelfSignedTLSClientAuth, PrivateKeyJWT}

// fapiTolerance is how far ahead a JWT's iat and nbf must be taken (FAPI 2.0 section 5.3.2.1 item 13).
const fapiTolerance = 10 * time.Second

func (p Profile) validate() error {
	if p != "" && p != FAPI2 {
		return invalid("profile %.32q: want %s, or nothing", string(p), FAPI2)
	}
	return nil
}

// Check says what of a client's record the profile has no room for. The error is ErrClientMetadata.
func (p Profile) Check(c *Client) error {
	switch {
	case p == "":
		return nil
	case p != FAPI2:
		return p.validate()
	case !slices.Contains(fapiMethods, c.Auth):
		return invalid("profile %s has no %s: want one of %v (FAPI 2.0 section 5.3.2.1); a client is added with one of these, and keeps it",
			p, c.Auth, fapiMethods)
	case c.InsecureBearer:
		return invalid("profile %s has no insecure_bearer: every token is bound to a key (FAPI 2.0 section 5.3.2.1)", p)
	}
	return nil
}

// admit is Check and, beyond it, refuses a client that could never authenticate for want of a key that the profile takes.
func (p Profile) admit(c *Client) error {
	if err := p.Check(c); err != nil || p == "" || c.Auth != PrivateKeyJWT || len(c.JWKS) == 0 {
		return err
	}
	keys, err := parseKeySet(c.JWKS, nil)
	if err != nil {
		return invalid("jwks: %v", err)
	}
	if !slices.ContainsFunc(keys, clientKey.fitsFAPI) {
		return invalid("profile %s: none of the keys in jwks is for %v (FAPI 2.0 section 5.4.1)", p, tokenbind.FAPIAlgorithms())
	}
	return nil
}

func (k clientKey) fitsFAPI() bool {
	return k.use != "enc" && slices.ContainsFunc(tokenbind.FAPIAlgorithms(), func(alg string) bool {
		return (k.alg == "" || k.alg == alg) && jws.KeyFits(alg, k.key) == nil
	})
}

// underFAPI reports whether a client is held to FAPI 2.0, by its record or with all the others.
func (s *Server) underFAPI(client *Client) bool {
	return s.c.Profile == FAPI2 || client.Profile == FAPI2
}

// checkProfile refuses a client that authenticated, but whose record is older than the profile of the server. The
// registry lets no record go against its own profile; one that does, or has a profile of a later version, is no record
// to go by.
func (s *Server) checkProfile(client *Client) error {
	for _, p := range []Profile{s.c.Profile, client.Profile} {
		if err := p.Check(client); err != nil {
			return invalidClient("this server holds the client to the FAPI 2.0 security profile, and the client's registration does not keep to it; " +
				"ask the operator to register it anew").because(err)
		}
	}
	return nil
}

// tolerance is how far ahead the clock of a client may be.
func (s *Server) tolerance(client *Client) time.Duration {
	if s.underFAPI(client) {
		return max(s.c.Tolerance, fapiTolerance)
	}
	return s.c.Tolerance
}

// longest is the most that tolerance returns.
func (s *Server) longest() time.Duration { return max(s.c.Tolerance, fapiTolerance) }

// newProofCheckers makes the checker of proofs for all clients, and the one for those under FAPI 2.0. What one of them
// took the other must still know when it would take it too, so the first has its proofs remembered for as long, and holds
// those for used that a crash may have taken from the second.
func (s *Server) newProofCheckers() {
	c := &s.c
	checker := func(algorithms []string, tolerance time.Duration) *tokenbind.ProofChecker {
		less, since := s.longest()-tolerance, c.ProofsSince
		if !since.IsZero() {
			since = since.Add(less)
		}
		return &tokenbind.ProofChecker{
			Algorithms: algorithms, MaxAge: proofMaxAge, Tolerance: tolerance, Nonces: s.nonces,
			Replay: lasting{c.Replay, 2 * less}, Since: since, Now: c.Now,
		}
	}
	s.proofs = checker(proofAlgorithms, c.Tolerance)
	s.fapiProofs = checker(tokenbind.FAPIAlgorithms(), s.longest())
	if c.Profile == FAPI2 {
		s.proofs = s.fapiProofs
	}
}

func (s *Server) proofsOf(client *Client) *tokenbind.ProofChecker {
	if s.underFAPI(client) {
		return s.fapiProofs
	}
	return s.proofs
}

// lasting is a Replay that remembers for longer than it is asked to.
type lasting struct {
	tokenbind.Replay
	longer time.Duration
}

func (l lasting) Use(ctx context.Context, key [32]byte, until time.Time) error {
	return l.Replay.Use(ctx, key, until.Add(l.longer))
}
