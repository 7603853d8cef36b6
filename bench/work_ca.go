package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/pkid/pkid/bench/model"
)

// authorities are the CAs that issue, renew and revoke side by side.
type authorities struct {
	b       *bench
	pkid    *pkidServer
	floor   *floorServer
	badger  *stepServer
	bbolt   *stepServer
	serials map[string][]string // of what was issued and not revoked, by server
	share   map[string]int      // of these, what a round of revocations takes
	issued  map[string]int
	last    map[string]int // requests of its last round
}

func newAuthorities(b *bench) *authorities {
	return &authorities{b: b, serials: map[string][]string{}, share: map[string]int{}, issued: map[string]int{}, last: map[string]int{}}
}

func (b *bench) startAuthorities(ctx context.Context) (a *authorities, err error) {
	a = newAuthorities(b)
	defer func() {
		if err != nil {
			a.stop()
		}
	}()
	if a.pkid, err = b.startPKID(ctx, "pkid"); err != nil {
		return a, err
	}
	if a.floor, err = b.startFloor(ctx, "floor", ""); err != nil {
		return a, err
	}
	if !b.peers {
		return a, nil
	}
	if a.badger, err = b.startStep(ctx, "step-ca-badger", "badgerv2", stepOptions{}); err != nil {
		return a, err
	}
	a.bbolt, err = b.startStep(ctx, "step-ca-bbolt", "bbolt", stepOptions{})
	return a, err
}

func (a *authorities) stop() {
	if a.pkid != nil {
		a.pkid.stop()
	}
	if a.floor != nil {
		a.floor.stop()
	}
	for _, s := range a.steps() {
		s.stop()
	}
}

// steps are step-ca's servers that run.
func (a *authorities) steps() []*stepServer {
	return slices.DeleteFunc([]*stepServer{a.badger, a.bbolt}, func(s *stepServer) bool { return s == nil })
}

// The contenders in issuance, renewal and revocation.
const (
	floorName    = "floor"
	durableFloor = "floor + bbolt"
	onBadger     = "step-ca, badger"
	onBbolt      = "step-ca, bbolt"
)

func (b *bench) issuance(ctx context.Context) error {
	a, err := b.startAuthorities(ctx)
	if err != nil {
		return err
	}
	defer a.stop()
	idle, err := a.memory(ctx)
	if err != nil {
		return err
	}
	step, err := a.measureIssuing(ctx)
	if err != nil {
		return err
	}
	if err := a.measureLatency(ctx); err != nil {
		return err
	}
	if err := a.measureMemory(ctx, idle, step); err != nil {
		return err
	}
	if err := a.measureRenewal(ctx); err != nil {
		return err
	}
	return a.measureRevocation(ctx)
}

// supply is how many rights to prepare for a round: half as many again as the last round used up, so that the
// server is not kept waiting for more. One that uses up all ends its round early.
func (a *authorities) supply(name string) int {
	if a.last[name] == 0 {
		return int(4000 * a.b.sizes.round.Seconds())
	}
	return max(a.last[name]*3/2, 100)
}

// issuers are the contenders at n connections, pkid first.
func (a *authorities) issuers(n int) []contender {
	all := []contender{
		{"pkid", func(ctx context.Context) (sample, error) {
			requests, err := a.pkid.invite(ctx, a.supply(a.pkid.name))
			if err != nil {
				return sample{}, err
			}
			return a.issue(ctx, a.pkid.process, n, a.pkid.public, clientTLS(a.pkid.operator.Roots()), requests)
		}},
		{floorName, func(ctx context.Context) (sample, error) { return a.issueFloor(ctx, n, "/issue") }},
		{durableFloor, func(ctx context.Context) (sample, error) { return a.issueFloor(ctx, n, "/issue-durable") }},
	}
	return append(all, a.stepIssuers(n)...)
}

// stepIssuers are step-ca's.
func (a *authorities) stepIssuers(n int) []contender {
	var all []contender
	for _, s := range a.steps() {
		all = append(all, contender{a.stepName(s), func(ctx context.Context) (sample, error) {
			requests, err := s.signRequests(a.supply(s.name))
			if err != nil {
				return sample{}, err
			}
			return a.issue(ctx, s.process, n, s.addr, clientTLS(s.ca.roots), requests)
		}})
	}
	return all
}

func (a *authorities) stepName(s *stepServer) string {
	if s == a.badger {
		return onBadger
	}
	return onBbolt
}

