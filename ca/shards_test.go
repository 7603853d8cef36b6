package ca_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
)

// sharded is a bench whose certificates are sharded, with the publisher of the lists.
type sharded struct {
	*bench
	size      uint64
	publisher *crl.Publisher
	opened    atomic.Int64
	onOpen    func() error // called before a shard is opened; may be nil
}

func anyProfile(t testing.TB) *ca.Profile {
	t.Helper()
	p, err := ca.NewProfile(ca.ProfileConfig{
		Name: "client", Lifetime: time.Hour, KeyTypes: ca.KeyTypes, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, Policy: permitAll{},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (s *sharded) clock() time.Time { return s.now }

func newSharded(t testing.TB, size uint64) *sharded {
	s := &sharded{bench: newBench(t), size: size}
	s.restart()
	return s
}

// restart makes authority and publisher anew over the same store, as the daemon does.
func (s *sharded) restart() {
	s.t.Helper()
	c := ca.Config{
		Issuer: s.Issuer(), Store: s.store, Profiles: []*ca.Profile{anyProfile(s.t)}, Now: s.clock,
		ShardSize: s.size, OpenShard: s.open,
		Changed: func(issuer string, shard uint32) { s.publisher.Changed(crl.Shard{Issuer: issuer, Number: shard}) },
	}
	var err error
	if s.Authority, err = ca.New(c); err != nil {
		s.t.Fatal(err)
	}
	counts, err := s.store.Shards(s.t.Context(), s.Issuer().ID())
	if err != nil {
		s.t.Fatal(err)
	}
	shards := []crl.PublishedShard{s.published(s.Shard(s.Issuer().ID()))}
	for _, c := range counts {
		if c.Number != s.Shard(s.Issuer().ID()) {
			shards = append(shards, s.published(c.Number))
		}
	}
	s.publisher, err = crl.NewPublisher(crl.PublisherConfig{
		Shards: shards, Store: s.store.bolt, Revocations: s.store.bolt, Signer: s.Authority, Now: s.clock, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, shard := range shards { // as Run does first
		if err := s.publisher.Add(s.t.Context(), shard); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *sharded) published(n uint32) crl.PublishedShard {
	return crl.PublishedShard{Shard: crl.Shard{Issuer: s.Issuer().ID(), Number: n}, URL: s.Issuer().CRLURLOf(n), Issuer: s.signer.Certificate()}
}

func (s *sharded) open(ctx context.Context, _ string, n uint32) error {
	if s.onOpen != nil {
		if err := s.onOpen(); err != nil {
			return err
		}
	}
	s.opened.Add(1)
	return s.publisher.Add(ctx, s.published(n))
}

// issueMany issues n certificates from as many goroutines as workers.
func (s *sharded) issueMany(n, workers int) []*x509.Certificate {
	s.t.Helper()
	request := s.request(newCSR(s.t, newKey(s.t), nil))
	certs := make([]*x509.Certificate, n)
	var next atomic.Int64
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				issued, err := s.Issue(s.t.Context(), request)
				if err != nil {
					s.t.Error(err)
					return
				}
				cert, err := x509.ParseCertificate(issued.Record.DER)
				if err != nil {
					s.t.Error(err)
					return
				}
				// Whoever gets the certificate finds its list.
				if _, served := s.publisher.Current(crl.Shard{Issuer: issued.Record.Issuer, Number: issued.Record.Shard}); !served {
					s.t.Errorf("shard %d is named and not served", issued.Record.Shard)
				}
				certs[i] = cert
			}
		})
	}
	working.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
	return certs
}

// listed returns the shards on whose newest list a certificate stands.
func (s *sharded) listed(cert *x509.Certificate) (on []uint32) {
	s.t.Helper()
	for _, shard := range s.publisher.Shards() {
		list, err := s.publisher.Publish(s.t.Context(), shard)
		if err != nil {
			s.t.Fatal(err)
		}
		parsed, err := crl.ParseAndVerify(list.DER.Bytes(), s.signer.Certificate(), s.Issuer().CRLURLOf(shard.Number), s.clock())
		if err != nil {
			s.t.Fatal(err)
		}
		if _, ok := parsed.Lookup(cert.SerialNumber); ok {
			on = append(on, shard.Number)
		}
	}
	return on
}

func (s *sharded) record(cert *x509.Certificate) *ca.Record {
	s.t.Helper()
	rec, err := s.Lookup(s.t.Context(), cert)
	if err != nil {
		s.t.Fatal(err)
	}
	return rec
}

// Whatever the order in which certificates are issued, and across restarts: the distribution point in a certificate,
// its record, and the one list on which it stands once it is revoked or held, name the same shard.
func TestCertificateRecordAndListAgreeOnTheShard(t *testing.T) {
	const size = 20
	s := newSharded(t, size)
	var certs []*x509.Certificate
	for range 3 {
		certs = append(certs, s.issueMany(45, 8)...)
		s.restart()
	}
	count := map[uint32]int{}
	for i, cert := range certs {
		rec := s.record(cert)
		count[rec.Shard]++
		if got := cert.CRLDistributionPoints; len(got) != 1 || got[0] != s.Issuer().CRLURLOf(rec.Shard) {
			t.Fatalf("shard %d in the record, %v in the certificate", rec.Shard, got)
		}
		if i%9 > 0 {
			continue
		}
		revoke := func(reason ca.Reason) {
			if _, err := s.Revoke(t.Context(), ca.RevocationRequest{Serial: rec.Serial, Reason: reason}); err != nil {
				t.Fatal(err)
			}
		}
		want := []uint32{rec.Shard}
		if i%2 == 0 {
			revoke(ca.CertificateHold)
			if got := s.listed(cert); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("held: on the lists of shards %d, want %d", got, want)
			}
			revoke(ca.RemoveFromCRL)
			if got := s.listed(cert); got != nil {
				t.Errorf("released: on the lists of shards %d", got)
			}
		}
		revoke(ca.KeyCompromise)
		if got := s.listed(cert); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("revoked: on the lists of shards %d, want %d", got, want)
		}
	}
	// Callers that came while a shard was being opened went on filling the one before, and a restart loses nothing.
	if highest := int(s.Shard(s.Issuer().ID())); len(count) != highest+1 || highest < len(certs)/size-2 || highest > len(certs)/size {
		t.Errorf("%d certificates in shards of %d: %v", len(certs), size, count)
	}
	counts, err := s.store.Shards(t.Context(), s.Issuer().ID())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counts {
		if int(c.Certificates) != count[c.Number] {
			t.Errorf("the store counts %d in shard %d, and there are %d", c.Certificates, c.Number, count[c.Number])
		}
	}
}

