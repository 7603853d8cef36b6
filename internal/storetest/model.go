package storetest

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
)

// model is what a store of certificates should hold, as simply as it can be said.
type model struct {
	t    *testing.T
	s    *store
	rng  *rand.Rand
	now  time.Time
	recs []*ca.Record // those that the store has
	gone []*ca.Record
	list map[uint32]time.Time // thisUpdate of the newest list of each shard
}

// testPruneModel does things at random, and holds the store against the model.
func testPruneModel(t *testing.T, s *store) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	m := &model{t: t, s: s, rng: rand.New(rand.NewPCG(seed, 0)), now: start, list: map[uint32]time.Time{}}
	for shard := range uint32(3) {
		m.publish(shard)
	}
	for range 150 {
		switch n := m.rng.IntN(20); {
		case n < 8:
			m.insert()
		case n < 12:
			m.revoke()
		case n < 14:
			m.publish(uint32(m.rng.IntN(3)))
		case n < 17:
			m.prune()
		case n < 19:
			m.now = m.now.Add(time.Duration(m.rng.IntN(40)) * time.Hour)
		default:
			s.reopen(t)
		}
	}
	m.prune()
	m.check()
	s.reopen(t)
	m.check()
	if len(m.gone) == 0 {
		t.Error("nothing was ever pruned")
	}
}

func (m *model) insert() {
	lifetime := time.Duration(1+m.rng.IntN(100)) * time.Hour
	r := record(subject(m.rng.IntN(4)), m.now.Sub(start), expiring(lifetime), inShard(uint32(m.rng.IntN(3))))
	if m.rng.IntN(3) == 0 {
		r.Serial = ca.Serial(noise(len(r.Serial))) // of another program: it tells no time, and may be above every other
	}
	if live := m.recs; len(live) > 0 && m.rng.IntN(3) == 0 {
		r.Parent = live[m.rng.IntN(len(live))].Serial
	}
	insert(m.t, m.s, r)
	m.recs = append(m.recs, r)
}

func (m *model) revoke() {
	if len(m.recs) == 0 {
		return
	}
	r := m.recs[m.rng.IntN(len(m.recs))]
	rev := &ca.Revocation{Reason: ca.Superseded, At: m.now}
	if r.Revocation != nil {
		rev = nil
	}
	revoke(m.t, m.s, r.Serial, rev)
	r.Revocation = rev
}

func (m *model) publish(shard uint32) {
	publish(m.t, m.s, crl.Shard{Issuer: issuerID, Number: shard}, m.now, 10_000*time.Hour) // none is ever over
	m.list[shard] = m.now
}

// prune drops all that may go, in steps of any size.
func (m *model) prune() {
	m.t.Helper()
	for limit := 1 + m.rng.IntN(20); ; {
		n, err := m.s.Prune(m.t.Context(), m.now, keep, limit)
		if err != nil || n.Total() > limit || n.Shards > 0 {
			m.t.Fatalf("Prune = %+v, %v; the limit is %d", n, err, limit)
		}
		if n.Total() < limit {
			break
		}
	}
	m.recs = slices.DeleteFunc(m.recs, func(r *ca.Record) bool {
		past := r.NotAfter.Before(m.now.Add(-keep.Certificates)) && (r.Revocation == nil || m.list[r.Shard].After(r.NotAfter))
		if past {
			m.gone = append(m.gone, r)
		}
		return past
	})
}

func (m *model) check() {
	m.t.Helper()
	revoked := map[uint32]int{}
	byClient := map[string]int{}
	for _, r := range m.recs {
		checkRecord(m.t, m.s, r)
		checkRevoked(m.t, m.s, r.Thumbprint, r.Revocation != nil)
		byClient[r.ClientID]++
		if r.Revocation != nil {
			revoked[r.Shard]++
		}
	}
	for _, r := range m.gone {
		checkGone(m.t, m.s, r)
	}
	if n := len(list(m.t, m.s, ca.Query{Limit: 1000})); n != len(m.recs) {
		m.t.Errorf("%d certificates, want %d", n, len(m.recs))
	}
	for client, want := range byClient {
		if n := len(list(m.t, m.s, ca.Query{ClientID: client, Limit: 1000})); n != want {
			m.t.Errorf("%d certificates of %s, want %d", n, client, want)
		}
	}
	for shard := range uint32(3) {
		if n := len(revocations(m.t, m.s, crl.Shard{Issuer: issuerID, Number: shard}, time.Time{})); n != revoked[shard] {
			m.t.Errorf("%d revocations in shard %d, want %d", n, shard, revoked[shard])
		}
	}
}