// issue sends each request once, and keeps the serial numbers for the revocations to come.
func (a *authorities) issue(ctx context.Context, p *process, n int, addr string, config *tls.Config, requests [][]byte) (sample, error) {
	conns, err := dialAll(ctx, addr, n, func(int) *tls.Config { return config })
	if err != nil {
		return sample{}, err
	}
	defer closeAll(conns)
	bodies := make([][][]byte, n)
	s, err := measure(p, func() (sample, error) {
		return drive(ctx, conns, a.b.sizes.round, 201, once(requests), func(i int, body []byte) {
			bodies[i] = append(bodies[i], append([]byte(nil), body...))
		})
	})
	if err != nil {
		return s, err
	}
	a.issued[p.name] += s.requests
	a.last[p.name] = s.requests
	for _, list := range bodies {
		for _, body := range list {
			serial, err := serialOf(body)
			if err != nil {
				return s, fmt.Errorf("%s: %w", p.name, err)
			}
			a.serials[p.name] = append(a.serials[p.name], serial)
		}
	}
	return s, nil
}

// serialOf reads pkid's or step-ca's answer.
func serialOf(body []byte) (string, error) {
	var answer struct {
		Serial string `json:"serial"` // pkid
		Leaf   string `json:"crt"`    // step-ca
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", err
	}
	if answer.Serial != "" {
		return answer.Serial, nil
	}
	block, _ := pem.Decode([]byte(answer.Leaf))
	if block == nil {
		return "", errors.New("no certificate in the answer")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	return cert.SerialNumber.String(), nil
}

func (a *authorities) issueFloor(ctx context.Context, n int, path string) (sample, error) {
	people, err := fleet()
	if err != nil {
		return sample{}, err
	}
	requests := make([][]byte, len(people))
	for i, p := range people {
		requests[i] = render("POST", a.floor.addr, path, p.csr, "Content-Type", "application/pkcs10")
	}
	config := clientTLS(a.b.ca.roots)
	conns, err := dialAll(ctx, a.floor.addr, n, func(int) *tls.Config { return config })
	if err != nil {
		return sample{}, err
	}
	defer closeAll(conns)
	return measure(a.floor.process, func() (sample, error) {
		return drive(ctx, conns, a.b.sizes.round, 200, cycle(requests), nil)
	})
}

// measureIssuing returns the server of step-ca that is the fastest, if it takes part.
func (a *authorities) measureIssuing(ctx context.Context) (*stepServer, error) {
	all := a.issuers(connections)
	got, err := alternate(ctx, "issue, 32 at once", a.b.sizes.rounds, all)
	if err != nil {
		return nil, err
	}
	r := &a.b.report
	r.record("issue/floor", got.over("pkid", floorName), fmt.Sprintf("with bbolt's commits the floor itself is %s of the one without; pkid is %s of that",
		ratio(got.over(durableFloor, floorName)), ratio(got.over("pkid", durableFloor))))
	r.data.Cost(model.CostIssue, got.named("pkid").cpu().Seconds())
	var best *stepServer
	if a.b.peers {
		step := got.fastest(onBadger, onBbolt)
		if best = a.badger; step.name == onBbolt {
			best = a.bbolt
		}
		r.record("issue/step", got.over("pkid", step.name), fmt.Sprintf("%s; the floor is %s", step.name, ratio(got.over(floorName, step.name))))
	}
	r.rates("Issuing, 32 at once", "pkid's clients redeem invitations that an operator made before; step-ca's present one-time tokens of a JWK "+
		"provisioner that were made before. Both CAs thereby check a right that is used up, verify the CSR, sign, and keep "+
		"the certificate. pkid also compares what was signed with what was decided and writes an audit entry. The floor "+
		"parses and verifies the CSR and calls x509.CreateCertificate; \"+ bbolt\" puts the result into one bucket, in "+
		"transactions shared by those that wait.", got)
	return best, a.b.explain(ctx, "issue", a.pkid.process, all[0].round, "issue/floor", "issue/step")
}

// measureLatency has fewer connections, so that a request is served at once.
func (a *authorities) measureLatency(ctx context.Context) error {
	pkid := a.issuers(8)[0]
	got, err := alternate(ctx, "issue, 8 at once", a.b.sizes.rounds, append([]contender{pkid}, a.stepIssuers(8)...))
	if err != nil {
		return err
	}
	own := got.named("pkid").p99()
	if a.b.peers {
		badger, bbolt := got.named(onBadger).p99(), got.named(onBbolt).p99()
		a.b.report.record("issue/p99", float64(own)/float64(min(badger, bbolt)), fmt.Sprintf("%s; badger %s, bbolt %s", tidy(own), tidy(badger), tidy(bbolt)))
	}
	a.b.report.rates("Issuing, 8 at once", "As above.", got)
	return a.b.explain(ctx, "issue, 8 at once", a.pkid.process, pkid.round, "issue/p99")
}
