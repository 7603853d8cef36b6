package web

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	runtimemetrics "runtime/metrics"
	"slices"
	"sync"
	"time"

	"github.com/pkid/pkid/internal/admission"
)

// LimitsConfig says how much may come in. A zero member means that nothing is limited by it.
type LimitsConfig struct {
	// UnderWay is how many requests of a listener are served at once, whatever they ask for. Beyond it a connection, or
	// a stream of HTTP/2, is cut without an answer.
	UnderWay int
	// UnderWayPerAddress is how many of them may come from one address.
	UnderWayPerAddress int
	// Streams is how many streams of revocations a listener has open at once, and StreamsPerAddress those of one address.
	Streams, StreamsPerAddress int
	// AtOnce is how many requests of one kind are worked on at once; four times as many wait, for Wait at the most.
	AtOnce int
	Wait   time.Duration
	// Requests in a minute: certificates enrolled or renewed, tokens asked for, and attempts with wrong credentials.
	CertificatesPerAddress, CertificatesPerClient int
	TokensPerAddress, TokensPerClient             int
	FailuresPerAddress                            int
}

// Limits bound what comes in. The listeners share them.
type Limits struct {
	c        LimitsConfig
	gates    map[kind]*admission.Gate // empty: nobody waits
	address  map[kind]*admission.Limiter[admission.Address]
	client   map[kind]*admission.Limiter[string]
	failures *admission.Limiter[admission.Address]
	refused  refusals
}

// kind is work that has a budget of its own, so that too much of one does not keep the others waiting. A revocation
// above all must not wait for those who enrol.
type kind string

const (
	certificates kind = "certificates"
	tokens       kind = "tokens"
	revocations  kind = "revocations" // of tokens, by their clients
	operators    kind = "operators"   // revocation of certificates, and all else that is theirs
	checks       kind = "checks"      // of clients' requests, which proxies ask for
	searches     kind = "searches"    // what operators ask for that has many records
	statuses     kind = "statuses"    // OCSP, which looks into the store and may take a signature
	free         kind = ""            // costs no more than its answer
)

// kinds are those of routes that are not by their access: operators for operators, free for anybody.
var kinds = map[string]kind{
	"certificates.issue": certificates, "certificates.renew": certificates,
	"ocsp": statuses, "ocsp.get": statuses,
	"oauth.token": tokens, "oauth.introspect": tokens, "oauth.revoke": revocations,
	"certificates.list": searches, "clients.list": searches, "audit": searches,
	"console.overview": searches, "console.certificates": searches, "console.clients": searches, "console.audit": searches,
}

func kindOf(r *Route) kind {
	if k, listed := kinds[r.Name]; listed {
		return k
	}
	switch r.Access {
	case Operator:
		return operators
	case TrustedProxy:
		return checks
	}
	return free
}

// NewLimits makes limits.
func NewLimits(c LimitsConfig) *Limits {
	l := &Limits{
		c: c, gates: map[kind]*admission.Gate{},
		address: map[kind]*admission.Limiter[admission.Address]{
			certificates: admission.NewLimiter[admission.Address](c.CertificatesPerAddress),
			tokens:       admission.NewLimiter[admission.Address](c.TokensPerAddress),
		},
		client: map[kind]*admission.Limiter[string]{
			certificates: admission.NewLimiter[string](c.CertificatesPerClient),
			tokens:       admission.NewLimiter[string](c.TokensPerClient),
		},
		failures: admission.NewLimiter[admission.Address](c.FailuresPerAddress),
		refused:  refusals{counts: map[refused]*refusalCount{}},
	}
	if c.AtOnce == 0 {
		return l
	}
	for _, k := range []kind{certificates, tokens, revocations, operators, checks, searches, statuses} {
		n := c.AtOnce
		if k == searches { // a page has megabytes, where all else has kilobytes
			n = max(n/16, 2)
		}
		l.gates[k] = admission.NewGate(n, 4*n, c.Wait)
	}
	return l
}

// limitedError is a request beyond an allowance.
type limitedError struct {
	of    string // whose: the address or the client, or that of wrong credentials
	after time.Duration
}

func (e *limitedError) Error() string {
	return fmt.Sprintf("too many requests in a minute, by the limit for %s; try again after the time in Retry-After", e.of)
}

func (e *limitedError) RetryAfter() time.Duration { return e.after }

// allow takes a request from the allowance of its address, before more of it than the header was looked at.
func (l *Limits) allow(c *call) error {
	if !guarded(c.kind) {
		return nil
	}
	address := admission.AddressOf(c.remote)
	if after, ok := l.failures.Left(address, c.start); !ok {
		return &limitedError{"wrong credentials from one address", after}
	}
	// An introspection is no token, and a resource server asks for one with each request that it gets.
	if c.route.Name == "oauth.introspect" {
		return nil
	}
	if after, ok := l.address[c.kind].Take(address, c.start); !ok {
		return &limitedError{"one address", after}
	}
	return nil
}

