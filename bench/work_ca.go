package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// authorities are the CAs that issue, renew and revoke side by side.
type authorities struct {
	b       *bench
	pkid    *pkidServer
	floor   *floorServer
	badger  *stepServer
	bbolt   *stepServer
	serials map[string][]string // of what was issued and not revoked, by contender
	issued  map[string]int
	last    map[string]int // requests of its last round
}

func newAuthorities(b *bench) *authorities {
	return &authorities{b: b, serials: map[string][]string{}, issued: map[string]int{}, last: map[string]int{}}
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
	for _, s := range []*stepServer{a.badger, a.bbolt} {
		if s != nil {
			s.stop()
		}
	}
}

// supply is how many rights to prepare for a round: half as many again as the last round used up, so that the
// server is not kept waiting for more. One that uses up all ends its round early.
func (a *authorities) supply(name string, seconds int) int {
	if a.last[name] == 0 {
		return 4000 * seconds
	}
	return max(a.last[name]*3/2, 500)
}

func (b *bench) issuance(ctx context.Context) error {
	a, err := b.startAuthorities(ctx)
	if err != nil {
		return err
	}
	defer a.stop()
	idle, err := a.memory(ctx, 3*time.Second)
	if err != nil {
		return err
	}
	if err := a.measureIssuing(ctx); err != nil {
		return err
	}
	if err := a.measureMemory(ctx, idle); err != nil {
		return err
	}
	if err := a.measureRenewal(ctx); err != nil {
		return err
	}
	return a.measureRevocation(ctx)
}

