package daemon

import (
	"slices"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
)

// While the daemon runs, a shard comes in line with its certificates: added when the store knows of one, retired when
// the last has expired, and back again should there be another after all.
func TestShardsFollowTheirCertificates(t *testing.T) {
	d := opened(t, created(t))
	now := time.Now().UTC().Truncate(time.Second)
	serial := byte(0)
	put := func(shard uint32, notAfter time.Time) {
		serial++
		rec := &ca.Record{
			Serial: ca.Serial{0: 1, 15: serial}, Issuer: d.issuer.ID(), Shard: shard, ClientID: "x", Profile: "client", DER: []byte{serial},
			Thumbprint: thumbprint.OfDER([]byte{serial}), NotBefore: now.Add(-time.Hour), NotAfter: notAfter, IssuedAt: now.Add(-time.Hour),
		}
		if err := d.store.Insert(t.Context(), rec, nil, audit.Event{Time: now, Action: audit.Issue, Subject: rec.Serial.String()}); err != nil {
			t.Fatal(err)
		}
	}
	one := crl.Shard{Issuer: d.issuer.ID(), Number: 1}
	ended := func() bool {
		t.Helper()
		i := slices.IndexFunc(d.publisher.Status(), func(s crl.ShardStatus) bool { return s.Shard == one })
		if i < 0 {
			t.Fatal("shard 1 is not published")
		}
		return d.publisher.Status()[i].Ended
	}
	put(1, now.Add(-time.Hour)) // it had expired when its list was signed, just below
	for _, step := range []struct {
		at   time.Time
		add  time.Time
		want bool
	}{
		{at: now.Add(-2 * time.Hour)},
		{at: now, want: true},
		{at: now, add: now.Add(time.Minute)},
		{at: now.Add(2 * time.Minute), want: false}, // its list is older than that: one more is to come
	} {
		if !step.add.IsZero() {
			put(1, step.add)
		}
		if err := d.followShards(t.Context(), *d.known.Load(), step.at); err != nil {
			t.Fatal(err)
		}
		if got := ended(); got != step.want {
			t.Errorf("at %s after now: ended %v, want %v", step.at.Sub(now), got, step.want)
		}
	}
}

// The shard that certificates go into is never retired, however long ago its last one has expired: the next one names it.
func TestShardThatIsFilledIsNotRetired(t *testing.T) {
	d := opened(t, created(t))
	now := time.Now()
	counts := []ca.ShardCount{{Number: d.authority.Shard(d.issuer.ID()), NotAfter: now.Add(-time.Hour)}, {Number: 7, NotAfter: now.Add(-time.Hour)}, {Number: 8, NotAfter: now.Add(time.Hour)}}
	needed, expired := d.splitShards(&(*d.known.Load())[0], counts, now)
	if !slices.Equal(expired, counts[1:2]) || !slices.Equal(needed, []ca.ShardCount{counts[0], counts[2]}) {
		t.Errorf("needed %v, expired %v", needed, expired)
	}
}
