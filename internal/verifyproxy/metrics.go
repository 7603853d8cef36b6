package verifyproxy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkid/pkid/forwardauth"
	"github.com/pkid/pkid/tokenbind"
)

// buckets are the upper bounds of the histogram, in seconds.
var buckets = [...]float64{0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5}

// metrics counts answers. Its labels come from the configuration and from the table of checks, so a stranger cannot make
// them many.
type metrics struct {
	mu      sync.Mutex // guards what follows
	answers map[answer]uint64
	counts  [len(buckets) + 1]uint64
	sum     float64
}

type answer struct{ server, result, reason string }

func (m *metrics) observe(o forwardauth.Outcome) {
	a := answer{cmp.Or(o.Server, "none"), "allowed", ""}
	refused, ok := errors.AsType[*tokenbind.Error](o.Err)
	switch {
	case ok && refused.Status >= 500:
		a.result, a.reason = "failed", refused.Check
	case ok:
		a.result, a.reason = "refused", refused.Check
	case o.Err != nil:
		a.result, a.reason = "failed", "configuration"
	}
	seconds := o.Took.Seconds()
	bucket, _ := slices.BinarySearch(buckets[:], seconds)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answers[a]++
	m.counts[bucket]++
	m.sum += seconds
}

func (m *metrics) write(w io.Writer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	family(w, "pkid_verify_requests_total", "counter", "Requests judged, by resource server, result and the check that refused.")
	var lines []string
	for a, n := range m.answers {
		lines = append(lines, fmt.Sprintf("pkid_verify_requests_total{server=%q,result=%q,reason=%q} %d\n", a.server, a.result, a.reason, n))
	}
	slices.Sort(lines)
	_, _ = io.WriteString(w, strings.Join(lines, ""))
	family(w, "pkid_verify_duration_seconds", "histogram", "How long it took to judge a request.")
	var n uint64
	for i, count := range m.counts {
		n += count
		bound := "+Inf"
		if i < len(buckets) {
			bound = fmt.Sprint(buckets[i])
		}
		fmt.Fprintf(w, "pkid_verify_duration_seconds_bucket{le=%q} %d\n", bound, n)
	}
	fmt.Fprintf(w, "pkid_verify_duration_seconds_sum %g\npkid_verify_duration_seconds_count %d\n", m.sum, n)
}

func family(w io.Writer, name, kind, help string) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func gauge(w io.Writer, name, help string, value any) {
	family(w, name, "gauge", help)
	fmt.Fprintf(w, "%s %v\n", name, value)
}

// since is how old something is, in seconds.
func since(t time.Time) float64 { return time.Since(t).Seconds() }
