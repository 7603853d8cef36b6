package tokenbind

import (
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pkid/pkid/thumbprint"
)

// Prover makes DPoP proofs with one key (RFC 9449 section 4.2). It may be used by many at once if the key may.
type Prover struct {
	signer *signer
	key    thumbprint.Key
}

// NewProver takes a key on P-256, P-384 or P-521 (ES256, ES384, ES512), an Ed25519 key (EdDSA) or an RSA key
// of 2048 to 4096 bits (PS256), in memory or behind a crypto.Signer. Any other key is an error.
func NewProver(key crypto.Signer) (*Prover, error) {
	if key == nil {
		return nil, errors.New("making DPoP proofs: no key")
	}
	jkt, err := thumbprint.OfKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("making DPoP proofs: %w", err)
	}
	s, err := newSigner(key, "dpop+jwt")
	if err != nil {
		return nil, fmt.Errorf("making DPoP proofs: %w", err)
	}
	return &Prover{s, jkt}, nil
}

// Key returns the thumbprint of the key: the jkt of tokens that are bound to it.
func (p *Prover) Key() thumbprint.Key { return p.key }

// ProofOptions is what a proof may carry beside method and URL.
type ProofOptions struct {
	AccessToken string    // the token that is sent along; empty at the token endpoint
	Nonce       string    // the newest that this server gave, if any
	Now         time.Time // the zero value means time.Now()
}

// Proof makes the value of a DPoP header for one request, and for no other: a retry needs a new one. The URL
// is that of the request; its query and fragment are left out.
func (p *Prover) Proof(method, url string, o ProofOptions) (string, error) {
	if method == "" {
		return "", errors.New("making a DPoP proof: no method")
	}
	htu, err := proofURL(url)
	if err != nil {
		return "", fmt.Errorf("making a DPoP proof: %w", err)
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	claims := struct {
		ID       string `json:"jti"`
		Method   string `json:"htm"`
		URL      string `json:"htu"`
		IssuedAt int64  `json:"iat"`
		Token    string `json:"ath,omitempty"`
		Nonce    string `json:"nonce,omitempty"`
	}{
		ID:       rand.Text(), // 130 random bits
		Method:   method,
		URL:      htu,
		IssuedAt: o.Now.Unix(),
		Nonce:    o.Nonce,
	}
	if o.AccessToken != "" {
		claims.Token = thumbprint.OfToken(o.AccessToken).String()
	}
	proof, err := p.signer.sign(claims)
	if err != nil {
		return "", fmt.Errorf("making a DPoP proof: %w", err)
	}
	return proof, nil
}

// proofURL leaves the URL as it was given, apart from query and fragment, because a server that does not
// normalise compares it with what it was sent.
func proofURL(url string) (string, error) {
	url, _, _ = strings.Cut(url, "#")
	url, _, _ = strings.Cut(url, "?")
	if _, err := NormalURL(url); err != nil {
		return "", err
	}
	if _, afterScheme, _ := strings.Cut(url, "://"); !strings.Contains(afterScheme, "/") {
		url += "/"
	}
	return url, nil
}
