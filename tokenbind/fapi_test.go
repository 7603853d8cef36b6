package tokenbind

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"
)

// unrevoked knows of nothing that was revoked, but for one token.
type unrevoked struct{ id string }

func (unrevoked) Check(context.Context, *x509.Certificate) error { return nil }

func (u unrevoked) CheckToken(_ context.Context, claims *Claims) error {
	if claims.ID == u.id {
		return errors.New("revoked")
	}
	return nil
}

func underFAPI2(c *Config) { c.FAPI2, c.Revocation, c.Tokens = true, unrevoked{}, unrevoked{} }

func TestH92H94_VerifierOfTheProfile(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, underFAPI2)
	accepts(t, v, k.request("Bearer "+k.certToken(t), k.cert.Leaf))
	accepts(t, v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{}))
	refuses(t, v, k.request("Bearer "+k.token(t, nil)), invalid, CodeInvalidToken, "binding")
	revoked := k.verifier(t, underFAPI2, func(c *Config) { c.Tokens = unrevoked{"t-1"} })
	refuses(t, revoked, k.dpopRequest(t, k.dpopToken(t), ProofOptions{}), invalid, CodeInvalidToken, "token revocation")

	for what, spoil := range map[string]func(*Config){
		"AllowBearer":              func(c *Config) { c.AllowBearer = true },
		"Tokens and Revocation":    func(c *Config) { c.Tokens = nil },
		"Revocation":               func(c *Config) { c.Revocation = nil },
		"Tolerance":                func(c *Config) { c.Tolerance = 9 * time.Second },
		"ES384":                    func(c *Config) { c.Algorithms = []string{"ES256", "ES384"} },
		"RS256":                    func(c *Config) { c.Algorithms = []string{"RS256"} },
		"https BaseURL":            func(c *Config) { c.BaseURL = "http://rs.example" },
		"not \"http://b.example\"": func(c *Config) { c.BaseURLs = []string{"https://rs.example", "http://b.example"} },
		"InsecureIssuerHTTP":       func(c *Config) { c.InsecureIssuerHTTP = true },
		"InsecureHostFromRequest":  func(c *Config) { c.InsecureHostFromRequest = true },
	} {
		c := k.conf
		underFAPI2(&c)
		spoil(&c)
		if _, err := NewVerifier(c); err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "FAPI 2.0 section") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestH101_ProofsAtTheResourceServer(t *testing.T) {
	k := newResourceKit(t)
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if k.proofs, err = NewProver(key); err != nil {
		t.Fatal(err)
	}
	accepts(t, k.verifier(t), k.dpopRequest(t, k.dpopToken(t), ProofOptions{}))
	v := k.verifier(t, underFAPI2)
	refuses(t, v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{}), invalid, CodeInvalidProof, "alg")
	resp := serve(v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{}))
	if challenge := challenges(resp)["DPoP"]; !strings.Contains(challenge, `algs="ES256 EdDSA PS256"`) {
		t.Errorf("the challenge names other algorithms: %s", challenge)
	}
}

// BCP 195 recommends these of TLS 1.2: forward secrecy, and encryption that authenticates.
func TestH06_CipherSuites(t *testing.T) {
	secure := map[uint16]*tls.CipherSuite{}
	for _, s := range tls.CipherSuites() {
		secure[s.ID] = s
	}
	for _, id := range CipherSuites() {
		s := secure[id]
		if s == nil || !strings.HasPrefix(s.Name, "TLS_ECDHE_") || !strings.Contains(s.Name, "_GCM_") || strings.Contains(s.Name, "CBC") {
			t.Errorf("%s is none of them", tls.CipherSuiteName(id))
		}
	}
	if len(CipherSuites()) != 4 {
		t.Errorf("%d suites", len(CipherSuites()))
	}
}
