package model

import (
	_ "embed"
	"fmt"
	"io"
	"strings"
	"text/template"
	"time"
)

//go:embed scale.md.tmpl
var page string

// scenarios are the installations that the document works out. The first is what was measured.
var scenarios = []struct {
	Name string
	Load Load
}{
	{"ten million", Load{Certificates: 1e7, Lifetime: 90 * day, Years: 1, Revoked: 1e6, Tokens: 1e3, Verifiers: 100}},
	{"a hundred million", Load{Certificates: 1e8, Lifetime: 90 * day, Years: 1, Revoked: 1e6, Tokens: 1e4, Verifiers: 1e3}},
	{"a billion", Load{Certificates: 1e9, Lifetime: 90 * day, Years: 1, Revoked: 1e7, Tokens: 1e5, Verifiers: 1e4}},
	{"a billion, for a day each", Load{Certificates: 1e9, Lifetime: day, Years: 1, Revoked: 1e5, Tokens: 1e5, Verifiers: 1e4}},
}

// shardBytes is how large the document's shards may be.
const shardBytes = 4e6

// planned is a scenario worked out: with one CRL for all, with shards, and with shards and deltas.
type planned struct {
	Name               string
	One, Shards, Delta Plan
}

// Document writes docs/scale.md. All of its figures are computed from d.
func (d *Data) Document(w io.Writer) error {
	var plans []planned
	for _, s := range scenarios {
		p := planned{Name: s.Name}
		for to, change := range map[*Plan]func(*Load){
			&p.One: func(*Load) {}, &p.Shards: func(l *Load) { l.Bytes = shardBytes },
			&p.Delta: func(l *Load) { l.Bytes, l.Delta = shardBytes, true },
		} {
			load := s.Load
			change(&load)
			var err error
			if *to, err = d.Plan(load); err != nil {
				return err
			}
		}
		plans = append(plans, p)
	}
	checks := map[string]Check{}
	for _, l := range Laws {
		c, err := d.Check(l)
		if err != nil {
			return err
		}
		checks[l.Series] = c
	}
	t, err := template.New("scale").Funcs(template.FuncMap{
		"octets": func(x float64) string { return Octets.Text(x, 3) }, "seconds": func(x float64) string { return Seconds.Text(x, 3) },
		"number": func(x float64) string { return number(x, 2) }, "count": func(x float64) string { return number(x, 1) },
		"share": func(x float64) string { return Share.Text(x, 2) }, "days": days, "points": d.points, "formula": d.formula,
		"fit": func(series string) (Fit, error) { return d.Fit(law(series)) },
		"per": func(cost float64) float64 { return 1 / cost }, "times": func(a, b float64) float64 { return a * b },
		"header": header,
	}).Parse(page)
	if err != nil {
		return err
	}
	return t.Execute(w, map[string]any{
		"Data": d, "Laws": Laws, "Checks": checks, "Plans": plans, "Last": plans[len(plans)-2],
		"Cores": NodeCores, "Busy": Busy, "ShardBytes": float64(shardBytes), "Poll": PollInterval.Seconds(),
	})
}

// header is the head of a table with a column for each plan.
func header(plans []planned) string {
	var names, lines strings.Builder
	for _, p := range plans {
		names.WriteString(" " + p.Name + " |")
		lines.WriteString(" --- |")
	}
	return "| |" + names.String() + "\n| --- |" + lines.String()
}

func days(d time.Duration) string {
	if d == day {
		return "1 day"
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// formula writes a law with its constants.
func (d *Data) formula(l Law) (string, error) {
	f, err := d.Fit(l)
	if err != nil || l.Flat {
		return l.Unit.Text(f.A, 3), err
	}
	return fmt.Sprintf("%s + %s for each", l.Unit.Text(f.A, 3), l.Unit.Text(f.B, 3)), nil
}

// Print writes what a load takes.
func (p Plan) Print(w io.Writer) {
	row := func(what, value string) { fmt.Fprintf(w, "%-44s %s\n", what, value) }
	row("certificates valid at once", number(p.Certificates, 1))
	row("certificates issued a second", number(p.Issued, 3))
	row("records after "+number(p.Years, 2)+" years", number(p.Records, 1))
	row("disk", fmt.Sprintf("%s, and %s more each day", Octets.Text(p.Disk, 3), Octets.Text(p.DiskPerDay, 3)))
	row("cores for issuance", number(p.IssuingCores, 2))
	row("nodes for tokens, of "+number(NodeCores, 1)+" cores", number(p.TokenNodes, 1))
	row("one CRL for all", fmt.Sprintf("%s, %s to make anew", Octets.Text(p.FullList, 3), Seconds.Text(p.FullRound, 3)))
	row("shards of the CRL", fmt.Sprintf("%s of %s, %s to make one anew", number(p.Shards, 1), Octets.Text(p.ShardList, 3), Seconds.Text(p.ShardRound, 3)))
	row("memory of the node that publishes", Octets.Text(p.Memory, 3))
	row("start until its lists are served", Seconds.Text(p.Start, 3))
	row("polls for CRLs a second", number(p.Polls, 3))
	row("traffic of CRLs", Octets.Text(p.Bandwidth, 3)+"/s")
	for _, part := range p.Parts() {
		row("  "+part.Name, fmt.Sprintf("%s x %s", number(part.Need, 2), part.One))
	}
	row("the limit", p.Limit().Name+"; then: "+p.Limit().Then)
}
