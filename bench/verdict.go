package main

import (
	"fmt"
	"slices"

	"github.com/pkid/pkid/bench/model"
)

// result is what was measured for a demand.
type result struct {
	value float64
	size  int // that was reached; zero where the demand has none
	note  string
}

func (b bound) holds(v float64) bool {
	switch b.word {
	case ">=":
		return v >= b.value
	case "<=":
		return v <= b.value
	case ">":
		return v > b.value
	case "<":
		return v < b.value
	}
	panic("no such bound: " + b.word)
}

func (b bound) text() string { return b.word + " " + b.unit.Text(b.value, 3) }

// show writes a measure with three digits, and with more where three would hide on which side of the bound it is.
func (b bound) show(v float64) string {
	for digits := 3; ; digits++ {
		text := b.unit.Text(v, digits)
		if text != b.unit.Text(b.value, digits) || v == b.value || digits == 9 {
			return text
		}
	}
}

// verdict is the last cell of a line: pass, or a miss and why.
func (d demand) verdict(r *result) string {
	switch {
	case r == nil:
		return "**miss**: not measured"
	case !d.bound.holds(r.value):
		return "**miss**"
	case r.size < d.size:
		return fmt.Sprintf("**miss**: holds at %s %s only, of %s", model.Count(r.size), d.of, model.Count(d.size))
	}
	return "pass"
}

func (d demand) pass(r *result) bool { return d.verdict(r) == "pass" }

// measured is the cell with what was measured.
func (d demand) measured(r *result) string {
	if r == nil {
		return ""
	}
	text := d.bound.show(r.value)
	if r.size < d.size {
		text += fmt.Sprintf(" at %s %s", model.Count(r.size), d.of)
	}
	if r.note != "" {
		text += " (" + r.note + ")"
	}
	return text
}

// all are the demands of a run.
func (r *report) all() []demand { return slices.Concat(demands, growthDemands()) }

func (r *report) demand(id string) demand {
	all := r.all()
	return all[slices.IndexFunc(all, func(d demand) bool { return d.id == id })]
}

// record keeps what was measured for a demand that is not tied to a size.
func (r *report) record(id string, value float64, note string) { r.recordAt(id, value, 0, note) }

// recordAt keeps what was measured for a demand, and at which size. It panics for a demand that does not exist.
func (r *report) recordAt(id string, value float64, size int, note string) {
	_ = r.demand(id)
	if r.results == nil {
		r.results = map[string]*result{}
	}
	r.results[id] = &result{value, size, note}
}

// missed reports whether one of the demands that begin with a prefix was measured and not met.
func (r *report) missed(ids ...string) bool {
	return slices.ContainsFunc(ids, func(id string) bool {
		got := r.results[id]
		return got != nil && !r.demand(id).pass(got)
	})
}
