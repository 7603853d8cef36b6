package tokenbind

import (
	"crypto"
	"encoding/base64"
	"encoding/json"

	"github.com/pkid/pkid/internal/jws"
)

// signer signs compact JWSs with one key.
type signer struct {
	key    crypto.Signer
	alg    string
	header string // encoded, with the dot after it
}

// newSigner signs with the algorithm that suits the key. The header has typ, alg and the public key as jwk.
func newSigner(key crypto.Signer, typ string) (*signer, error) {
	alg, err := jws.AlgorithmOf(key.Public())
	if err != nil {
		return nil, err
	}
	if err := jws.KeyFits(alg, key.Public()); err != nil {
		return nil, err
	}
	jwk, err := jws.PublicJWK(key.Public())
	if err != nil {
		return nil, err
	}
	header, err := json.Marshal(map[string]any{"typ": typ, "alg": alg, "jwk": jwk})
	if err != nil {
		return nil, err
	}
	return &signer{key, alg, base64.RawURLEncoding.EncodeToString(header) + "."}, nil
}

func (s *signer) sign(claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	input := base64.RawURLEncoding.AppendEncode([]byte(s.header), payload)
	signature, err := jws.Sign(s.key, s.alg, input)
	if err != nil {
		return "", err
	}
	return string(base64.RawURLEncoding.AppendEncode(append(input, '.'), signature)), nil
}
