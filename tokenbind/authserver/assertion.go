package authserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/pkid/pkid/internal/jws"
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
	keyAlgorithms       = []string{"ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"}
	assertionAlgorithms = append(slices.Clone(keyAlgorithms), secretAlgorithm)
)

const secretAlgorithm = "HS256" // for client_secret_jwt

// assertion is a client_assertion whose signature was not checked yet.
type assertion struct {
	token    *jws.Token
	alg, kid string
	claims   assertionClaims
}

// assertionClaims are those of RFC 7523 section 3, as claimed; zero what is not there.
type assertionClaims struct {
	issuer, subject, id         string
	audience                    []string
	expiry, notBefore, issuedAt time.Time
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
	a := new(assertion)
	var err error
	if a.token, err = jws.Parse(text, nil); err == nil {
		err = a.readHeader()
	}
	if err != nil {
		return nil, invalidClient("client_assertion is not a JWT signed with %v, or with HS256 for client_secret_jwt; "+
			"RS256 and none are not taken", keyAlgorithms).because(err)
	}
	if err := a.readClaims(); err != nil {
		return nil, invalidClient("the claims of client_assertion are malformed").because(err)
	}
	return a, nil
}

func (a *assertion) readHeader() error {
	var ok bool
	header := a.token.Header
	if a.alg, ok = header["alg"].(string); !ok || !slices.Contains(assertionAlgorithms, a.alg) {
		return fmt.Errorf("alg: %s", jws.Show(header["alg"]))
	}
	if v, found := header["kid"]; found {
		if a.kid, ok = v.(string); !ok {
			return fmt.Errorf("kid: %s", jws.Show(v))
		}
	}
	if v, found := header["crit"]; found { // no extension is understood here (RFC 7515 section 4.1.11)
		return fmt.Errorf("crit: %s", jws.Show(v))
	}
	return nil
}

func (a *assertion) readClaims() error {
	c, claims := &a.claims, a.token.Claims
	for name, to := range map[string]*string{"iss": &c.issuer, "sub": &c.subject, "jti": &c.id} {
		if v, found := claims[name]; found {
			var ok bool
			if *to, ok = v.(string); !ok {
				return fmt.Errorf("%s: %s", name, jws.Show(v))
			}
		}
	}
	for name, to := range map[string]*time.Time{"exp": &c.expiry, "nbf": &c.notBefore, "iat": &c.issuedAt} {
		if v, found := claims[name]; found {
			var ok bool
			if *to, ok = jws.NumericDate(v); !ok {
				return fmt.Errorf("%s: %s", name, jws.Show(v))
			}
		}
	}
	if v, found := claims["aud"]; found {
		var ok bool
		if c.audience, ok = jws.StringList(v); !ok {
			return fmt.Errorf("aud: %s", jws.Show(v))
		}
	}
	return nil
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
			a.alg, truncate(a.kid, 64), client.Auth)
	}
	if err := s.checkAssertionClaims(c.now, client, a); err != nil {
		return err
	}
	key := sha256.Sum256([]byte("client assertion\x00" + client.ID + "\x00" + a.claims.id))
	// Until no node takes it any more, though clocks be apart.
	until := a.claims.expiry.Add(2*s.longest() + time.Second)
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
	case client.Auth == PrivateKeyJWT && a.alg != secretAlgorithm:
		return s.anyKey(c.http.Context(), client, func(k clientKey) bool { return k.verifies(a) })
	case client.Auth == ClientSecretJWT && a.alg == secretAlgorithm:
		secret, err := s.c.Registry.seal.open(client.ID, client.SealedSecret)
		if err != nil {
			return false, err
		}
		return a.authenticated(secret), nil
	case a.alg == secretAlgorithm:
		a.authenticated(noHash) // for the time that it takes
	case a.alg == "ES256":
		_ = a.token.Verify(a.alg, nobodysKey())
	}
	return false, nil
}

// authenticated reports whether the signature is a MAC under the secret (RFC 7518 section 3.2).
func (a *assertion) authenticated(secret []byte) bool {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(a.token.Input))
	return hmac.Equal(mac.Sum(nil), a.token.Signature)
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
func (s *Server) checkAssertionClaims(now time.Time, client *Client, a *assertion) error {
	claims, tolerance := &a.claims, s.tolerance(client)
	ahead := now.Add(tolerance)
	switch {
	case s.underFAPI(client) && !slices.Contains(tokenbind.FAPIAlgorithms(), a.alg):
		return invalidClient("client_assertion is signed with %s; sign it with one of %v (FAPI 2.0 section 5.4.1)", a.alg, tokenbind.FAPIAlgorithms())
	case s.underFAPI(client) && a.token.Claims["aud"] != s.c.Issuer:
		return invalidClient("aud of client_assertion must be the issuer, %s, as a string (FAPI 2.0 section 5.3.2.1)", s.c.Issuer)
	case claims.issuer != client.ID || claims.subject != client.ID:
		return invalidClient("iss and sub of client_assertion must both be the client_id")
	case len(claims.audience) != 1 || !s.isAudience(claims.audience[0]):
		return invalidClient("aud of client_assertion must be %s and nothing else", s.c.Issuer)
	case claims.expiry.IsZero():
		return invalidClient("client_assertion needs exp")
	case now.After(claims.expiry.Add(tolerance)):
		return invalidClient("client_assertion expired at %s; the time here is %s", stamp(claims.expiry), stamp(now))
	case claims.expiry.After(ahead.Add(maxAssertionLife)):
		return invalidClient("exp of client_assertion is more than %s ahead; a minute is enough", maxAssertionLife)
	case claims.notBefore.After(ahead), claims.issuedAt.After(ahead):
		return invalidClient("iat or nbf of client_assertion lies in the future; the time here is %s", stamp(now))
	case claims.id == "" || len(claims.id) > maxJTI:
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
