package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// identities are 32 client certificates of each CA, by contender.
type identities map[string][]tls.Certificate

const connections = 32

func (a *authorities) identities(ctx context.Context) (identities, error) {
	ids := identities{}
	var err error
	if ids["pkid"], err = a.pkid.enrolAll(ctx, connections); err != nil {
		return nil, err
	}
	for _, s := range a.steps() {
		if ids[a.stepName(s)], err = s.enrolAll(ctx, connections); err != nil {
			return nil, err
		}
	}
	ids[floorName], err = a.b.ca.clients(connections)
	return ids, err
}

// pair makes a tls.Certificate of PEM texts and a key.
func pair(chain []string, key *ecdsa.PrivateKey) (tls.Certificate, error) {
	out := tls.Certificate{PrivateKey: key}
	for _, text := range chain {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return out, errors.New("no PEM certificate")
		}
		out.Certificate = append(out.Certificate, block.Bytes)
	}
	var err error
	out.Leaf, err = x509.ParseCertificate(out.Certificate[0])
	return out, err
}

func (a *authorities) measureRenewal(ctx context.Context) error {
	ids, err := a.identities(ctx)
	if err != nil {
		return err
	}
	renew := func(name string, p *process, addr, path string, roots *x509.CertPool, want int) contender {
		request := [][]byte{render("POST", addr, path, nil)}
		return contender{name, func(ctx context.Context) (sample, error) {
			conns, err := dialAll(ctx, addr, connections, func(i int) *tls.Config { return clientTLS(roots, ids[name][i]) })
			if err != nil {
				return sample{}, err
			}
			defer closeAll(conns)
			return measure(p, func() (sample, error) { return drive(ctx, conns, a.b.sizes.round, want, cycle(request), nil) })
		}}
	}
	all := []contender{
		renew("pkid", a.pkid.process, a.pkid.mtls, "/v1/certificates/renew", a.pkid.operator.Roots(), 201),
		renew(floorName, a.floor.process, a.floor.addr, "/renew", a.b.ca.roots, 200),
	}
	for _, s := range a.steps() {
		all = append(all, renew(a.stepName(s), s.process, s.addr, "/1.0/renew", s.ca.roots, 201))
	}
	got, err := alternate(ctx, "renew", a.b.sizes.rounds, all)
	if err != nil {
		return err
	}
	r := &a.b.report
	r.record("renew/floor", got.over("pkid", floorName), "the floor keeps nothing")
	if a.b.peers {
		step := got.fastest(onBadger, onBbolt)
		r.record("renew/step", got.over("pkid", step.name), fmt.Sprintf("%s; the floor is %s", step.name, ratio(got.over(floorName, step.name))))
	}
	r.rates("Renewing, 32 at once", "For the same key, over kept connections that were authenticated with the certificate to be renewed.", got)
	return a.b.explain(ctx, "renew", a.pkid.process, all[0].round, "renew/floor", "renew/step")
}

// take hands out certificates that were issued before and are not revoked: to each round the same share of them.
func (a *authorities) take(name string, rounds int) []string {
	if a.share[name] == 0 {
		a.share[name] = len(a.serials[name])/rounds + 1
	}
	all := a.serials[name]
	n := min(len(all), a.share[name])
	a.serials[name] = all[n:]
	return all[:n]
}

func (a *authorities) measureRevocation(ctx context.Context) error {
	rounds := a.b.sizes.rounds + 1 // one more for a profile
	pkid := func(ctx context.Context) (sample, error) {
		operators, err := a.pkid.operators(ctx, connections)
		if err != nil {
			return sample{}, err
		}
		defer closeAll(operators)
		var requests [][]byte
		for _, serial := range a.take(a.pkid.name, rounds) {
			requests = append(requests, render("POST", a.pkid.mtls, "/v1/certificates/"+serial+"/revoke", []byte(`{"reason":"superseded"}`), "Content-Type", "application/json"))
		}
		return measure(a.pkid.process, func() (sample, error) { return drive(ctx, operators, a.b.sizes.round, 200, once(requests), nil) })
	}
	all := []contender{{"pkid", pkid}}
	for _, s := range a.steps() {
		all = append(all, contender{a.stepName(s), func(ctx context.Context) (sample, error) { return a.revokeStep(ctx, s, rounds) }})
	}
	got, err := alternate(ctx, "revoke", a.b.sizes.rounds, all)
	if err != nil {
		return err
	}
	if a.b.peers {
		step := got.fastest(onBadger, onBbolt)
		a.b.report.record("revoke/step", got.over("pkid", step.name), step.name)
	}
	a.b.report.rates("Revoking, 32 at once", "pkid: as the operator, and with a new CRL published all the while, which grows as more is revoked and takes its share of the cores. step-ca: with a one-time token each, and its CRL off, since it would otherwise sign one within each call. So the ratio depends on how much is revoked already.", got)
	return a.b.explain(ctx, "revoke", a.pkid.process, pkid, "revoke/step")
}

func (a *authorities) revokeStep(ctx context.Context, s *stepServer, rounds int) (sample, error) {
	serials := a.take(s.name, rounds)
	requests := make([][]byte, len(serials))
	err := parallel(len(serials), func(i int) (err error) {
		requests[i], err = s.revokeRequest(serials[i])
		return err
	})
	if err != nil {
		return sample{}, err
	}
	config := clientTLS(s.ca.roots)
	conns, err := dialAll(ctx, s.addr, connections, func(int) *tls.Config { return config })
	if err != nil {
		return sample{}, err
	}
	defer closeAll(conns)
	return measure(s.process, func() (sample, error) { return drive(ctx, conns, a.b.sizes.round, 200, once(requests), nil) })
}
