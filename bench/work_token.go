package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/tokenbind"
)

// tokenServer is a contender that issues tokens.
type tokenServer struct {
	name    string
	process *process
	roots   *x509.CertPool
	certs   []tls.Certificate // one for each connection
	ids     []string          // the clients that they belong to

	mtls, public     string // host:port
	token            string // path
	dpopPath         string
	introspectPath   string
	dpopID, rsID     string
	dpopPass, rsPass string
	extra            string // of the form
}

func (b *bench) tokens(ctx context.Context) error {
	pk, err := b.startPKID(ctx, "pkid-tokens")
	if err != nil {
		return err
	}
	defer pk.stop()
	fl, err := b.startFloor(ctx, "floor-tokens", "")
	if err != nil {
		return err
	}
	defer fl.stop()
	nd, err := b.startNode(ctx, "oidc-provider")
	if err != nil {
		return err
	}
	defer nd.stop()
	all, err := b.tokenServers(ctx, pk, fl, nd)
	if err != nil {
		return err
	}
	if err := b.measureTokens(ctx, all); err != nil {
		return err
	}
	if err := b.measureDPoP(ctx, all); err != nil {
		return err
	}
	return b.measureIntrospection(ctx, all)
}

// tokenServers registers the clients: pkid, the floor, and oidc-provider with opaque tokens and with JWTs.
func (b *bench) tokenServers(ctx context.Context, pk *pkidServer, fl *floorServer, nd *nodeServer) ([]*tokenServer, error) {
	p := &tokenServer{
		name: "pkid", process: pk.process, roots: pk.operator.Roots(), mtls: pk.mtls, public: pk.public,
		token: "/oauth/token", dpopPath: "/oauth/token", introspectPath: "/oauth/introspect",
	}
	var err error
	if p.certs, err = pk.enrolAll(ctx, connections); err != nil {
		return nil, err
	}
	for _, c := range p.certs {
		p.ids = append(p.ids, c.Leaf.Subject.CommonName)
	}
	api := pk.operator.API()
	dpop, err := api.AddClient(ctx, client.ClientRecord{ID: "dpop", Auth: "client_secret_basic", DPoP: true})
	if err != nil {
		return nil, err
	}
	rs, err := api.AddClient(ctx, client.ClientRecord{ID: "rs", Auth: "client_secret_basic", Introspect: true})
	if err != nil {
		return nil, err
	}
	p.dpopID, p.dpopPass, p.rsID, p.rsPass = dpop.ID, dpop.Secret, rs.ID, rs.Secret

	f := &tokenServer{
		name: "floor", process: fl.process, roots: b.ca.roots, mtls: fl.addr, public: fl.addr,
		token: "/token", dpopPath: "/dpop", introspectPath: "/introspect", dpopID: "dpop", rsID: "rs", dpopPass: "bench-secret", rsPass: "bench-secret",
	}
	for i := range connections {
		c, err := b.ca.client(fmt.Sprintf("client-%05d", i))
		if err != nil {
			return nil, err
		}
		f.certs, f.ids = append(f.certs, c), append(f.ids, c.Leaf.Subject.CommonName)
	}
	opaque := *f
	opaque.name, opaque.process, opaque.mtls, opaque.public = "oidc-provider, opaque", nd.process, nd.addr, nd.addr
	opaque.dpopPath, opaque.introspectPath = "/token", "/token/introspection"
	jwt := opaque
	jwt.name, jwt.extra = "oidc-provider, JWT", "&resource=urn%3Abench"
	return []*tokenServer{p, f, &opaque, &jwt}, nil
}

// tokenRequest asks for a token for the i-th client.
func (s *tokenServer) tokenRequest(i int) []byte {
	body := "grant_type=client_credentials&client_id=" + s.ids[i] + s.extra
	return render("POST", s.mtls, s.token, []byte(body), "Content-Type", "application/x-www-form-urlencoded")
}

func (s *tokenServer) mtlsConns(ctx context.Context) ([]*conn, error) {
	return dialAll(ctx, s.mtls, connections, func(i int) *tls.Config { return clientTLS(s.roots, s.certs[i]) })
}

func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id)+":"+url.QueryEscape(secret)))
}

func (b *bench) measureTokens(ctx context.Context, servers []*tokenServer) error {
	var all []contender
	for _, s := range servers {
		all = append(all, contender{s.name, func(ctx context.Context) (sample, error) {
			conns, err := s.mtlsConns(ctx)
			if err != nil {
				return sample{}, err
			}
			defer closeAll(conns)
			var requests [][]byte
			for i := range conns {
				requests = append(requests, s.tokenRequest(i))
			}
			return measure(s.process, func() (sample, error) {
				return drive(ctx, conns, b.sizes.round, 200, func(i int) []byte { return requests[i] }, nil)
			})
		}})
	}
	got, err := alternate(ctx, "mTLS-bound token", b.sizes.rounds, all)
	if err != nil {
		return err
	}
	node := fastest(got[2:]...)
	b.report.atLeast("mTLS-bound token, 32 at once", "floor", got[0].rate()/got[1].rate(), 0.8, "")
	b.report.atLeast("mTLS-bound token, 32 at once", node.name, got[0].rate()/node.rate(), 4, "")
	b.report.rates("mTLS-bound tokens, 32 at once", "client_credentials with tls_client_auth, 32 clients with a connection each. pkid's tokens are ES256 JWTs. "+
		"oidc-provider is one process with its store in its own memory, which nothing survives; its opaque tokens are not signed. "+
		"The floor reads the form, hashes the certificate and signs one JWT.", got)
	return nil
}

