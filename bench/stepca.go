package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/pkid/pkid/thumbprint"
)

const stepVersion = "v0.30.2"

// stepServer is a running step-ca with one JWK provisioner, whose tokens its clients hold beforehand.
type stepServer struct {
	*process
	dir    string
	addr   string
	plain  string // HTTP: the CRL
	signer jose.Signer
	root   string // its fingerprint
	ca     *testCA
}

// stepBinary installs step-ca from its module, with the dependencies that its authors chose.
func (b *bench) stepBinary(ctx context.Context) (string, error) {
	if b.stepca != "" {
		return b.stepca, nil
	}
	_, err := output(ctx, b.dir, []string{"GOBIN=" + filepath.Join(b.dir, "bin"), "CGO_ENABLED=0", "GOFLAGS="}, "go", "install", "-trimpath",
		"github.com/smallstep/certificates/cmd/step-ca@"+stepVersion)
	b.stepca = filepath.Join(b.dir, "bin", "step-ca")
	return b.stepca, err
}

// stepOptions change what startStep configures.
type stepOptions struct {
	crl  bool
	fill func(db string) error // fills the store before the start
}

// startStep configures and serves step-ca on a store of its own, "badgerv2" or "bbolt".
func (b *bench) startStep(ctx context.Context, name, engine string, o stepOptions) (*stepServer, error) {
	bin, err := b.stepBinary(ctx)
	if err != nil {
		return nil, err
	}
	s := &stepServer{dir: filepath.Join(b.dir, name)}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, err
	}
	if s.ca, err = newTestCA(filepath.Join(s.dir, "ca")); err != nil {
		return nil, err
	}
	sum := thumbprint.OfCertificate(s.ca.root)
	s.root = hex.EncodeToString(sum[:])
	config, err := s.config(engine, o)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "ca.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	if o.fill != nil {
		if err := o.fill(s.database(engine)); err != nil {
			return nil, err
		}
	}
	if s.process, err = b.start(name, s.dir, []string{"STEPPATH=" + s.dir}, bin, file); err != nil {
		return nil, err
	}
	err = s.ready(ctx, 5*time.Minute, func() error { return answers(ctx, "https://"+s.addr+"/health", clientTLS(s.ca.roots)) })
	if err != nil {
		s.stop()
	}
	return s, err
}

func (s *stepServer) database(engine string) string {
	if engine == "bbolt" {
		return filepath.Join(s.dir, "step.db")
	}
	return filepath.Join(s.dir, "db")
}

func (s *stepServer) config(engine string, o stepOptions) (_ []byte, err error) {
	if s.addr, err = freeAddress(); err != nil {
		return nil, err
	}
	if s.plain, err = freeAddress(); err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	const kid = "bench"
	s.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, err
	}
	public := jose.JSONWebKey{Key: key.Public(), KeyID: kid, Algorithm: "ES256", Use: "sig"}
	config := map[string]any{
		"root": filepath.Join(s.ca.dir, "root.crt"), "crt": filepath.Join(s.ca.dir, "issuing.crt"), "key": filepath.Join(s.ca.dir, "issuing.key"),
		"address": s.addr, "insecureAddress": s.plain, "dnsNames": []string{"127.0.0.1", "localhost"},
		"logger":    map[string]string{"format": "text"},
		"db":        map[string]string{"type": engine, "dataSource": s.database(engine)},
		"authority": map[string]any{"provisioners": []any{map[string]any{"type": "JWK", "name": "bench", "key": public}}},
	}
	if o.crl {
		config["crl"] = map[string]any{"enabled": true, "generateOnRevoke": true, "cacheDuration": "24h"}
	}
	return json.Marshal(config)
}

// token makes a one-time token for an act on a subject.
func (s *stepServer) token(act, subject string) (string, error) {
	var id [16]byte
	rand.Read(id[:])
	now := time.Now()
	return jwt.Signed(s.signer).Claims(jwt.Claims{
		Issuer: "bench", Subject: subject, Audience: jwt.Audience{"https://" + s.addr + "/1.0/" + act}, ID: hex.EncodeToString(id[:]),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-time.Minute)), Expiry: jwt.NewNumericDate(now.Add(30 * time.Minute)),
	}).Claims(map[string]any{"sans": []string{subject}, "sha": s.root}).Serialize()
}

// signRequests are n requests for certificates, for the fleet's applicants in turn.
func (s *stepServer) signRequests(n int) ([][]byte, error) {
	people, err := fleet()
	if err != nil {
		return nil, err
	}
	out := make([][]byte, n)
	return out, parallel(n, func(i int) error {
		a := people[i%len(people)]
		token, err := s.token("sign", a.name)
		if err != nil {
			return err
		}
		body, err := json.Marshal(map[string]string{"csr": a.pem, "ott": token})
		out[i] = render("POST", s.addr, "/1.0/sign", body, "Content-Type", "application/json")
		return err
	})
}

// enrolAll gets certificates for the first n applicants.
func (s *stepServer) enrolAll(ctx context.Context, n int) ([]tls.Certificate, error) {
	requests, err := s.signRequests(n)
	if err != nil {
		return nil, err
	}
	people, err := fleet()
	if err != nil {
		return nil, err
	}
	c, err := dial(ctx, s.addr, clientTLS(s.ca.roots))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	out := make([]tls.Certificate, n)
	for i := range out {
		status, err := c.do(requests[i])
		if err != nil || status != 201 {
			return nil, fmt.Errorf("step-ca's certificate: %d %s %w", status, c.body, err)
		}
		var answer struct {
			Chain []string `json:"certChain"`
		}
		if err := json.Unmarshal(c.body, &answer); err != nil {
			return nil, err
		}
		if out[i], err = pair(answer.Chain, people[i].key); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// revokeRequest revokes a serial number with a token.
func (s *stepServer) revokeRequest(serial string) ([]byte, error) {
	token, err := s.token("revoke", serial)
	if err != nil {
		return nil, err
	}
	body := fmt.Sprintf(`{"serial":%q,"ott":%q,"reasonCode":0,"passive":true}`, serial, token)
	return render("POST", s.addr, "/1.0/revoke", []byte(body), "Content-Type", "application/json"), nil
}

var base64url = base64.RawURLEncoding
