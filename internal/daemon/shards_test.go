package daemon_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/thumbprint"
)

// After a restart every shard is published that somebody may ask for, and certificates go on into the newest. One whose
// certificates expired long ago is left alone, and so is its number.
func TestShardsAfterARestart(t *testing.T) {
	options := pkitest.Options{Edit: func(c *config.Config) { c.CRL.ShardSize, c.CRL.Lifetime = 4, time.Hour }}
	s := pkitest.Start(t, options) // with the operator's, the daemon's and its OCSP responder's certificates in shard 0
	for n := range 4 {
		s.Enrol(t, client.InvitationRequest{ClientID: fmt.Sprint("client-", n)})
	}
	issuer := issuerOf(t, s)
	if want := []uint32{0, 1}; !slices.Equal(issuer.Shards, want) {
		t.Fatalf("shards %v, want %v", issuer.Shards, want)
	}
	s.Stop(t)
	keep(t, s, issuer.ID, map[uint32]time.Duration{2: -3 * time.Hour, 3: -time.Hour, 4: time.Hour})

	s = pkitest.Serve(t, s.Dir, options)
	issuer = issuerOf(t, s)
	if want := []uint32{0, 1, 3, 4}; !slices.Equal(issuer.Shards, want) {
		t.Errorf("shards %v, want %v", issuer.Shards, want)
	}
	for n, url := range issuer.CRLs() {
		pkitest.Eventually(t, 5*time.Second, func() error {
			resp, err := http.Get(url)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("shard %d: %s", n, resp.Status)
			}
			return nil
		})
	}
	id := s.Enrol(t, client.InvitationRequest{ClientID: "another"}) // the fourth there, after one that was kept and the daemon's two
	if got, want := id.Certificate().Leaf.CRLDistributionPoints[0], issuer.CRLs()[4]; got != want {
		t.Errorf("certificates go on into %s, want %s", got, want)
	}
	id = s.Enrol(t, client.InvitationRequest{ClientID: "next"})
	if got, want := id.Certificate().Leaf.CRLDistributionPoints[0], issuerOf(t, s).CRLs()[5]; got != want || want == "" {
		t.Errorf("then they go into %s, want %s", got, want)
	}
}

func issuerOf(t *testing.T, s *pkitest.Server) *client.Issuer {
	t.Helper()
	answer, err := s.Operator(t).CA(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &answer.Issuers[0]
}

// keep puts a certificate into each shard that expires so long from now.
func keep(t *testing.T, s *pkitest.Server, issuer string, shards map[uint32]time.Duration) {
	t.Helper()
	store, err := boltstore.Open(s.Config.StorePath(), boltstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	var errs []error
	for n, in := range shards {
		der := []byte{byte(n)}
		rec := &ca.Record{
			Serial: ca.Serial{0: 1, 15: byte(n)}, Issuer: issuer, Shard: n, ClientID: "x", Profile: "client", DER: der,
			Thumbprint: thumbprint.OfDER(der), NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(in), IssuedAt: now.Add(-24 * time.Hour),
		}
		errs = append(errs, store.Insert(t.Context(), rec, nil, audit.Event{Time: now, Action: audit.Issue, Subject: rec.Serial.String()}))
	}
	if err := errors.Join(append(errs, store.Close())...); err != nil {
		t.Fatal(err)
	}
}
