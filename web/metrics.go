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
func (s *Server) getMetrics(w http.ResponseWriter, _ *http.Request) error {
	var b bytes.Buffer
	writeBuildInfo(&b)
	s.metrics.write(&b)
	s.writeCRLMetrics(&b)
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

// writeCRLMetrics tells of each published CRL what an alert needs: its age, when it ends, and whether the
// last attempt to publish failed.
func (s *Server) writeCRLMetrics(w io.Writer) {
	status := s.c.CRL.Status()
	gauge := func(name, help string, value func(int) float64) {
		family(w, name, "gauge", help)
		for i, st := range status {
			fmt.Fprintf(w, "%s{issuer=%q} %g\n", name, st.Shard.Issuer, value(i))
		}
	}
	unix := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return float64(t.UnixMilli()) / 1000
	}
	gauge("pkid_crl_number", "Number of the newest CRL.", func(i int) float64 { return float64(status[i].Number) })
	gauge("pkid_crl_this_update_seconds", "When the newest CRL was signed, Unix time.", func(i int) float64 { return unix(status[i].ThisUpdate) })
	gauge("pkid_crl_next_update_seconds", "Until when the newest CRL holds, Unix time.", func(i int) float64 { return unix(status[i].NextUpdate) })
	gauge("pkid_crl_age_seconds", "Age of the newest CRL.", func(i int) float64 {
		if status[i].ThisUpdate.IsZero() {
			return 0
		}
		return s.now().Sub(status[i].ThisUpdate).Seconds()
	})
	gauge("pkid_crl_publication_failed", "1 if the last attempt to publish a CRL failed.", func(i int) float64 {
		if status[i].Err != nil {
			return 1
		}
		return 0
	})
}
