package main

import (
	"context"
	"fmt"
	"log"
	"path/filepath"
	"time"

	"github.com/pkid/pkid/bench/model"
)

// memory is the anonymous memory of each CA, after a rest.
func (a *authorities) memory(ctx context.Context) (map[string]int64, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(a.b.sizes.rest):
	}
	all := []*process{a.pkid.process}
	for _, s := range a.steps() {
		all = append(all, s.process)
	}
	out := map[string]int64{}
	for _, p := range all {
		n, err := p.memory()
		if err != nil {
			return nil, err
		}
		out[p.name] = n
	}
	return out, nil
}

// issueUpTo lets a CA come to a number of certificates, or to the end of the time.
func (a *authorities) issueUpTo(ctx context.Context, name string, n int, limit time.Duration, round func(context.Context) (sample, error)) error {
	for start := time.Now(); a.issued[name] < n && time.Since(start) < limit; {
		if _, err := round(ctx); err != nil {
			return err
		}
	}
	log.Printf("  %s issued %s", name, model.Count(a.issued[name]))
	return nil
}

// measureMemory lets pkid and step-ca on its better store, step, come to the same number of certificates. Without
// step-ca, step is nil.
func (a *authorities) measureMemory(ctx context.Context, idle map[string]int64, step *stepServer) error {
	n, own := a.b.sizes.issued, a.pkid.name
	if err := a.issueUpTo(ctx, own, n, 2*issueTime, a.issuers(connections)[0].round); err != nil {
		return err
	}
	if step != nil {
		for _, c := range a.stepIssuers(connections) {
			if c.name != a.stepName(step) {
				continue
			}
			if err := a.issueUpTo(ctx, step.name, n, issueTime, c.round); err != nil {
				return err
			}
		}
	}
	after, err := a.memory(ctx)
	if err != nil {
		return err
	}
	r := &a.b.report
	r.record("memory/idle", float64(idle[own]), "")
	r.recordAt("memory/after", float64(after[own]), a.issued[own], "")
	t := table{title: "Memory", text: fmt.Sprintf("Anonymous resident memory, %s after the start and after the last request.", a.b.sizes.rest), head: []string{"contender", "idle", "after", "certificates issued"}}
	row := func(name, server string) {
		t.rows = append(t.rows, []string{name, megabytes(idle[server]), megabytes(after[server]), model.Count(a.issued[server])})
	}
	row("pkid", own)
	if step != nil {
		other := a.badger
		if step == a.badger {
			other = a.bbolt
		}
		r.record("memory/idle/step", float64(idle[own])/float64(idle[step.name]), fmt.Sprintf("%s; %s of %s", a.stepName(step), ratio(float64(idle[own])/float64(idle[other.name])), a.stepName(other)))
		r.recordAt("memory/after/step", float64(after[own])/float64(after[step.name]), a.issued[own], fmt.Sprintf("%s after %s; %s of %s after %s",
			a.stepName(step), model.Count(a.issued[step.name]), ratio(float64(after[own])/float64(after[other.name])), a.stepName(other), model.Count(a.issued[other.name])))
		for _, s := range a.steps() {
			row(a.stepName(s), s.name)
		}
	}
	r.tables = append(r.tables, t)
	return a.measureStores()
}

// measureStores tells what each certificate takes on disk, with the right that was used up for it.
func (a *authorities) measureStores() error {
	t := table{
		title: "Stores", text: "What each certificate takes on disk, of all that the part above issued: with the invitation or the one-time token that was used up for it.",
		head: []string{"contender", "certificates issued", "octets for each"},
	}
	octets, err := boltOctets(filepath.Join(a.pkid.dir, "pkid.db"))
	if err != nil {
		return err
	}
	row := func(name, server string, octets int64) string {
		per := fmt.Sprintf("%.0f", float64(octets)/float64(a.issued[server]))
		t.rows = append(t.rows, []string{name, model.Count(a.issued[server]), per})
		return per
	}
	row("pkid", a.pkid.name, octets)
	if a.b.peers {
		badger, err := treeOctets(a.badger.database("badgerv2"))
		if err != nil {
			return err
		}
		bbolt, err := boltOctets(a.bbolt.database("bbolt"))
		if err != nil {
			return err
		}
		a.b.stepOctets = fmt.Sprintf("; step-ca %s on badger and %s on bbolt", row(onBadger, a.badger.name, badger), row(onBbolt, a.bbolt.name, bbolt))
	}
	a.b.report.tables = append(a.b.report.tables, t)
	return nil
}
