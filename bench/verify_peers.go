package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
	golangjwt "github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jwt"
)

// The peers verify as their documentation shows, and then what is left to their users: that the token is
// bound to the certificate or to the proof's key, and what else RFC 9449 section 4.3 demands of a proof.

// verifier is a JWT library in that use.
type verifier struct {
	name  string
	bound func(token string) error        // to the client certificate
	dpop  func(token, proof string) error // to the key of the proof
}

var errNotBound = errors.New("not bound to this key")

type confirmation struct {
	Cert string `json:"x5t#S256"`
	Key  string `json:"jkt"`
}

type proofClaims struct {
	ID       string  `json:"jti"`
	Method   string  `json:"htm"`
	URL      string  `json:"htu"`
	IssuedAt float64 `json:"iat"`
	Token    string  `json:"ath"`
}

// seen is the least that a replay check costs.
type seen map[string]struct{}

// check is what no JWT library does of a proof.
func (s seen) check(c proofClaims, token string) error {
	ath := sha256.Sum256([]byte(token))
	_, used := s[c.ID]
	age := math.Abs(float64(time.Now().Unix()) - c.IssuedAt)
	if used || c.ID == "" || c.Method != http.MethodGet || c.URL != verifyURL || age > 60 || c.Token != base64url.EncodeToString(ath[:]) {
		return fmt.Errorf("bad proof: %+v", c)
	}
	s[c.ID] = struct{}{}
	return nil
}

func (m *material) checkCert(x5t string) error {
	sum := sha256.Sum256(m.cert.Raw)
	if subtle.ConstantTimeCompare([]byte(base64url.EncodeToString(sum[:])), []byte(x5t)) != 1 {
		return errNotBound
	}
	return nil
}

func (m *material) peers() []verifier {
	return []verifier{m.goJOSE(), m.golangJWT(), m.jwx()}
}

func (m *material) goJOSE() verifier {
	algorithms := []jose.SignatureAlgorithm{jose.ES256}
	expected := josejwt.Expected{Issuer: verifyIssuer, AnyAudience: josejwt.Audience{verifyAudience}}
	used := seen{}
	verify := func(token string) (confirmation, error) {
		var c struct {
			josejwt.Claims
			Cnf confirmation `json:"cnf"`
		}
		t, err := josejwt.ParseSigned(token, algorithms)
		if err != nil {
			return c.Cnf, err
		}
		if err := t.Claims(&m.key.PublicKey, &c); err != nil {
			return c.Cnf, err
		}
		return c.Cnf, c.ValidateWithLeeway(expected.WithTime(time.Now()), 10*time.Second)
	}
	return verifier{
		name: "go-jose v4",
		bound: func(token string) error {
			cnf, err := verify(token)
			if err != nil {
				return err
			}
			return m.checkCert(cnf.Cert)
		},
		dpop: func(token, proof string) error {
			cnf, err := verify(token)
			if err != nil {
				return err
			}
			p, err := jose.ParseSignedCompact(proof, algorithms)
			if err != nil {
				return err
			}
			key := p.Signatures[0].Header.JSONWebKey
			payload, err := p.Verify(key)
			if err != nil {
				return err
			}
			sum, err := key.Thumbprint(crypto.SHA256)
			if err != nil || base64url.EncodeToString(sum) != cnf.Key {
				return errNotBound
			}
			var c proofClaims
			if err := json.Unmarshal(payload, &c); err != nil {
				return err
			}
			return used.check(c, token)
		},
	}
}

// golangClaims adds cnf to the registered claims.
type golangClaims struct {
	golangjwt.RegisteredClaims
	Cnf confirmation `json:"cnf"`
}

func (m *material) golangJWT() verifier {
	parser := golangjwt.NewParser(golangjwt.WithValidMethods([]string{"ES256"}), golangjwt.WithIssuer(verifyIssuer),
		golangjwt.WithAudience(verifyAudience), golangjwt.WithExpirationRequired(), golangjwt.WithLeeway(10*time.Second))
	proofs := golangjwt.NewParser(golangjwt.WithValidMethods([]string{"ES256"}))
	used := seen{}
	key := func(*golangjwt.Token) (any, error) { //nolint:unparam // golangjwt.Keyfunc
		return &m.key.PublicKey, nil
	}
	return verifier{
		name: "golang-jwt v5",
		bound: func(token string) error {
			var c golangClaims
			if _, err := parser.ParseWithClaims(token, &c, key); err != nil {
				return err
			}
			return m.checkCert(c.Cnf.Cert)
		},
		dpop: func(token, proof string) error {
			var c golangClaims
			if _, err := parser.ParseWithClaims(token, &c, key); err != nil {
				return err
			}
			claims := golangjwt.MapClaims{}
			var jkt string
			if _, err := proofs.ParseWithClaims(proof, claims, func(t *golangjwt.Token) (pub any, err error) {
				pub, jkt, err = headerKey(t.Header["jwk"])
				return pub, err
			}); err != nil {
				return err
			}
			if jkt != c.Cnf.Key {
				return errNotBound
			}
			var p proofClaims
			p.ID, _ = claims["jti"].(string)
			p.Method, _ = claims["htm"].(string)
			p.URL, _ = claims["htu"].(string)
			p.IssuedAt, _ = claims["iat"].(float64)
			p.Token, _ = claims["ath"].(string)
			return used.check(p, token)
		},
	}
}

// headerKey reads a P-256 JWK out of a decoded header, which golang-jwt leaves to its users.
func headerKey(v any) (*ecdsa.PublicKey, string, error) {
	jwk, _ := v.(map[string]any)
	tx, _ := jwk["x"].(string)
	ty, _ := jwk["y"].(string)
	x, err1 := base64url.DecodeString(tx)
	y, err2 := base64url.DecodeString(ty)
	if err := errors.Join(err1, err2); err != nil {
		return nil, "", err
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, tx, ty))
	return pub, base64url.EncodeToString(sum[:]), err
}

func (m *material) jwx() verifier {
	used := seen{}
	options := []jwt.ParseOption{
		jwt.WithKey(jwa.ES256(), &m.key.PublicKey), jwt.WithIssuer(verifyIssuer), jwt.WithAudience(verifyAudience),
		jwt.WithAcceptableSkew(10 * time.Second),
	}
	verify := func(token string) (map[string]any, error) {
		t, err := jwt.Parse([]byte(token), options...)
		if err != nil {
			return nil, err
		}
		var cnf map[string]any
		return cnf, t.Get("cnf", &cnf)
	}
	return verifier{
		name: "lestrrat jwx v3",
		bound: func(token string) error {
			cnf, err := verify(token)
			if err != nil {
				return err
			}
			x5t, _ := cnf["x5t#S256"].(string)
			return m.checkCert(x5t)
		},
		dpop: func(token, proof string) error {
			cnf, err := verify(token)
			if err != nil {
				return err
			}
			raw := []byte(proof)
			p, err := jws.Parse(raw)
			if err != nil {
				return err
			}
			key, ok := p.Signatures()[0].ProtectedHeaders().JWK()
			if !ok {
				return errNotBound
			}
			payload, err := jws.Verify(raw, jws.WithKey(jwa.ES256(), key))
			if err != nil {
				return err
			}
			sum, err := key.Thumbprint(crypto.SHA256)
			if err != nil || base64url.EncodeToString(sum) != cnf["jkt"] {
				return errNotBound
			}
			var c proofClaims
			if err := json.Unmarshal(payload, &c); err != nil {
				return err
			}
			return used.check(c, token)
		},
	}
}