// guarded reports whether strangers may try their luck with credentials of their own making. A client certificate, which
// operators have, is proved by the handshake.
func guarded(k kind) bool { return k == certificates || k == tokens || k == revocations }

// note counts an attempt with wrong credentials against its address.
func (l *Limits) note(c *call) {
	if (c.failed || c.w.status == http.StatusUnauthorized) && guarded(c.kind) {
		l.failures.Take(admission.AddressOf(c.remote), c.start)
	}
}

// Certificate takes a certificate from the allowance of an authenticated client.
func (l *Limits) Certificate(clientID string) error { return l.ofClient(certificates, clientID) }

// Token takes a token from it.
func (l *Limits) Token(clientID string) error { return l.ofClient(tokens, clientID) }

func (l *Limits) ofClient(k kind, clientID string) error {
	if after, ok := l.client[k].Take(clientID, time.Now()); !ok {
		return &limitedError{"one client", after}
	}
	return nil
}

// Failed hears of wrong credentials that an answer's status does not tell of, such as a bad DPoP proof.
func (l *Limits) Failed(ctx context.Context) {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		c.failed = true
	}
}

// refused is what was too much.
type refused struct{ route, reason string }

// refusals counts them, and keeps them from flooding the log.
type refusals struct {
	mu     sync.Mutex // guards the rest
	counts map[refused]*refusalCount
}

type refusalCount struct {
	total, logged uint64
	last          time.Time // of the log
}

// refusalsEvery is how often the log has a line about refusals that are alike.
const refusalsEvery = 10 * time.Second

// count counts one, and returns how many the log has to tell of: 0 if it has a line from a moment ago.
func (s *refusals) count(what refused, now time.Time) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.counts[what]
	if n == nil {
		n = &refusalCount{}
		s.counts[what] = n
	}
	n.total++
	if now.Sub(n.last) < refusalsEvery {
		return 0
	}
	tell := n.total - n.logged
	n.logged, n.last = n.total, now
	return tell
}

// tooMuch returns the reason of an error that says that there is too much; empty for other errors. Its route's name is
// one of the table and the reason a constant, so that there are few of both.
func tooMuch(err error) string {
	switch e := err.(type) { //nolint:errorlint // nothing wraps them, and this is on every request's way
	case *admission.FullError:
		return e.Reason
	case *limitedError:
		return e.of
	}
	return ""
}

// logRefusal is the access log's line for requests that were too many: one for all that are alike, now and then.
func (s *Server) logRefusal(ctx context.Context, c *call, end time.Time) {
	if n := s.c.Limits.refused.count(refused{c.route.Name, c.tooMuch}, end); n > 0 {
		s.log.LogAttrs(ctx, slog.LevelWarn, "too many requests: refused", slog.String("route", c.route.Name), slog.String("reason", c.tooMuch),
			slog.Uint64("count", n), slog.String("one_address", c.remote), slog.String("one_request_id", c.id))
	}
}

func (s *Server) writeLimitMetrics(w io.Writer) {
	l := s.c.Limits
	family(w, "pkid_requests_refused_total", "counter", "Requests refused since there were too many, by route and reason.")
	l.refused.write(w)
	family(w, "pkid_requests_waiting", "gauge", "Requests that wait for their turn, by kind.")
	for _, k := range []kind{certificates, checks, operators, revocations, searches, statuses, tokens} {
		if gate := l.gates[k]; gate != nil {
			fmt.Fprintf(w, "pkid_requests_waiting{kind=%q} %d\n", k, gate.Waiting())
		}
	}
	family(w, "pkid_requests_cut_total", "counter", "Requests cut without an answer, since too many were under way, by listener.")
	for _, listener := range []Listener{Public, MTLS, Status, Ops} {
		fmt.Fprintf(w, "pkid_requests_cut_total{listener=%q} %d\n", listener, s.underWay[listener].cut.Load())
	}
	family(w, "go_memory_bytes", "gauge", "Memory that the process has for itself, as Go's runtime counts it.")
	fmt.Fprintf(w, "go_memory_bytes %d\n", heldMemory())
}

// heldMemory is what the runtime has of the system and has not given back.
func heldMemory() uint64 {
	samples := []runtimemetrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	runtimemetrics.Read(samples)
	return samples[0].Value.Uint64() - samples[1].Value.Uint64()
}

func (s *refusals) write(w io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]refused, 0, len(s.counts))
	for k := range s.counts {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b refused) int {
		return cmp.Or(cmp.Compare(a.route, b.route), cmp.Compare(a.reason, b.reason))
	})
	for _, k := range keys {
		fmt.Fprintf(w, "pkid_requests_refused_total{route=%q,reason=%q} %d\n", k.route, k.reason, s.counts[k].total)
	}
}
