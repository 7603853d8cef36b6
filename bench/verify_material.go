package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

// What a resource server is asked to verify: the same tokens, certificates and proofs for every contender.
const (
	verifyIssuer   = "https://as.example"
	verifyAudience = "https://rs.example"
	verifyURL      = "https://rs.example/things/1"
)

type material struct {
	key    *ecdsa.PrivateKey // of the issuer
	cert   *x509.Certificate // of the client
	prover *tokenbind.Prover
	bound  []string // tokens bound to cert
	dpop   []string // tokens bound to the prover's key
	proofs []string // one for each of dpop
	again  []string // proofs for dpop[0]
	made   time.Time
}

func newMaterial(ca *testCA, n int) (*material, error) {
	m := &material{bound: make([]string, n), dpop: make([]string, n), proofs: make([]string, n), again: make([]string, n)}
	pair, err := ca.client(clientName(0))
	if err != nil {
		return nil, err
	}
	m.cert = pair.Leaf
	if m.key, err = newKey(); err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	m.prover, err = tokenbind.NewProver(key)
	return m, err
}

// fresh renews the material before a contender's round where proofs, which are good for a minute, get old.
func (m *material) fresh(all []contender) []contender {
	out := make([]contender, len(all))
	for i, c := range all {
		out[i] = contender{c.name, func(ctx context.Context) (sample, error) {
			if time.Since(m.made) > 30*time.Second {
				if err := m.renew(); err != nil {
					return sample{}, err
				}
			}
			return c.round(ctx)
		}}
	}
	return out
}

// renew makes new tokens and proofs.
func (m *material) renew() error {
	m.made = time.Now()
	x5t := thumbprint.OfCertificate(m.cert).String()
	jkt := m.prover.Key().String()
	err := parallel(len(m.bound), func(i int) (err error) {
		if m.bound[i], err = m.token("x5t#S256", x5t); err != nil {
			return err
		}
		if m.dpop[i], err = m.token("jkt", jkt); err != nil {
			return err
		}
		m.proofs[i], err = m.prover.Proof(http.MethodGet, verifyURL, tokenbind.ProofOptions{AccessToken: m.dpop[i]})
		return err
	})
	if err != nil {
		return err
	}
	return parallel(len(m.again), func(i int) (err error) {
		m.again[i], err = m.prover.Proof(http.MethodGet, verifyURL, tokenbind.ProofOptions{AccessToken: m.dpop[0]})
		return err
	})
}

// token makes an access token as pkid's token endpoint does (RFC 9068).
func (m *material) token(member, bound string) (string, error) {
	now := time.Now().Unix()
	payload, err := json.Marshal(map[string]any{
		"iss": verifyIssuer, "sub": clientName(0), "aud": []string{verifyAudience}, "exp": now + 300, "iat": now, "jti": rand.Text(),
		"client_id": clientName(0), "scope": "things:read", "cnf": map[string]string{member: bound},
	})
	if err != nil {
		return "", err
	}
	return signES256(m.key, `{"alg":"ES256","kid":"bench","typ":"at+jwt"}`, payload)
}

func signES256(key *ecdsa.PrivateKey, header string, payload []byte) (string, error) {
	token := base64url.AppendEncode(nil, []byte(header))
	token = base64url.AppendEncode(append(token, '.'), payload)
	digest := sha256.Sum256(token)
	x, y, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", err
	}
	var raw [64]byte
	x.FillBytes(raw[:32])
	y.FillBytes(raw[32:])
	return string(base64url.AppendEncode(append(token, '.'), raw[:])), nil
}

// request is how a resource server sees it.
func (m *material) request(ctx context.Context, scheme, token, proof string) *http.Request {
	u, _ := url.Parse(verifyURL) // a constant
	r := &http.Request{
		Method: http.MethodGet, URL: u, Host: u.Host, RequestURI: u.Path, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Authorization": {scheme + " " + token}},
		TLS:    &tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{m.cert}},
	}
	if proof != "" {
		r.Header.Set("DPoP", proof)
	}
	return r.WithContext(ctx)
}

// signature is a signature over a message of a token's length, for the floor.
func (m *material) signature() (digest [32]byte, sig []byte, message []byte, err error) {
	message = []byte(m.bound[0])
	digest = sha256.Sum256(message)
	sig, err = m.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	return digest, sig, message, err
}
