package authserver

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/thumbprint"
)

// clientKey is a public key that a client registered or publishes, with what its JWK says of it (RFC 7517 section 4).
type clientKey struct {
	kid, use, alg string // empty if not said
	key           crypto.PublicKey
	cert          *x509.Certificate // the first of x5c; nil without one
}

// verifies reports whether the key is meant for the algorithm, and made the assertion's signature.
func (k *clientKey) verifies(a *assertion) bool {
	meant := (a.kid == "" || k.kid == "" || k.kid == a.kid) && k.use != "enc" && (k.alg == "" || k.alg == a.alg)
	return meant && jws.KeyFits(a.alg, k.key) == nil && a.token.Verify(a.alg, k.key) == nil
}

// parseKeySet reads a JWK set (RFC 7517 section 5). A key that cannot be used goes to skip, or is an error
// where skip is nil.
func parseKeySet(raw []byte, skip func(error)) ([]clientKey, error) {
	if len(raw) > maxJWKS {
		return nil, fmt.Errorf("longer than %d octets", maxJWKS)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, fmt.Errorf(`want a JWK set, {"keys": [...]}: %w`, err)
	}
	if len(set.Keys) > maxKeys || skip == nil && len(set.Keys) == 0 {
		return nil, fmt.Errorf("want 1 to %d keys, got %d", maxKeys, len(set.Keys))
	}
	keys := make([]clientKey, 0, len(set.Keys)) // never nil: a published set may have lost its last key
	for i, b := range set.Keys {
		key, err := parseKey(b)
		switch {
		case err == nil:
			keys = append(keys, key)
		case skip == nil:
			return nil, fmt.Errorf("key %d: %w", i, err)
		default:
			skip(fmt.Errorf("key %d: %w", i, err))
		}
	}
	return keys, nil
}

func parseKey(raw []byte) (key clientKey, err error) {
	jwk, err := jws.DecodeObject(raw)
	if err != nil {
		return key, err
	}
	if _, private := jws.PrivateMember(jwk); private {
		return key, errors.New("not a public key; register its public half alone, and replace the key if it has been sent around")
	}
	for name, to := range map[string]*string{"kid": &key.kid, "use": &key.use, "alg": &key.alg} {
		if v, found := jwk[name]; found {
			var ok bool
			if *to, ok = v.(string); !ok {
				return key, fmt.Errorf("%s must be a string, not %s", name, jws.Show(v))
			}
		}
	}
	if key.key, err = jws.PublicKey(jwk); err != nil {
		return key, err
	}
	suits, err := jws.AlgorithmOf(key.key) // one of those that do
	if err != nil {
		return key, err
	}
	if err := jws.KeyFits(suits, key.key); err != nil {
		return key, err
	}
	key.cert, err = certificateOf(jwk, key.key)
	return key, err
}

// certificateOf returns the certificate of a JWK, or nil if it has none. One for another key than that of the JWK is
// an error (RFC 7517 section 4.7). Those after it, which lead to an anchor, are of no use here.
func certificateOf(jwk map[string]any, key crypto.PublicKey) (*x509.Certificate, error) {
	v, found := jwk["x5c"]
	if !found {
		return nil, nil
	}
	chain, ok := v.([]any)
	if !ok || len(chain) == 0 {
		return nil, errors.New("x5c must be an array of certificates")
	}
	text, _ := chain[0].(string)
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("x5c must have certificates in base64: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("x5c: %w", err)
	}
	if same, ok := key.(interface {
		Equal(key crypto.PublicKey) bool
	}); !ok || !same.Equal(cert.PublicKey) {
		return nil, errors.New("the certificate in x5c is for another key")
	}
	if x5t, found := jwk["x5t#S256"]; found && x5t != thumbprint.OfCertificate(cert).String() {
		return nil, errors.New("x5t#S256 is not that of the certificate in x5c")
	}
	return cert, nil
}
