package tokenbind

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
)

// signer signs compact JWSs with one key.
type signer struct {
	key    crypto.Signer
	alg    string
	header string // encoded, with the dot after it
}

// newSigner signs with the algorithm that suits the key. The header has typ, alg and the public key as jwk.
func newSigner(key crypto.Signer, typ string) (*signer, error) {
	alg, err := algorithmOf(key.Public())
	if err != nil {
		return nil, err
	}
	if err := keyFits(alg, key.Public()); err != nil {
		return nil, err
	}
	jwk, err := publicJWK(key.Public())
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
	input := s.header + base64.RawURLEncoding.EncodeToString(payload)
	opts := crypto.SignerOpts(algorithms[s.alg])
	if strings.HasPrefix(s.alg, "PS") { // RFC 7518 section 3.5: the salt is as long as the hash
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: algorithms[s.alg]}
	}
	signature, err := s.key.Sign(rand.Reader, appendDigest(nil, s.alg, input), opts)
	if err != nil {
		return "", err
	}
	if pub, ok := s.key.Public().(*ecdsa.PublicKey); ok {
		if signature, err = joseSignature(pub, signature); err != nil {
			return "", err
		}
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// joseSignature is derSignature the other way: both numbers at full length (RFC 7518 section 3.4).
func joseSignature(pub *ecdsa.PublicKey, der []byte) ([]byte, error) {
	var n struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(der, &n)
	half := (pub.Curve.Params().BitSize + 7) / 8
	if err != nil || len(rest) > 0 || n.R.Sign() < 0 || n.S.Sign() < 0 || n.R.BitLen() > 8*half || n.S.BitLen() > 8*half {
		return nil, errors.New("the key made a malformed ECDSA signature")
	}
	raw := make([]byte, 2*half)
	n.R.FillBytes(raw[:half])
	n.S.FillBytes(raw[half:])
	return raw, nil
}
