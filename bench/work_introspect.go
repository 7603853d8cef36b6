package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"

	"github.com/pkid/pkid/bench/model"
)

// introspected is how many tokens are asked about in turn; oidc-provider's memory holds 1,000.
const introspected = 200

func (b *bench) measureIntrospection(ctx context.Context, servers []*tokenServer) error {
	var all []contender
	for _, s := range servers {
		if s.name == nodeJWT {
			continue // oidc-provider does not introspect JWTs
		}
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
	b.report.record("introspect/floor", got.over("pkid", floorName), "")
	if b.peers {
		own := got.over("pkid", nodeOpaque)
		b.report.record("introspect/node", own, reach(own, got.over(floorName, nodeOpaque), b.report.demand("introspect/node").bound))
	}
	b.report.data.Cost(model.CostIntrospect, got.named("pkid").cpu().Seconds())
	b.report.rates("Introspection, 32 at once", fmt.Sprintf("Of %d certificate-bound tokens in turn, by a resource server with client_secret_basic. pkid's are JWTs, whose "+
		"signature, client and certificate it looks at; oidc-provider's are opaque and looked up in memory. The floor verifies one JWT.", introspected), got)
	return b.explain(ctx, "introspection", servers[0].process, all[0].round, "introspect/floor", "introspect/node")
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
