package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/pkid/pkid/client"
)

// pkidServer is a running daemon, with the operator's credentials.
type pkidServer struct {
	invited int // clients so far
	*process
	dir      string
	operator *client.Identity
	public   string // host:port
	mtls     string
	status   string
	answered time.Duration // from its start to its first answer
}

// pkidBinary builds the daemon from the tree that this bench lies in, once per run.
func (b *bench) pkidBinary(ctx context.Context) (string, error) {
	if b.pkid != "" {
		return b.pkid, nil
	}
	path := filepath.Join(b.dir, "bin", "pkid")
	_, err := output(ctx, "..", []string{"CGO_ENABLED=0"}, "go", "build", "-o", path, "./cmd/pkid")
	b.pkid = path
	return path, err
}

// startPKID makes a CA and serves it.
func (b *bench) startPKID(ctx context.Context, name string) (*pkidServer, error) {
	bin, err := b.pkidBinary(ctx)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, name)
	const free = "127.0.0.1:0"
	if _, err := output(ctx, b.dir, nil, bin, "init", "--data", dir, "--public", free, "--mtls", free, "--status", free, "--ops", free); err != nil {
		return nil, err
	}
	return b.servePKID(ctx, name, dir)
}

// servePKID serves a data directory.
func (b *bench) servePKID(ctx context.Context, name, dir string) (*pkidServer, error) {
	s := &pkidServer{dir: dir}
	var err error
	if s.operator, err = client.Load(filepath.Join(dir, "admin")); err != nil {
		return nil, err
	}
	urls := s.operator.Info().URLs
	for to, from := range map[*string]string{&s.public: urls.Public, &s.mtls: urls.MTLS, &s.status: urls.Status} {
		u, err := url.Parse(from)
		if err != nil {
			return nil, err
		}
		*to = u.Host
	}
	if s.process, err = b.start(name, b.dir, nil, b.pkid, "serve", "--data", dir); err != nil {
		return nil, err
	}
	err = s.ready(ctx, 5*time.Minute, func() error { return answers(ctx, urls.Public+"/v1/ca", clientTLS(s.operator.Roots())) })
	s.answered = time.Since(s.started)
	if err != nil {
		s.stop()
	}
	return s, err
}

// operators opens connections that are authenticated as the operator.
func (s *pkidServer) operators(ctx context.Context, n int) ([]*conn, error) {
	config := clientTLS(s.operator.Roots(), *s.operator.Certificate())
	return dialAll(ctx, s.mtls, n, func(int) *tls.Config { return config })
}

// firstInvited is the number of the first client that is invited, beyond those of the large store.
const firstInvited = 50_000_000

// invite makes n invitations, each for a client of its own with the key of one of the fleet's applicants, and returns
// the requests that redeem them.
func (s *pkidServer) invite(ctx context.Context, n int) ([][]byte, error) {
	people, err := fleet()
	if err != nil {
		return nil, err
	}
	conns, err := s.operators(ctx, 32)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	asks := make([][]byte, n)
	csr := map[string][]byte{}
	for i := range asks {
		a := people[s.invited%len(people)]
		name := clientName(firstInvited + s.invited)
		s.invited++
		csr[name] = a.csr
		body := fmt.Sprintf(`{"client_id":%q,"sans":[%q]}`, name, name)
		asks[i] = render("POST", s.mtls, "/v1/invitations", []byte(body), "Content-Type", "application/json")
	}
	var mu sync.Mutex
	var out [][]byte
	_, err = drive(ctx, conns, time.Hour, 201, once(asks), func(_ int, body []byte) {
		var inv client.Invitation
		if json.Unmarshal(body, &inv) != nil {
			return
		}
		request := render("POST", s.public, "/v1/certificates", csr[inv.ClientID],
			"Content-Type", "application/pkcs10", "Authorization", "Bearer "+inv.Token)
		mu.Lock()
		defer mu.Unlock()
		out = append(out, request)
	})
	if err == nil && len(out) != n {
		err = fmt.Errorf("%d invitations instead of %d", len(out), n)
	}
	return out, err
}

// enrolAll gets certificates for the first n applicants.
func (s *pkidServer) enrolAll(ctx context.Context, n int) ([]tls.Certificate, error) {
	people, err := fleet()
	if err != nil {
		return nil, err
	}
	keys := map[string]*ecdsa.PrivateKey{}
	for i := range n {
		keys[clientName(firstInvited+s.invited+i)] = people[(s.invited+i)%len(people)].key
	}
	requests, err := s.invite(ctx, n)
	if err != nil {
		return nil, err
	}
	c, err := dial(ctx, s.public, clientTLS(s.operator.Roots()))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var out []tls.Certificate
	for _, request := range requests {
		if status, err := c.do(request); err != nil || status != 201 {
			return nil, fmt.Errorf("enrolling: %d %s %w", status, c.body, err)
		}
		var got client.Certificate
		if err := json.Unmarshal(c.body, &got); err != nil {
			return nil, err
		}
		cert, err := pair(append([]string{got.Certificate}, got.Chain...), keys[got.ClientID])
		if err != nil {
			return nil, err
		}
		out = append(out, cert)
	}
	return out, nil
}