// It is the certificate's own shard whose list is said to be out of date.
func TestRevocationWakesTheShardOfTheCertificate(t *testing.T) {
	s := newSharded(t, 2)
	certs := s.issueMany(3, 1)
	rec := s.record(certs[2])
	if _, err := s.Revoke(t.Context(), ca.RevocationRequest{Serial: rec.Serial, Reason: ca.KeyCompromise}); err != nil {
		t.Fatal(err)
	}
	for _, st := range s.publisher.Status() { // nobody runs it
		if pending := !st.PendingSince.IsZero(); pending != (st.Shard.Number == rec.Shard) || rec.Shard != 1 {
			t.Errorf("shard %s: pending %v after a revocation in shard %d", st.Shard, pending, rec.Shard)
		}
	}
}

// A certificate that is renewed gets the shard of its day, not its parent's.
func TestRenewalGoesIntoTheShardOfItsDay(t *testing.T) {
	s := newSharded(t, 5)
	first := s.issueMany(1, 1)[0]
	s.issueMany(5, 1)
	key := newKey(t)
	proven, err := ca.ProveOwn(key)
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := s.Renew(t.Context(), ca.Renewal{Current: first, Record: s.record(first), Key: proven})
	if err != nil {
		t.Fatal(err)
	}
	if renewed.Record.Shard != 1 || leaf(t, renewed).CRLDistributionPoints[0] != s.Issuer().CRLURLOf(1) || s.record(first).Shard != 0 {
		t.Errorf("renewed in shard %d", renewed.Record.Shard)
	}
}

// One caller opens the next shard; all others are served meanwhile, from the one before.
func TestOthersGoOnWhileAShardIsOpened(t *testing.T) {
	s := newSharded(t, 10)
	s.issueMany(10, 1)
	opening, proceed := make(chan struct{}), make(chan struct{})
	s.onOpen = func() error {
		close(opening)
		<-proceed
		return nil
	}
	var opener sync.WaitGroup
	var got []*x509.Certificate
	opener.Go(func() { got = s.issueMany(1, 1) })
	<-opening
	for _, cert := range s.issueMany(30, 4) {
		if rec := s.record(cert); rec.Shard != 0 {
			t.Errorf("shard %d before it was open", rec.Shard)
		}
	}
	close(proceed)
	opener.Wait()
	if rec := s.record(got[0]); rec.Shard != 1 {
		t.Errorf("the caller that opened shard 1 got %d", rec.Shard)
	}
	s.onOpen = nil
	if rec := s.record(s.issueMany(1, 1)[0]); rec.Shard != 1 || s.opened.Load() != 1 {
		t.Errorf("shard %d after %d openings", rec.Shard, s.opened.Load())
	}
}

// Nothing is refused because a list cannot be published, and no certificate names one that is not.
func TestShardThatCannotBeOpenedIsTriedAgain(t *testing.T) {
	s := newSharded(t, 10)
	tries := 0
	s.onOpen = func() error {
		tries++
		return errFault
	}
	for _, cert := range s.issueMany(150, 1) {
		if rec := s.record(cert); rec.Shard != 0 {
			t.Fatalf("shard %d, which could not be opened", rec.Shard)
		}
	}
	if tries < 2 || tries > 3 {
		t.Errorf("tried %d times for 140 certificates too many", tries)
	}
	s.onOpen = nil
	s.issueMany(110, 1)
	if s.Shard(s.Issuer().ID()) == 0 {
		t.Error("not tried again")
	}
}

