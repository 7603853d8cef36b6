package main

import "github.com/pkid/pkid/bench/model"

// demand is one line of the table: what pkid is to reach.
type demand struct {
	id      string // by which the parts record what they measured
	work    string
	against string
	bound   bound
	size    int    // at which it is demanded; zero if at any
	of      string // what size counts
	peer    bool   // it compares with a server that -smoke does not start
}

// bound is what a measure has to keep to.
type bound struct {
	word  string // >=, <=, > or <
	value float64
	unit  model.Unit
}

func atLeast(times float64) bound { return bound{">=", times, model.Times} }
func atMost(times float64) bound  { return bound{"<=", times, model.Times} }
func upTo(value float64, u model.Unit) bound {
	return bound{"<=", value, u}
}

const (
	issueWork  = "issue a P-256 client certificate over HTTPS keep-alive, 32 at once, durable"
	renewWork  = "renew over mTLS keep-alive, 32 at once"
	tokenWork  = "mTLS-bound token, keep-alive, 32 at once"
	dpopWork   = "DPoP-bound token, a fresh ES256 proof each"
	lookWork   = "introspection of a bound JWT"
	boundWork  = "verify an mTLS-bound JWT, first sight, in process"
	proofWork  = "verify a DPoP-bound JWT and its proof, first sight, in process"
	seenWork   = "verify an mTLS-bound JWT seen before, in process"
	resignWork = "full CRL with 1,000,000 entries, re-signed after one more revocation"
	fetchWork  = "CRL download, 1,000,000 entries"
	largeWork  = "store of 10,000,000 certificates: "
	afterWork  = "anonymous memory after issuing 100,000"
	idleWork   = "anonymous memory, idle"
)

// libraries are the peers in verification.
var libraries = []string{"go-jose v4", "golang-jwt v5", "lestrrat jwx v3", npmJOSE}

const npmJOSE = "npm jose"

// demands is the table, in order.
var demands = func() []demand {
	const floor, step, node = "floor", "step-ca's better store", "oidc-provider's better mode"
	all := []demand{
		{id: "issue/floor", work: issueWork, against: floor, bound: atLeast(0.8)},
		{id: "issue/step", work: issueWork, against: step, bound: atLeast(2.5), peer: true},
		{id: "issue/p99", work: "p99 latency of issuing, 8 at once", against: step, bound: atMost(0.4), peer: true},
		{id: "issue/postgres", work: "issue on one node on PostgreSQL (synchronous_commit on), 32 at once", against: step, bound: atLeast(1.5), peer: true},
		{id: "renew/floor", work: renewWork, against: floor, bound: atLeast(0.7)},
		{id: "renew/step", work: renewWork, against: step, bound: atLeast(2), peer: true},
		{id: "revoke/step", work: "revoke, 32 at once", against: step + ", its CRL off", bound: atLeast(2), peer: true},
		{id: "token/floor", work: tokenWork, against: floor, bound: atLeast(0.8)},
		{id: "token/node", work: tokenWork, against: node, bound: atLeast(4), peer: true},
		{id: "dpop/floor", work: dpopWork, against: floor, bound: atLeast(0.8)},
		{id: "dpop/node", work: dpopWork, against: node, bound: atLeast(4.5), peer: true},
		{id: "introspect/floor", work: lookWork, against: floor, bound: atLeast(0.7)},
		{id: "introspect/node", work: lookWork, against: "oidc-provider, opaque tokens", bound: atLeast(5), peer: true},
		{id: "verify/es256", work: boundWork, against: "one ES256 verify", bound: atMost(1.2)},
		{id: "verify/allocs", work: boundWork, against: "allocations", bound: bound{"<", 40, model.Number}},
	}
	for _, name := range libraries {
		all = append(all, demand{id: "verify/" + name, work: boundWork + ", rate", against: name, bound: bound{">", 1, model.Times}, peer: name == npmJOSE})
	}
	all = append(all,
		demand{id: "verifydpop/es256", work: proofWork, against: "two ES256 verifies", bound: atMost(1.2)},
		demand{id: "verifydpop/allocs", work: proofWork, against: "allocations", bound: bound{"<", 90, model.Number}},
	)
	for _, name := range libraries {
		all = append(all, demand{id: "verifydpop/" + name, work: proofWork + ", rate", against: name, bound: bound{">", 1, model.Times}, peer: name == npmJOSE})
	}
	const million, millions, many = 1_000_000, 10_000_000, 100_000
	return append(all,
		demand{id: "seen/time", work: seenWork, bound: upTo(2e-6, model.Seconds)},
		demand{id: "seen/allocs", work: seenWork, against: "allocations", bound: upTo(2, model.Number)},
		demand{id: "proof/es256", work: "DPoP proof with a token seen before, in process", against: "one ES256 verify", bound: atMost(1.2)},

		demand{id: "resign/floor", work: resignWork, against: "SHA-256 of its bytes and one signature", bound: atMost(2), size: million, of: model.Revoked},
		demand{id: "resign/memory", work: resignWork + ": extra memory", against: "its size", bound: atMost(2), size: million, of: model.Revoked},
		demand{id: "resign/x509", work: resignWork, against: "crypto/x509.CreateRevocationList", bound: atLeast(20), size: million, of: model.Revoked},
		demand{id: "resign/step", work: resignWork, against: "step-ca", bound: atLeast(100), size: million, of: model.Revoked, peer: true},
		demand{id: "served/list", work: "revoke to the new CRL served, p99, 1,000,000 revoked", bound: upTo(0.25, model.Seconds), size: million, of: model.Revoked},
		demand{id: "served/call", work: "the revoke call itself, p99, 1,000,000 revoked", bound: upTo(0.01, model.Seconds), size: million, of: model.Revoked},
		demand{id: "download/floor", work: fetchWork + ", time", against: "http.ServeContent from memory", bound: atMost(1.5), size: million, of: model.Revoked},
		demand{id: "download/step", work: fetchWork, against: "step-ca", bound: atLeast(20), size: million, of: model.Revoked, peer: true},

		demand{id: "large/rate", work: largeWork + "issuance rate", against: "an empty store", bound: atLeast(0.8), size: millions, of: model.Certificates},
		demand{id: "large/octets", work: largeWork + "size for each", bound: upTo(900, model.Octets), size: millions, of: model.Certificates},
		demand{id: "start", work: "start to first answer, 10,000,000 certificates and 1,000,000 revoked", bound: upTo(1, model.Seconds), size: millions, of: model.Certificates},
		demand{id: "memory/idle", work: idleWork, bound: upTo(40e6, model.Octets)},
		demand{id: "memory/after", work: afterWork, bound: upTo(100e6, model.Octets), size: many, of: "issued"},
		demand{id: "memory/idle/step", work: idleWork, against: step, bound: atMost(0.6), peer: true},
		demand{id: "memory/after/step", work: afterWork, against: step, bound: atMost(0.6), size: many, of: "issued", peer: true},
	)
}()

// growthDemands ask of each law that it predicts the size that was left out.
func growthDemands() []demand {
	var out []demand
	for _, l := range model.Laws {
		out = append(out, demand{
			id: "growth/" + l.Series, work: "growth: " + l.What + ", from smaller sizes", against: "the measurement", bound: bound{"<=", 0.2, model.Share},
			size: map[string]int{model.Certificates: 10_000_000, model.Revoked: 1_000_000}[l.Of], of: l.Of,
		})
	}
	return out
}
