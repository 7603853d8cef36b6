package main

import (
	"context"
	"log"
	"time"

	"github.com/pkid/pkid/bench/model"
)

// growth fills the large store, if another part has not, and tells what it cost at each size.
func (b *bench) growth(ctx context.Context) error {
	if _, err := b.largeStore(ctx); err != nil {
		return err
	}
	for _, of := range []string{model.Certificates, model.Revoked} {
		t := table{title: "Growth with certificates", text: "One store, measured while it was filled.", head: []string{""}}
		if of == model.Revoked {
			t.title, t.text = "Growth with revoked certificates", "The same store, once full. A round begins with a durable revocation and ends with the list that has it, durable and checked."
		}
		for _, l := range model.Laws {
			if l.Of != of {
				continue
			}
			cells := []string{l.What}
			for _, p := range b.report.data.Series[l.Series] {
				if len(t.rows) == 0 {
					t.head = append(t.head, model.Count(int(p.Size)))
				}
				cells = append(cells, l.Unit.Text(p.Value, 3))
			}
			t.rows = append(t.rows, cells)
		}
		b.report.tables = append(b.report.tables, t)
	}
	return nil
}

// A start takes some hundredths of a second, and varies.
const growthStarts = 5

// measureFilled measures the store as it is: its size, starts, and how fast the daemon issues.
func (l *large) measureFilled(ctx context.Context) error {
	d := &l.b.report.data
	size := l.certificates
	octets, err := boltOctets(l.path())
	if err != nil {
		return err
	}
	l.octetsEach = float64(octets-l.empty) / float64(size)
	d.Add(model.StoreOctets, size, float64(octets-l.empty))
	settle()
	var answers []time.Duration
	for range min(growthStarts, 2*l.b.sizes.rounds) {
		s, err := l.serve(ctx)
		if err != nil {
			return err
		}
		s.stop()
		answers = append(answers, s.answered)
	}
	d.Add(model.AnswerTime, size, median(answers).Seconds())

	s, err := l.serve(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	a := newAuthorities(l.b)
	a.pkid = s
	got, err := alternate(ctx, "issue on the growing store", l.b.sizes.slow, a.issuers(connections)[:1])
	if err != nil {
		return err
	}
	l.certificates += a.issued[s.name]
	d.Add(model.IssueTime, size, got[0].each().Seconds())
	return nil
}

// serve starts the daemon on the large store.
func (l *large) serve(ctx context.Context) (*pkidServer, error) {
	return l.b.servePKID(ctx, "pkid-large", l.dir)
}

func (l *large) url(s *pkidServer) string { return "http://" + s.status + "/crl/" + l.issuer + ".crl" }

// measureList measures rounds of the publisher in this process. The first one reads the store as a whole, as a
// daemon does when it starts; those that follow do what each revocation causes.
func (l *large) measureList(ctx context.Context, s *signing) error {
	last, err := s.publisher.Publish(ctx, s.shard)
	if err != nil {
		return err
	}
	var rounds []time.Duration
	for range max(3, l.b.sizes.rounds) {
		if err := s.revoke(ctx, l); err != nil {
			return err
		}
		start := time.Now()
		if last, err = s.publisher.Publish(ctx, s.shard); err != nil {
			return err
		}
		rounds = append(rounds, time.Since(start))
	}
	l.list = last.DER.Len()
	d := &l.b.report.data
	d.Add(model.ListOctets, l.revoked, float64(l.list))
	d.Add(model.RoundTime, l.revoked, median(rounds).Seconds())
	log.Printf("  %s revoked: a list of %s in %s", model.Count(l.revoked), model.Octets.Text(float64(l.list), 3), tidy(median(rounds)))
	return nil
}

// measureServing measures starts until the list is served, and the daemon's memory when it has made one more.
func (l *large) measureServing(ctx context.Context) error {
	var listed []time.Duration
	var memory []int64
	settle()
	for range min(growthStarts, 2*l.b.sizes.rounds) {
		took, octets, err := l.startServing(ctx)
		if err != nil {
			return err
		}
		listed, memory = append(listed, took), append(memory, octets)
	}
	d := &l.b.report.data
	d.Add(model.ListTime, l.revoked, median(listed).Seconds())
	d.Add(model.Resident, l.revoked, float64(median(memory)))
	return nil
}

func (l *large) startServing(ctx context.Context) (listed time.Duration, memory int64, err error) {
	s, err := l.serve(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer s.stop()
	etag, err := waitETag(ctx, l.url(s), "")
	listed = time.Since(s.started)
	if err != nil {
		return 0, 0, err
	}
	if err := holds(ctx, l.url(s), l.list); err != nil {
		return 0, 0, err
	}
	operator, err := s.operators(ctx, 1)
	if err != nil {
		return 0, 0, err
	}
	defer closeAll(operator)
	if err := l.revokeAt(s, operator[0]); err != nil {
		return 0, 0, err
	}
	if _, err := waitETag(ctx, l.url(s), etag); err != nil {
		return 0, 0, err
	}
	memory, err = s.memory()
	return listed, memory, err
}
