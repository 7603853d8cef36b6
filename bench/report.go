package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/pkid/pkid/bench/model"
)

// report is what a run found.
type report struct {
	sizes    sizes
	whole    bool // nothing was left out or cut short
	args     []string
	started  time.Time
	results  map[string]*result
	tables   []table
	profiles []profile
	data     model.Data
}

// table shows the measurements behind some lines.
type table struct {
	title string
	text  string // what was done, for whoever reads the figures
	head  []string
	rows  [][]string
}

func (r *report) begin(s sizes, whole bool, args []string) {
	r.sizes, r.whole, r.args, r.started = s, whole, args, time.Now()
	r.data = model.Data{
		Date: r.started.UTC().Format(time.DateOnly), Whole: whole, Cores: runtime.NumCPU(),
		Machine: fmt.Sprintf("%s, %d cores, %s", cpuModel(), runtime.NumCPU(), memoryTotal()),
	}
}

// costs adds the table of what was measured in process.
func (r *report) costs(title, text string, all []*series) {
	t := table{title: title, text: text, head: []string{"contender", "time each (median)", "against the first", "allocations"}}
	for _, s := range all {
		allocs := fmt.Sprintf("%.0f", s.allocs())
		if s.samples[0].requests == 0 {
			allocs = ""
		}
		t.rows = append(t.rows, []string{s.name, tidy(s.each()).String(), ratio(all[0].rate() / s.rate()), allocs})
	}
	r.tables = append(r.tables, t)
}

func ratio(x float64) string { return model.Times.Text(x, 3) }

// rates adds the table of what alternate measured.
func (r *report) rates(title, text string, all []*series) {
	t := table{title: title, text: text, head: []string{"contender", "per second (median)", "lowest to highest", "p50", "p99", "server CPU per request"}}
	for _, s := range all {
		low, high := s.rates()[0], s.rates()[0]
		for _, v := range s.rates() {
			low, high = min(low, v), max(high, v)
		}
		t.rows = append(t.rows, []string{
			s.name, fmt.Sprintf("%.0f", s.rate()), fmt.Sprintf("%.0f to %.0f", low, high),
			tidy(s.p50()).String(), tidy(s.p99()).String(), tidy(s.cpu()).String(),
		})
	}
	r.tables = append(r.tables, t)
}

func (r *report) write(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Benchmarks\n\nWritten by `make bench`; do not edit.\n\n")
	if !r.whole {
		b.WriteString("**A short or partial run: it shows that the bench works. Its figures say little.**\n\n")
	}
	r.writeSetup(&b)
	r.writeLines(&b)
	tables := r.tables
	if t, ok := r.profileTable(); ok {
		tables = append([]table{t}, tables...)
	}
	for _, t := range tables {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", t.title, t.text)
		row(&b, t.head)
		row(&b, strings.Split(strings.Repeat("---,", len(t.head)-1)+"---", ","))
		for _, cells := range t.rows {
			row(&b, cells)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeLines writes the table of all demands. A whole run has no excuse for one that was not measured.
func (r *report) writeLines(b *strings.Builder) {
	var lines strings.Builder
	passed, total := 0, 0
	for _, d := range r.all() {
		got := r.results[d.id]
		if got == nil && !r.whole {
			continue
		}
		total++
		if d.pass(got) {
			passed++
		}
		row(&lines, []string{d.work, d.against, d.bound.text(), d.measured(got), d.verdict(got)})
	}
	fmt.Fprintf(b, "## The lines\n\n%d of %d pass.\n\n| work | against | wanted | measured | |\n|---|---|---|---|---|\n%s", passed, total, lines.String())
}

func row(b *strings.Builder, cells []string) {
	b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

// writeSetup says on what, with what and how.
func (r *report) writeSetup(b *strings.Builder) {
	fmt.Fprintf(b, "- Date: %s; the run took %s.\n", r.started.UTC().Format(time.DateOnly), time.Since(r.started).Round(time.Second))
	fmt.Fprintf(b, "- Command: `go run . %s` in bench/.\n", strings.Join(r.args, " "))
	fmt.Fprintf(b, "- Machine: %s, %s.\n", r.data.Machine, kernel())
	fmt.Fprintf(b, "- Versions: %s; %s.\n", runtime.Version(), strings.Join(versions(), ", "))
	fmt.Fprintf(b, "- Rounds: %d of %s for each contender, medians; each round begins with another contender and every other one goes backwards.\n", r.sizes.rounds, r.sizes.round)
	fmt.Fprintf(b, `- Client and server share the machine's cores. The client is the same for all: requests rendered before the
  clock starts, HTTP/1.1 over TLS 1.3 on connections that are kept, each with one request under way. So a rate is
  that of both together; "server CPU per request" is the server's alone.
- All keys are P-256. Every CA keeps its store on disk and syncs its commits; each writes its log, as it does by
  default, to a file.

`)
}

func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, "model name"); ok {
			return strings.Trim(rest, " \t:\n")
		}
	}
	return runtime.GOARCH
}

func memoryTotal() string {
	text, _ := os.ReadFile("/proc/meminfo")
	var kb int64
	if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kb); err != nil {
		return "memory unknown"
	}
	return fmt.Sprintf("%.0f GB", float64(kb)/(1<<20))
}

func kernel() string {
	text, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return runtime.GOOS + " " + strings.TrimSpace(string(text))
}

func versions() []string {
	out := []string{"step-ca " + stepVersion, "oidc-provider " + nodeVersion("oidc-provider"), "npm jose " + nodeVersion("jose")}
	if v, err := exec.CommandContext(context.Background(), "node", "--version").Output(); err == nil {
		out = append(out, "node "+strings.TrimSpace(string(v)))
	}
	return append(out, moduleVersions()...)
}