// proofsAhead is how many proofs a second are made before a round: more than any contender can take.
const proofsAhead = 9000

func (b *bench) measureDPoP(ctx context.Context, servers []*tokenServer) error {
	provers := make([]*tokenbind.Prover, connections)
	for i := range provers {
		key, err := newKey()
		if err != nil {
			return err
		}
		if provers[i], err = tokenbind.NewProver(key); err != nil {
			return err
		}
	}
	var all []contender
	for _, s := range servers {
		all = append(all, contender{s.name, func(ctx context.Context) (sample, error) {
			requests, err := s.dpopRequests(provers, proofsAhead*max(1, int(b.sizes.round/time.Second)))
			if err != nil {
				return sample{}, err
			}
			config := clientTLS(s.roots)
			conns, err := dialAll(ctx, s.public, connections, func(int) *tls.Config { return config })
			if err != nil {
				return sample{}, err
			}
			defer closeAll(conns)
			return measure(s.process, func() (sample, error) {
				return drive(ctx, conns, b.sizes.round, 200, once(requests), nil)
			})
		}})
	}
	got, err := alternate(ctx, "DPoP-bound token", b.sizes.rounds, all)
	if err != nil {
		return err
	}
	node := fastest(got[2:]...)
	b.report.atLeast("DPoP-bound token, a fresh proof each", "floor", got[0].rate()/got[1].rate(), 0.8, "")
	b.report.atLeast("DPoP-bound token, a fresh proof each", node.name, got[0].rate()/node.rate(), 4.5, "")
	b.report.rates("DPoP-bound tokens, 32 at once", "client_credentials with client_secret_basic and a fresh ES256 proof for each request, made before the round. "+
		"pkid keeps every proof on disk before it answers, so that none works twice, not even across a restart; oidc-provider keeps the last 1,000 in memory. "+
		"The floor verifies one proof and signs one JWT.", got)
	return nil
}

func (s *tokenServer) dpopRequests(provers []*tokenbind.Prover, n int) ([][]byte, error) {
	out := make([][]byte, n)
	body := []byte("grant_type=client_credentials" + s.extra)
	if s.name == "floor" {
		body = []byte("grant_type=client_credentials&client_id=dpop")
	}
	errs := parallel(n, func(i int) error {
		proof, err := provers[i%len(provers)].Proof("POST", "https://"+s.public+s.dpopPath, tokenbind.ProofOptions{})
		out[i] = render("POST", s.public, s.dpopPath, body, "Content-Type", "application/x-www-form-urlencoded",
			"Authorization", basic(s.dpopID, s.dpopPass), "DPoP", proof)
		return err
	})
	return out, errs
}

// introspected is how many tokens are asked about in turn; oidc-provider's memory holds 1,000.
const introspected = 200

func (b *bench) measureIntrospection(ctx context.Context, servers []*tokenServer) error {
	var all []contender
	for _, s := range servers[:3] { // oidc-provider does not introspect JWTs
		all = append(all, contender{s.name, func(ctx context.Context) (sample, error) {
			requests, err := s.introspectRequests(ctx)
			if err != nil {
				return sample{}, err
			}
			config := clientTLS(s.roots)
			conns, err := dialAll(ctx, s.public, connections, func(int) *tls.Config { return config })
			if err != nil {
				return sample{}, err
			}
			defer closeAll(conns)
			if status, err := conns[0].do(requests[0]); err != nil || status != 200 || !active(conns[0].body) {
				return sample{}, fmt.Errorf("introspection: %d %s %w", status, conns[0].body, err)
			}
			return measure(s.process, func() (sample, error) {
				return drive(ctx, conns, b.sizes.round, 200, cycle(requests), nil)
			})
		}})
	}
	got, err := alternate(ctx, "introspection", b.sizes.rounds, all)
	if err != nil {
		return err
	}
	b.report.atLeast("introspection of a bound token", "floor", got[0].rate()/got[1].rate(), 0.7, "")
	b.report.atLeast("introspection of a bound token", got[2].name, got[0].rate()/got[2].rate(), 5, "")
	b.report.rates("Introspection, 32 at once", fmt.Sprintf("Of %d certificate-bound tokens in turn, by a resource server with client_secret_basic. pkid's are JWTs, whose "+
		"signature, client and certificate it looks at; oidc-provider's are opaque and looked up in memory. The floor verifies one JWT.", introspected), got)
	return nil
}

func active(body []byte) bool {
	var answer struct {
		Active bool `json:"active"`
	}
	return json.Unmarshal(body, &answer) == nil && answer.Active
}

// introspectRequests gets tokens and makes a request to introspect each.
func (s *tokenServer) introspectRequests(ctx context.Context) ([][]byte, error) {
	conns, err := s.mtlsConns(ctx)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	out := make([][]byte, introspected)
	for i := range out {
		k := i % len(conns)
		status, err := conns[k].do(s.tokenRequest(k))
		if err != nil || status != 200 {
			return nil, fmt.Errorf("token: %d %s %w", status, conns[k].body, err)
		}
		var answer struct {
			Token string `json:"access_token"`
		}
		if err := json.Unmarshal(conns[k].body, &answer); err != nil {
			return nil, err
		}
		if answer.Token == "" {
			return nil, errors.New("no access_token")
		}
		out[i] = render("POST", s.public, s.introspectPath, []byte("token="+url.QueryEscape(answer.Token)),
			"Content-Type", "application/x-www-form-urlencoded", "Authorization", basic(s.rsID, s.rsPass))
	}
	return out, nil
}
