package authserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/pkid/pkid/tokenbind"
)

const (
	assertionType    = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" // RFC 7523 section 2.2
	maxAssertion     = 8 << 10
	maxAssertionLife = time.Hour
	maxJTI           = 256
)

// Signature algorithms of assertions. RS256 is left out as FAPI 2.0 section 5.4.1 has it.
var (
	keyAlgorithms       = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512, jose.EdDSA}
	secretAlgorithms    = []jose.SignatureAlgorithm{jose.HS256}
	assertionAlgorithms = append(append([]jose.SignatureAlgorithm{}, keyAlgorithms...), secretAlgorithms...)
)

// assertion is a client_assertion whose signature was not checked yet.
type assertion struct {
	token  *jwt.JSONWebToken
	claims jwt.Claims // as claimed
	alg    jose.SignatureAlgorithm
}

// readAssertion parses a client_assertion (RFC 7523 section 2.2), whose subject is the client.
func readAssertion(form url.Values) (*assertion, error) {
	if t := form.Get("client_assertion_type"); t != assertionType {
		return nil, invalidRequest("client_assertion_type must be %s", assertionType)
	}
	text := form.Get("client_assertion")
	if text == "" || len(text) > maxAssertion {
		return nil, invalidRequest("client_assertion must have 1 to %d octets", maxAssertion)
	}
	token, err := jwt.ParseSigned(text, assertionAlgorithms)
	if err != nil {
		return nil, invalidClient("client_assertion is not a JWT signed with %v, or with HS256 for client_secret_jwt; "+
			"RS256 and none are not taken", keyAlgorithms).because(err)
	}
	a := &assertion{token: token, alg: jose.SignatureAlgorithm(token.Headers[0].Algorithm)}
	if err := token.UnsafeClaimsWithoutVerification(&a.claims); err != nil {
		return nil, invalidClient("the claims of client_assertion are malformed").because(err)
	}
	return a, nil
}

// checkAssertion authenticates a client by a signed assertion (RFC 7523 section 3) and uses the assertion up,
// last of all, so that only its own client can spend a jti.
func (s *Server) checkAssertion(c *call, client *Client, a *assertion) error {
	signed, err := s.signedBy(c, client, a)
	if err != nil {
		return err
	}
	if !signed {
		return failed("client_assertion is signed with %s and kid %q, and no key or secret of the client matches; registered method %q",
			a.alg, truncate(a.token.Headers[0].KeyID, 64), client.Auth)
	}
	if err := s.checkAssertionClaims(c.now, client, &a.claims); err != nil {
		return err
	}
	key := sha256.Sum256([]byte("client assertion\x00" + client.ID + "\x00" + a.claims.ID))
	// Until no node takes it any more, though clocks be apart.
	until := a.claims.Expiry.Time().Add(2*s.c.Tolerance + time.Second)
	err = s.c.Assertions.Use(c.http.Context(), key, until)
	if errors.Is(err, tokenbind.ErrReplayed) {
		return invalidClient("client_assertion was used before; make a new one, with a new jti, for each request")
	}
	if err != nil {
		return fmt.Errorf("recording client_assertion: %w", err)
	}
	return nil
}

func (s *Server) signedBy(c *call, client *Client, a *assertion) (bool, error) {
	switch {
	case client.Auth == PrivateKeyJWT && a.alg != jose.HS256:
		kid := a.token.Headers[0].KeyID
		return s.anyKey(c.http.Context(), client, func(k jose.JSONWebKey) bool {
			fits := (kid == "" || k.KeyID == "" || k.KeyID == kid) && k.Use != "enc" && (k.Algorithm == "" || k.Algorithm == string(a.alg))
			return fits && a.token.Claims(k.Key) == nil
		})
	case client.Auth == ClientSecretJWT && a.alg == jose.HS256:
		secret, err := s.c.Registry.seal.open(client.ID, client.SealedSecret)
		if err != nil {
			return false, err
		}
		return a.token.Claims(secret) == nil, nil
	case a.alg == jose.HS256:
		_ = a.token.Claims(noHash) // for the time that it takes
	case a.alg == jose.ES256:
		_ = a.token.Claims(nobodysKey())
	}
	return false, nil
}

// nobodysKey is what the assertions of unknown clients are checked against, so that these are not told from
// known ones by the time that a refusal takes.
var nobodysKey = sync.OnceValue(func() *ecdsa.PublicKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic("authserver: making a key: " + err.Error()) // crypto/rand never fails
	}
	return &key.PublicKey
})

// checkAssertionClaims applies RFC 7523 section 3. An assertion is for one audience: with several, another
// server that it is for could use it here.
func (s *Server) checkAssertionClaims(now time.Time, client *Client, claims *jwt.Claims) error {
	ahead := now.Add(s.c.Tolerance)
	switch {
	case claims.Issuer != client.ID || claims.Subject != client.ID:
		return invalidClient("iss and sub of client_assertion must both be the client_id")
	case len(claims.Audience) != 1 || !s.isAudience(claims.Audience[0]):
		return invalidClient("aud of client_assertion must be %s and nothing else", s.c.Issuer)
	case claims.Expiry == nil:
		return invalidClient("client_assertion needs exp")
	case now.After(claims.Expiry.Time().Add(s.c.Tolerance)):
		return invalidClient("client_assertion expired at %s; the time here is %s", stamp(claims.Expiry.Time()), stamp(now))
	case claims.Expiry.Time().After(ahead.Add(maxAssertionLife)):
		return invalidClient("exp of client_assertion is more than %s ahead; a minute is enough", maxAssertionLife)
	case claims.NotBefore != nil && claims.NotBefore.Time().After(ahead), claims.IssuedAt != nil && claims.IssuedAt.Time().After(ahead):
		return invalidClient("iat or nbf of client_assertion lies in the future; the time here is %s", stamp(now))
	case claims.ID == "" || len(claims.ID) > maxJTI:
		return invalidClient("client_assertion needs a jti of 1 to %d octets", maxJTI)
	}
	return nil
}

// isAudience accepts the issuer and, for the many clients that follow RFC 7523 section 3 to the letter, the
// URLs of the token endpoint.
func (s *Server) isAudience(aud string) bool {
	return aud == s.c.Issuer || aud == s.c.Issuer+TokenPath || aud == s.c.MTLSBase+TokenPath
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