// A caller that goes away does not keep the shard from being opened.
func TestOpeningOutlivesItsCaller(t *testing.T) {
	s := newSharded(t, 5)
	s.issueMany(5, 1)
	ctx, cancel := context.WithCancel(t.Context())
	s.onOpen = func() error { cancel(); return nil }
	if _, err := s.Issue(ctx, s.request(newCSR(t, newKey(t), nil))); !errors.Is(err, context.Canceled) {
		t.Errorf("Issue = %v", err)
	}
	if s.Shard(s.Issuer().ID()) != 1 {
		t.Errorf("shard %d is filled", s.Shard(s.Issuer().ID()))
	}
}

// A number is not used again: not when sharding is switched off, and not when the newest shard is another node's.
func TestShardNumbersOnlyGrow(t *testing.T) {
	s := newSharded(t, 5)
	s.issueMany(12, 1)
	if s.Shard(s.Issuer().ID()) != 2 {
		t.Fatalf("shard %d", s.Shard(s.Issuer().ID()))
	}
	s.size = 0
	s.restart()
	for _, cert := range s.issueMany(20, 1) {
		if rec := s.record(cert); rec.Shard != 2 {
			t.Errorf("shard %d without sharding, after shard 2", rec.Shard)
		}
	}
	s.size = 5
	s.restart() // shard 2 is more than full by now
	other := newOther(s)
	if rec := s.record(s.issueMany(1, 1)[0]); rec.Shard != 3 {
		t.Errorf("shard %d after 2", rec.Shard)
	}
	other.issueMany(1, 1)
	if n := other.Shard(other.Issuer().ID()); n != 3 {
		t.Errorf("the other node fills shard %d, want the one that was opened meanwhile", n)
	}
}

// newOther is another node over the same store.
func newOther(s *sharded) *sharded {
	b := *s.bench
	o := &sharded{bench: &b, size: s.size}
	o.restart()
	return o
}

// What the signer returns for another shard's certificate is not what was decided.
func TestCertificateOfAnotherShardIsRefused(t *testing.T) {
	s := newSharded(t, 5)
	s.issueMany(6, 1)
	r := s.request(newCSR(t, newKey(t), nil))
	f := forgery{change: func(c *x509.Certificate) { c.CRLDistributionPoints = []string{s.Issuer().CRLURLOf(0)} }}
	err := s.Check(t.Context(), r, f.forge(s.bench))
	if !errors.Is(err, ca.ErrMismatch) || err.Error() != ca.ErrMismatch.Error()+": CRL distribution point or AIA" {
		t.Errorf("got %v", err)
	}
}

// What other nodes issued counts too: into the CRL that is being filled, and a later one of theirs is gone on with.
func TestShardsOfOtherNodes(t *testing.T) {
	const size = 10
	s := newSharded(t, size)
	id := s.Issuer().ID()
	s.issueMany(2, 1)
	s.ShardFilled(id, ca.ShardCount{Number: 0, Certificates: size})
	if s.issueMany(1, 1); s.Shard(id) != 1 {
		t.Errorf("certificates go into shard %d, with shard 0 filled by others", s.Shard(id))
	}
	if err := s.publisher.Add(t.Context(), s.published(3)); err != nil {
		t.Fatal(err)
	}
	s.ShardFilled(id, ca.ShardCount{Number: 3, Certificates: size - 1})
	s.ShardFilled(id, ca.ShardCount{Number: 2, Certificates: 1}) // told late
	s.ShardFilled("another", ca.ShardCount{Number: 9})
	if rec := s.record(s.issueMany(1, 1)[0]); rec.Shard != 3 {
		t.Errorf("issued into shard %d, others are at 3", rec.Shard)
	}
	if rec := s.record(s.issueMany(1, 1)[0]); rec.Shard != 4 {
		t.Errorf("issued into shard %d, and 3 is full", rec.Shard)
	}
}

func TestShardSizeNeedsSomebodyToOpenShards(t *testing.T) {
	b := newBench(t)
	_, err := ca.New(ca.Config{Issuer: b.Issuer(), Store: b.store, Profiles: []*ca.Profile{anyProfile(t)}, ShardSize: 5})
	if err == nil {
		t.Error("an authority whose certificates name lists that nobody publishes")
	}
}

func TestURLsOfShards(t *testing.T) {
	for url, want := range map[string]string{"http://x/crl/a1.crl": "http://x/crl/a1-12.crl", "http://x/list": "http://x/list-12"} {
		i := &ca.Issuer{CRLURL: url}
		if got := i.CRLURLOf(12); got != want || i.CRLURLOf(0) != url {
			t.Errorf("shards 12 and 0 of %s at %s and %s", url, got, i.CRLURLOf(0))
		}
	}
}