// issuers are the contenders at n connections.
func (a *authorities) issuers(n int) []contender {
	seconds := max(int(a.b.sizes.round/time.Second), 1)
	return []contender{
		{"pkid", func(ctx context.Context) (sample, error) {
			requests, err := a.pkid.invite(ctx, a.supply(a.pkid.name, seconds))
			if err != nil {
				return sample{}, err
			}
			return a.issue(ctx, a.pkid.process, n, a.pkid.public, clientTLS(a.pkid.operator.Roots()), requests)
		}},
		{"floor", func(ctx context.Context) (sample, error) { return a.issueFloor(ctx, n, "/issue") }},
		{"floor + bbolt", func(ctx context.Context) (sample, error) { return a.issueFloor(ctx, n, "/issue-durable") }},
		{"step-ca, badger", func(ctx context.Context) (sample, error) {
			return a.issueStep(ctx, a.badger, n, a.supply(a.badger.name, seconds))
		}},
		{"step-ca, bbolt", func(ctx context.Context) (sample, error) {
			return a.issueStep(ctx, a.bbolt, n, a.supply(a.bbolt.name, seconds))
		}},
	}
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

func (a *authorities) issueStep(ctx context.Context, s *stepServer, n, most int) (sample, error) {
	requests, err := s.signRequests(most)
	if err != nil {
		return sample{}, err
	}
	return a.issue(ctx, s.process, n, s.addr, clientTLS(s.ca.roots), requests)
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

func (a *authorities) measureIssuing(ctx context.Context) error {
	r := &a.b.report
	at32, err := alternate(ctx, "issue, 32 at once", a.b.sizes.rounds, a.issuers(32))
	if err != nil {
		return err
	}
	at8, err := alternate(ctx, "issue, 8 at once", a.b.sizes.rounds, a.issuers(8))
	if err != nil {
		return err
	}
	step := fastest(at32[3], at32[4])
	r.atLeast("issue a certificate, 32 at once", "floor", at32[0].rate()/at32[1].rate(), 0.8, "")
	r.atLeast("issue a certificate, 32 at once", step.name, at32[0].rate()/step.rate(), 2.5, "")
	p99 := min(at8[3].p99(), at8[4].p99())
	r.atMost("p99 of issuing, 8 at once", "step-ca's better store", float64(at8[0].p99())/float64(p99), 0.4, "")
	const text = "pkid's clients redeem invitations that an operator made before; step-ca's present one-time tokens of a JWK " +
		"provisioner that were made before. Both CAs thereby check a right that is used up, verify the CSR, sign, and keep " +
		"the certificate. pkid also compares what was signed with what was decided and writes an audit entry. The floor " +
		"parses and verifies the CSR and calls x509.CreateCertificate; \"+ bbolt\" puts the result into one bucket, in " +
		"transactions shared by those that wait."
	r.rates("Issuing, 32 at once", text, at32)
	r.rates("Issuing, 8 at once", text, at8)
	return nil
}

// identities are 32 client certificates of each CA.
type identities struct{ pkid, badger, bbolt, floor []tls.Certificate }

const connections = 32

func (a *authorities) identities(ctx context.Context) (ids identities, err error) {
	if ids.pkid, err = a.pkid.enrolAll(ctx, connections); err != nil {
		return ids, err
	}
	for i := range connections {
		cert, err := a.b.ca.client(fmt.Sprintf("client-%05d", i))
		if err != nil {
			return ids, err
		}
		ids.floor = append(ids.floor, cert)
		for s, to := range map[*stepServer]*[]tls.Certificate{a.badger: &ids.badger, a.bbolt: &ids.bbolt} {
			if cert, err = s.enrol(ctx, i); err != nil {
				return ids, err
			}
			*to = append(*to, cert)
		}
	}
	return ids, nil
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
	renew := func(p *process, addr, path string, roots *x509.CertPool, ids []tls.Certificate, want int) func(context.Context) (sample, error) {
		request := [][]byte{render("POST", addr, path, nil)}
		return func(ctx context.Context) (sample, error) {
			conns, err := dialAll(ctx, addr, connections, func(i int) *tls.Config { return clientTLS(roots, ids[i]) })
			if err != nil {
				return sample{}, err
			}
			defer closeAll(conns)
			return measure(p, func() (sample, error) { return drive(ctx, conns, a.b.sizes.round, want, cycle(request), nil) })
		}
	}
	all, err := alternate(ctx, "renew", a.b.sizes.rounds, []contender{
		{"pkid", renew(a.pkid.process, a.pkid.mtls, "/v1/certificates/renew", a.pkid.operator.Roots(), ids.pkid, 201)},
		{"floor", renew(a.floor.process, a.floor.addr, "/renew", a.b.ca.roots, ids.floor, 200)},
		{"step-ca, badger", renew(a.badger.process, a.badger.addr, "/1.0/renew", a.badger.ca.roots, ids.badger, 201)},
		{"step-ca, bbolt", renew(a.bbolt.process, a.bbolt.addr, "/1.0/renew", a.bbolt.ca.roots, ids.bbolt, 201)},
	})
	if err != nil {
		return err
	}
	step := fastest(all[2:]...)
	r := &a.b.report
	r.atLeast("renew over mTLS", "floor", all[0].rate()/all[1].rate(), 0.7, "")
	r.atLeast("renew over mTLS", step.name, all[0].rate()/step.rate(), 2, "")
	r.rates("Renewing, 32 at once", "For the same key, over kept connections that were authenticated with the certificate to be renewed.", all)
	return nil
}

func (a *authorities) measureRevocation(ctx context.Context) error {
	operators, err := a.pkid.operators(ctx, connections)
	if err != nil {
		return err
	}
	defer closeAll(operators)
	// Every round takes as many of the certificates issued before as its share of them is.
	take := func(name string) []string {
		all := a.serials[name]
		n := min(len(all), len(all)/2+1)
		a.serials[name] = all[n:]
		return all[:n]
	}
	step := func(s *stepServer) func(context.Context) (sample, error) {
		return func(ctx context.Context) (sample, error) {
			var requests [][]byte
			for _, serial := range take(s.name) {
				request, err := s.revokeRequest(serial)
				if err != nil {
					return sample{}, err
				}
				requests = append(requests, request)
			}
			config := clientTLS(s.ca.roots)
			conns, err := dialAll(ctx, s.addr, connections, func(int) *tls.Config { return config })
			if err != nil {
				return sample{}, err
			}
			defer closeAll(conns)
			return measure(s.process, func() (sample, error) { return drive(ctx, conns, a.b.sizes.round, 200, once(requests), nil) })
		}
	}
	all, err := alternate(ctx, "revoke", a.b.sizes.rounds, []contender{
		{"pkid", func(ctx context.Context) (sample, error) {
			var requests [][]byte
			for _, serial := range take(a.pkid.name) {
				requests = append(requests, render("POST", a.pkid.mtls, "/v1/certificates/"+serial+"/revoke", []byte(`{"reason":"superseded"}`), "Content-Type", "application/json"))
			}
			return measure(a.pkid.process, func() (sample, error) { return drive(ctx, operators, a.b.sizes.round, 200, once(requests), nil) })
		}},
		{"step-ca, badger", step(a.badger)},
		{"step-ca, bbolt", step(a.bbolt)},
	})
	if err != nil {
		return err
	}
	best := fastest(all[1:]...)
	a.b.report.atLeast("revoke", best.name, all[0].rate()/best.rate(), 2, "")
	a.b.report.rates("Revoking, 32 at once", "pkid: as the operator, and with a new CRL published all the while, which grows as more is revoked and takes its share of the cores. step-ca: with a one-time token each, and its CRL off, since it would otherwise sign one within each call. So the ratio depends on how much is revoked already.", all)
	return nil
}

// memory is the anonymous memory of each CA, after a rest.
func (a *authorities) memory(ctx context.Context, rest time.Duration) (map[string]int64, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(rest):
	}
	out := map[string]int64{}
	for _, p := range []*process{a.pkid.process, a.badger.process, a.bbolt.process} {
		n, err := p.memory()
		if err != nil {
			return nil, err
		}
		out[p.name] = n
	}
	return out, nil
}

// measureMemory lets pkid and step-ca on badger come to the same number of certificates.
func (a *authorities) measureMemory(ctx context.Context, idle map[string]int64) error {
	for _, c := range []struct {
		name  string
		round func(context.Context) (sample, error)
	}{{a.pkid.name, a.issuers(connections)[0].round}, {a.badger.name, a.issuers(connections)[3].round}} {
		for a.issued[c.name] < a.b.sizes.issued {
			if _, err := c.round(ctx); err != nil {
				return err
			}
		}
	}
	after, err := a.memory(ctx, 3*time.Second)
	if err != nil {
		return err
	}
	mb := func(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
	r := &a.b.report
	work := fmt.Sprintf("memory after issuing %s", count(a.b.sizes.issued))
	r.within("memory, idle", "", mb(idle[a.pkid.name]), "40 MB", idle[a.pkid.name] <= 40e6, "")
	r.within(work, "", mb(after[a.pkid.name]), "100 MB", after[a.pkid.name] <= 100e6, "")
	least := func(m map[string]int64) float64 { return float64(min(m[a.badger.name], m[a.bbolt.name])) }
	r.atMost("memory, idle", "step-ca's better store", float64(idle[a.pkid.name])/least(idle), 0.6, "")
	r.atMost(work, "step-ca's better store", float64(after[a.pkid.name])/least(after), 0.6,
		fmt.Sprintf("badger after %s, bbolt after %s only", count(a.issued[a.badger.name]), count(a.issued[a.bbolt.name])))
	t := table{title: "Memory", text: "Anonymous resident memory, three seconds after the start and after the last request.", head: []string{"contender", "idle", "after", "certificates issued"}}
	for _, p := range []*process{a.pkid.process, a.badger.process, a.bbolt.process} {
		t.rows = append(t.rows, []string{p.name, mb(idle[p.name]), mb(after[p.name]), count(a.issued[p.name])})
	}
	r.tables = append(r.tables, t)
	return nil
}
