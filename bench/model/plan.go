package model

import (
	"fmt"
	"math"
	"time"
)

// Load is what an installation has to bear.
type Load struct {
	Certificates float64       // valid at once
	Lifetime     time.Duration // of each; it is renewed when two thirds of it are over
	Years        float64       // for which the store has kept what was issued
	Revoked      float64       // of the valid ones
	Tokens       float64       // a second
	Verifiers    float64       // servers that ask for the CRL
	Bytes        float64       // that a shard of the CRL may have; zero: one list for all
	Delta        bool          // verifiers fetch the full list once per half of its lifetime, and deltas between
}

// What the plan assumes beside what was measured.
const (
	PollInterval = 500 * time.Millisecond // of crl.Checker
	Busy         = 0.6                    // the share of a node's cores that is planned to be in use
	NodeCores    = 8.0                    // of a node for tokens
	ListLifetime = 24 * time.Hour         // of a CRL, which is signed anew after half of it
	publishPause = 20 * time.Millisecond  // of the publisher, in which a burst of revocations gathers
	notModified  = 300.0                  // octets of an answer that the list has not changed, with its headers
	day          = 24 * time.Hour
)

// Plan is what the load takes.
type Plan struct {
	Load

	Issued      float64 // certificates a second, all of them renewals
	Revocations float64 // a second, so that so many are revoked at once
	Records     float64 // in the store
	Disk        float64 // octets
	DiskPerDay  float64 // octets

	IssuingCores float64
	TokenCores   float64
	TokenNodes   float64
	PollCores    float64

	FullList  float64 // octets of one list for all
	FullRound float64 // seconds to make it anew
	Memory    float64 // octets of the daemon with all lists
	Start     float64 // seconds until all lists are served again

	Shards     float64
	ShardList  float64 // octets
	ShardRound float64 // seconds
	Polls      float64 // a second
	Bandwidth  float64 // octets a second, of all verifiers together
}

// Plan works out what a load takes.
func (d *Data) Plan(l Load) (Plan, error) {
	fits := map[string]Fit{}
	for _, law := range Laws {
		f, err := d.Fit(law)
		if err != nil {
			return Plan{}, err
		}
		fits[law.Series] = f
	}
	for _, name := range []string{CostIssue, CostToken, CostPoll} {
		if d.Costs[name] <= 0 {
			return Plan{}, fmt.Errorf("the cost of %q was not measured", name)
		}
	}
	p := Plan{Load: l}
	p.Issued = l.Certificates / (l.Lifetime.Seconds() * 2 / 3)
	// Whatever is revoked stays on the list until it expires, half a lifetime on average.
	p.Revocations = l.Revoked / (l.Lifetime.Seconds() / 2)
	p.Records = l.Certificates + p.Issued*l.Years*365*day.Seconds()
	p.Disk = fits[StoreOctets].At(p.Records)
	p.DiskPerDay = fits[StoreOctets].B * p.Issued * day.Seconds()

	p.IssuingCores = p.Issued * d.Costs[CostIssue] / Busy
	p.TokenCores = l.Tokens * d.Costs[CostToken] / Busy
	p.TokenNodes = math.Ceil(p.TokenCores / NodeCores)

	p.FullList, p.FullRound = fits[ListOctets].At(l.Revoked), fits[RoundTime].At(l.Revoked)
	p.Shards = 1
	if l.Bytes > 0 {
		p.Shards = max(1, math.Ceil(fits[ListOctets].B*l.Revoked/l.Bytes))
	}
	p.ShardList, p.ShardRound = fits[ListOctets].At(l.Revoked/p.Shards), fits[RoundTime].At(l.Revoked/p.Shards)
	p.Memory, p.Start = fits[Resident].At(l.Revoked), fits[ListTime].At(l.Revoked)

	p.Polls = l.Verifiers * p.Shards / PollInterval.Seconds()
	p.PollCores = p.Polls * d.Costs[CostPoll] / Busy
	p.Bandwidth = p.Polls*notModified + l.Verifiers*p.fetched(fits[ListOctets])
	return p, nil
}

// fetched is how many octets of lists a verifier that watches all shards fetches a second.
func (p *Plan) fetched(list Fit) float64 {
	// A verifier fetches a list that has changed: at most once per poll, and per round of the publisher.
	most := p.Shards / max(PollInterval.Seconds(), p.ShardRound+publishPause.Seconds())
	lists := min(p.Revocations, most)
	if !p.Delta {
		return lists * p.ShardList
	}
	period := ListLifetime.Seconds() / 2
	delta := list.At(p.Revocations * period / 2 / p.Shards) // it grows until the next full list
	return lists*delta + p.Shards*p.ShardList/period
}

// Part is one that has to be dimensioned.
type Part struct {
	Name string
	Need float64 // in units of what one has
	One  string  // what one is
	Then string  // what an operator adds
}

// Parts tells what the load needs of each, in units of what one ordinary machine or link gives.
func (p Plan) Parts() []Part {
	return []Part{
		{"issuance", p.IssuingCores / NodeCores, "node of 8 cores", "longer lifetimes, or CA nodes on one PostgreSQL"},
		{"disk", p.Disk / 1e12, "disk of 1 TB", "a larger disk"},
		{"tokens", p.TokenCores / NodeCores, "node of 8 cores", "token nodes without state"},
		{"making the CRL", p.Revocations * p.ShardRound / Busy, "core", "shards, each with its own round"},
		{"serving the CRL", p.Bandwidth * 8 / 1e9, "link of 1 Gbit/s", "shards, deltas, and a CDN in front of the status listener"},
		{"polls for the CRL", p.PollCores / NodeCores, "node of 8 cores", "a CDN in front of the status listener"},
	}
}

// Limit is the part that needs most.
func (p Plan) Limit() Part {
	var most Part
	for _, part := range p.Parts() {
		if part.Need > most.Need {
			most = part
		}
	}
	return most
}
