package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/url"

	"github.com/pkid/pkid/bench/model"
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
	all, err := b.tokenServers(ctx, pk, fl)
	if err != nil {
		return err
	}
	if b.peers {
		nd, err := b.startNode(ctx, "oidc-provider")
		if err != nil {
			return err
		}
		defer nd.stop()
		all = append(all, nodeTokenServers(all[1], nd)...)
	}
	if err := b.measureTokens(ctx, all); err != nil {
		return err
	}
	if err := b.measureDPoP(ctx, all); err != nil {
		return err
	}
	return b.measureIntrospection(ctx, all)
}

// The contenders beside pkid and the floor.
const (
	nodeOpaque = "oidc-provider, opaque"
	nodeJWT    = "oidc-provider, JWT"
)

// tokenServers registers the clients of pkid and of the floor.
func (b *bench) tokenServers(ctx context.Context, pk *pkidServer, fl *floorServer) ([]*tokenServer, error) {
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
	dpop, err := api.AddClient(ctx, client.ClientRecord{ID: "dpop", Auth: "client_secret_basic", DPoP: true, Nonce: "optional"})
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
	if f.certs, err = b.ca.clients(connections); err != nil {
		return nil, err
	}
	for _, c := range f.certs {
		f.ids = append(f.ids, c.Leaf.Subject.CommonName)
	}
	return []*tokenServer{p, f}, nil
}

// nodeTokenServers are oidc-provider's with opaque tokens and with JWTs. It knows the floor's clients.
func nodeTokenServers(floor *tokenServer, nd *nodeServer) []*tokenServer {
	opaque := *floor
	opaque.name, opaque.process, opaque.mtls, opaque.public = nodeOpaque, nd.process, nd.addr, nd.addr
	opaque.dpopPath, opaque.introspectPath = "/token", "/token/introspection"
	jwt := opaque
	jwt.name, jwt.extra = nodeJWT, "&resource=urn%3Abench"
	return []*tokenServer{&opaque, &jwt}
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
	b.recordTokens("token", got)
	b.report.data.Cost(model.CostToken, got.named("pkid").cpu().Seconds())
	b.report.rates("mTLS-bound tokens, 32 at once", "client_credentials with tls_client_auth, 32 clients with a connection each. pkid's tokens are ES256 JWTs. "+
		"oidc-provider is one process with its store in its own memory, which nothing survives; its opaque tokens are not signed. "+
		"The floor reads the form, hashes the certificate and signs one JWT.", got)
	return b.explain(ctx, "mTLS token", servers[0].process, all[0].round, "token/floor", "token/node")
}

// recordTokens compares pkid with the floor, and with the better of oidc-provider's two modes.
func (b *bench) recordTokens(id string, got results) {
	b.report.record(id+"/floor", got.over("pkid", floorName), "")
	if !b.peers {
		return
	}
	node := got.fastest(nodeOpaque, nodeJWT)
	own, want := got.over("pkid", node.name), b.report.demand(id+"/node").bound
	b.report.record(id+"/node", own, fmt.Sprintf("%s; %s; %s of the one that issues JWTs, as pkid does",
		node.name, reach(own, got.over(floorName, node.name), want), ratio(got.over("pkid", nodeJWT))))
}

// reach says how far the floor comes, where pkid does not come far enough.
func reach(own, floor float64, want bound) string {
	if want.holds(own) || want.holds(floor) {
		return "the floor is " + want.show(floor)
	}
	return "the floor itself is only " + want.show(floor) + ", with nothing but TLS, one form and the signatures"
}

// proofsAhead is how many proofs a second are made before a round, for the contender that takes the most and more
// than it can take.
const proofsAhead = 12_000

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
			requests, err := s.dpopRequests(provers, int(proofsAhead*b.sizes.round.Seconds()))
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
	b.recordTokens("dpop", got)
	b.report.data.Cost(model.CostProofToken, got.named("pkid").cpu().Seconds())
	b.report.rates("DPoP-bound tokens, 32 at once", "client_credentials with client_secret_basic and a fresh ES256 proof for each request, made before the round. "+
		"pkid remembers every proof in memory for as long as it could be used, so that none works twice; it writes them down when it stops, and after a crash "+
		"it asks for a fresh nonce, which no earlier proof has. oidc-provider keeps the last 1,000 in memory. "+
		"The floor verifies one proof and signs one JWT.", got)
	return b.explain(ctx, "DPoP token", servers[0].process, all[0].round, "dpop/floor", "dpop/node")
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
