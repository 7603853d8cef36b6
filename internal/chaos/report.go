package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

// Lost counts the acknowledged operations that were gone.
func (r *Report) Lost() (n int) {
	for _, v := range r.Violations {
		if v.Lost() {
			n++
		}
	}
	return n
}

// operations are the lines of the table that count what was acknowledged.
var operations = []struct {
	name    string
	actions []string
}{
	{"invitations", []string{audit.Invite}},
	{"certificates enrolled", []string{audit.Issue}},
	{"certificates renewed", []string{audit.Renew}},
	{"revocations", []string{audit.Revoke}},
	{"holds and releases", []string{audit.Hold, audit.Release}},
	{"clients added, disabled, enabled", []string{audit.ClientAdd, audit.ClientDisable, audit.ClientEnable}},
	{"tokens issued with a DPoP proof", []string{tokens}},
	{"tokens revoked", []string{audit.TokenRevoke}},
}

// Table is the Markdown table of reports, one column each.
func Table(reports ...*Report) string {
	var b strings.Builder
	row := func(name string, cell func(*Report) string) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, r := range reports {
			fmt.Fprintf(&b, " %s |", cell(r))
		}
		b.WriteString("\n")
	}
	row("", func(r *Report) string { return fmt.Sprintf("%s, %s", r.Engine, counted(r.Nodes, "node")) })
	row("---", func(*Report) string { return "---:" })
	for _, name := range faultNames(reports) {
		row(name, func(r *Report) string { return fmt.Sprint(r.Faults[name]) })
	}
	row("operations acknowledged", func(r *Report) string { return fmt.Sprint(sum(r.Acknowledged)) })
	for _, o := range operations {
		row("– "+o.name, func(r *Report) string {
			n := 0
			for _, action := range o.actions {
				n += r.Acknowledged[action]
			}
			return fmt.Sprint(n)
		})
	}
	row("operations without an answer, found whole or not at all", func(r *Report) string { return fmt.Sprint(r.Unknown) })
	row("DPoP proofs sent again after a fault", func(r *Report) string { return fmt.Sprint(r.Replayed) })
	row("CRLs compared with the one before", func(r *Report) string { return fmt.Sprint(r.Lists) })
	row("**operations lost**", func(r *Report) string { return fmt.Sprintf("**%d**", r.Lost()) })
	row("**violations**", func(r *Report) string { return fmt.Sprintf("**%d**", len(r.Violations)) })
	row("time to serve again: median", func(r *Report) string { return r.recovery(0.5) })
	row("– 99th percentile", func(r *Report) string { return r.recovery(0.99) })
	row("– longest", func(r *Report) string { return r.recovery(1) })
	row("the run took", func(r *Report) string { return r.Took.Round(time.Second).String() })
	row("seed", func(r *Report) string { return fmt.Sprint(r.Seed) })
	return b.String()
}

func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func faultNames(reports []*Report) []string {
	all := map[string]bool{}
	for _, r := range reports {
		for name := range r.Faults {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

func sum(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

// recovery is the time below which that part of the recoveries lies.
func (r *Report) recovery(part float64) string {
	if len(r.Recoveries) == 0 {
		return "–"
	}
	at := min(int(part*float64(len(r.Recoveries))), len(r.Recoveries)-1)
	return fmt.Sprintf("%d ms", r.Recoveries[at].Milliseconds())
}

// The marks between which Insert puts a table.
const (
	tableBegins = "<!-- chaos: begin -->\n"
	tableEnds   = "<!-- chaos: end -->\n"
)

// Insert puts text between the marks of a document.
func Insert(document, text string) (string, error) {
	before, rest, begins := strings.Cut(document, tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		return "", fmt.Errorf("the document lacks the lines %q and %q", strings.TrimSpace(tableBegins), strings.TrimSpace(tableEnds))
	}
	return before + tableBegins + text + tableEnds + after, nil
}
