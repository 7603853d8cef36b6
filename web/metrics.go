package web

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkid/pkid/crl"
)

// buckets are the upper bounds of the latency histogram, in seconds.
var buckets = [...]float64{0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10}

// counters count the successes of routes, which are named as in the route table.
var counters = []struct {
	name, help string
	routes     []string
}{
	{"pkid_invitations_total", "Invitations made.", []string{"invitations.create"}},
	{"pkid_certificates_issued_total", "Enrolments answered with a certificate, retries included.", []string{"certificates.issue"}},
	{"pkid_certificates_renewed_total", "Certificates renewed.", []string{"certificates.renew"}},
	{"pkid_certificates_revoked_total", "Revocations, holds and releases.", []string{"certificates.revoke", "console.revoke"}},
	{"pkid_tokens_issued_total", "Access tokens issued.", []string{"oauth.token"}},
}

// metrics counts what the listeners answer. Its labels come from the route table alone, so a stranger cannot
// make them many.
type metrics struct {
	mu     sync.Mutex // guards what follows
	routes map[string]*routeMetrics
}

// routeMetrics are those of one route, or of requests that none took.
type routeMetrics struct {
	requests  map[answered]uint64
	latency   histogram
	successes uint64
}

type answered struct {
	listener Listener
	class    int // first digit of the status; 0: the connection was cut
}

type histogram struct {
	counts [len(buckets) + 1]uint64
	sum    float64
}

func newMetrics() *metrics { return &metrics{routes: map[string]*routeMetrics{}} }

func (m *metrics) observe(c *call, method string, took time.Duration) {
	seconds := took.Seconds()
	bucket, _ := slices.BinarySearch(buckets[:], seconds)
	m.mu.Lock()
	defer m.mu.Unlock()
	route := m.routes[c.route.Name]
	if route == nil {
		route = &routeMetrics{requests: map[answered]uint64{}}
		m.routes[c.route.Name] = route
	}
	route.requests[answered{c.listener, c.w.status / 100}]++
	route.latency.counts[bucket]++
	route.latency.sum += seconds
	if method == c.route.Method && c.w.status >= 200 && c.w.status < 400 {
		route.successes++
	}
}

// getMetrics writes the Prometheus text format, version 0.0.4.
func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) error {
	var b bytes.Buffer
	writeBuildInfo(&b)
	s.metrics.write(&b)
	s.writeCRLMetrics(&b)
	s.writeLimitMetrics(&b)
	for _, write := range s.c.Metrics {
		write(&b)
	}
	s.writeCheckMetrics(r.Context(), &b)
	send(w, http.StatusOK, "text/plain; version=0.0.4; charset=utf-8", b.Bytes())
	return nil
}

// family writes a metric's head.
func family(w io.Writer, name, kind, help string) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func writeBuildInfo(w io.Writer) {
	version, revision := "unknown", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	family(w, "pkid_build_info", "gauge", "What is running; always 1.")
	fmt.Fprintf(w, "pkid_build_info{version=%q,revision=%q,goversion=%q} 1\n", version, revision, runtime.Version())
	family(w, "go_goroutines", "gauge", "Goroutines that exist.")
	fmt.Fprintf(w, "go_goroutines %d\n", runtime.NumGoroutine())
}

func (m *metrics) write(w io.Writer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range counters {
		family(w, c.name, "counter", c.help)
		var n uint64
		for _, route := range c.routes {
			if r := m.routes[route]; r != nil {
				n += r.successes
			}
		}
		fmt.Fprintf(w, "%s %d\n", c.name, n)
	}
	family(w, "pkid_http_requests_total", "counter", "Requests answered, by listener, route and class of status.")
	var lines []string
	for route, r := range m.routes {
		for k, n := range r.requests {
			lines = append(lines, fmt.Sprintf("pkid_http_requests_total{listener=%q,route=%q,code=\"%dxx\"} %d\n", k.listener, route, k.class, n))
		}
	}
	slices.Sort(lines)
	fmt.Fprint(w, strings.Join(lines, ""))
	family(w, "pkid_http_request_duration_seconds", "histogram", "How long requests took, by route.")
	for _, route := range slices.Sorted(maps.Keys(m.routes)) {
		m.routes[route].latency.write(w, "pkid_http_request_duration_seconds", route)
	}
}

func (h *histogram) write(w io.Writer, name, route string) {
	var n uint64
	for i, count := range h.counts {
		n += count
		bound := "+Inf"
		if i < len(buckets) {
			bound = fmt.Sprint(buckets[i])
		}
		fmt.Fprintf(w, "%s_bucket{route=%q,le=%q} %d\n", name, route, bound, n)
	}
	fmt.Fprintf(w, "%s_sum{route=%q} %g\n%s_count{route=%q} %d\n", name, route, h.sum, name, route, n)
}

// crlHealth is what an alert needs to know of an issuer's CRLs: the worst of its shards counts.
type crlHealth struct {
	shards, entries, failed int
	number                  uint64    // the highest
	oldest, first           time.Time // thisUpdate of the oldest list, nextUpdate of the one that ends first
	pending                 time.Time // since when a revocation waits; zero if none does
}

// writeCRLMetrics tells how an issuer's CRLs are, whatever their number, so that there are no more lines where there
// are more shards; the console and the log name the one that is ill. A list that is the last of its shard, since all of
// its certificates have expired, is left out: that it ends is as it should be.
func (s *Server) writeCRLMetrics(w io.Writer) {
	health := map[string]*crlHealth{}
	for _, st := range s.c.CRL.Status() {
		if st.Ended {
			continue
		}
		h := health[st.Shard.Issuer]
		if h == nil {
			h = &crlHealth{oldest: st.ThisUpdate, first: st.NextUpdate}
			health[st.Shard.Issuer] = h
		}
		h.add(st)
	}
	gauge := func(name, help string, value func(*crlHealth) float64) {
		family(w, name, "gauge", help)
		for _, issuer := range slices.Sorted(maps.Keys(health)) {
			fmt.Fprintf(w, "%s{issuer=%q} %g\n", name, issuer, value(health[issuer]))
		}
	}
	unix := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return float64(t.UnixMilli()) / 1000
	}
	since := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return s.now().Sub(t).Seconds()
	}
	gauge("pkid_crl_shards", "CRLs that are kept up to date.", func(h *crlHealth) float64 { return float64(h.shards) })
	gauge("pkid_crl_entries", "Certificates on them.", func(h *crlHealth) float64 { return float64(h.entries) })
	gauge("pkid_crl_number", "Number of the newest CRL.", func(h *crlHealth) float64 { return float64(h.number) })
	gauge("pkid_crl_this_update_seconds", "When the oldest current CRL was signed, Unix time; 0 if one is missing.", func(h *crlHealth) float64 { return unix(h.oldest) })
	gauge("pkid_crl_next_update_seconds", "Until when every current CRL holds, Unix time; 0 if one is missing.", func(h *crlHealth) float64 { return unix(h.first) })
	gauge("pkid_crl_age_seconds", "Age of the oldest current CRL.", func(h *crlHealth) float64 { return since(h.oldest) })
	gauge("pkid_crl_pending_seconds", "How long a revocation has waited for its CRL.", func(h *crlHealth) float64 { return since(h.pending) })
	gauge("pkid_crl_publication_failed", "CRLs whose last attempt to be published failed.", func(h *crlHealth) float64 { return float64(h.failed) })
}

func (h *crlHealth) add(st crl.ShardStatus) {
	h.shards, h.entries, h.number = h.shards+1, h.entries+st.Entries, max(h.number, st.Number)
	h.oldest, h.first = earlier(h.oldest, st.ThisUpdate), earlier(h.first, st.NextUpdate)
	if st.Err != nil {
		h.failed++
	}
	if !st.PendingSince.IsZero() && (h.pending.IsZero() || st.PendingSince.Before(h.pending)) {
		h.pending = st.PendingSince
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
