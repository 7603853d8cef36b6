package web

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/pkid/pkid/internal/admission"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/tokenbind"
)

// maxBody bounds every request body. The largest honest one is a client's JWK set.
const maxBody = 64 << 10

// call is what is known of a request while it is answered.
type call struct {
	id       string
	listener Listener
	remote   string // the address that the request came from, without port
	start    time.Time
	route    *Route            // &noRouteYet until one matched
	vars     map[string]string // in the path
	client   string            // who was authenticated here, for the log
	operator bool              // and is an operator
	kind     kind              // of work
	failed   bool              // its credentials were wrong, or its proof
	tooMuch  string            // why it was refused, if it was for being too much
	strays   bool              // no route matched, but a person is looking for a page
	w        recorder

	proxy     *http.Request // as a trusted proxy sent it; nil: none did
	forwarded error         // why what came before the client's own request was not believed
}

var noRouteYet Route

// page reports whether a person is looking.
func (c *call) page() bool { return c.strays || strings.HasPrefix(c.route.Name, "console.") }

type callKey struct{}

func callOf(ctx context.Context) *call { return ctx.Value(callKey{}).(*call) }

// recorder notes what went out.
type recorder struct {
	http.ResponseWriter
	status int
	octets int64
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.octets += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// listener wraps a listener's routes in what holds for every request: an id, bounds, headers, the access
// log, and an answer even after a panic.
func (s *Server) listener(l Listener) http.Handler {
	routes, underWay := s.router(l), s.underWay[l]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// An id that came with the request is not taken over: it could be made to look like another's.
		c := &call{id: rand.Text(), listener: l, start: time.Now(), route: &noRouteYet}
		c.w.ResponseWriter = w
		route, vars, err := routes.find(r)
		r = s.receive(r, c, route)
		from := admission.AddressOf(c.remote)
		underWay.begin(from, s.bounds(c))
		defer underWay.end(from)
		ctx, cancel := route.bound(r.Context())
		defer cancel()
		ctx = audit.WithActor(context.WithValue(ctx, callKey{}, c), audit.Actor{Address: c.remote, RequestID: c.id})
		r = r.WithContext(ctx)
		r.Body = http.MaxBytesReader(&c.w, r.Body, maxBody)
		if len(r.TransferEncoding) > 0 {
			// net/http forgets that a Content-Length came beside the chunks. What a proxy before us took for a part of this
			// request must not be the next one (RFC 9112 section 6.1).
			w.Header().Set("Connection", "close")
		}
		defer s.finish(r, c)
		s.headers(c)
		switch {
		case c.forwarded != nil:
			if route != nil {
				c.route = route
			}
			if err = c.forwarded; errors.Is(err, tokenbind.ErrForwarded) {
				err = refuse(forwarded, "%v; clients with a certificate connect to %s", err, s.c.URLs.MTLS)
			}
		case err != nil:
			err = s.strays(r, c, err)
		default:
			c.route, c.vars, c.kind = route, vars, kindOf(route)
			err = s.serve(&c.w, r, c)
		}
		if err != nil {
			s.fail(&c.w, r, err)
		}
	})
}

// The headers of every answer. There is no Strict-Transport-Security: it holds for a host name and all of its
// ports, and would turn the CRLs on plain HTTP into errors.
var (
	nosniff    = []string{"nosniff"}
	noReferrer = []string{"no-referrer"}
	noContent  = []string{"default-src 'none'; frame-ancestors 'none'"}
	noStore    = []string{"no-store"}
)

// headers sets what every answer carries; a handler may replace them.
func (s *Server) headers(c *call) {
	h := c.w.Header()
	h["X-Request-Id"] = []string{c.id}
	h["X-Content-Type-Options"] = nosniff
	h["Referrer-Policy"] = noReferrer
	h["Content-Security-Policy"] = noContent
	if c.listener != Status {
		h["Cache-Control"] = noStore
	}
}

// finish answers after a panic, logs and counts.
func (s *Server) finish(r *http.Request, c *call) {
	cut := recover()
	if err, _ := cut.(error); cut != nil && !errors.Is(err, http.ErrAbortHandler) {
		s.log.ErrorContext(r.Context(), "panic", "request_id", c.id, "route", c.route.Name,
			"error", fmt.Sprint(cut), "stack", string(debug.Stack()))
		if c.w.status == 0 {
			s.fail(&c.w, r, refuse(internal, "panic"))
			cut = nil
		}
	}
	end := time.Now()
	s.revoked(c.route)
	s.c.Limits.note(c)
	s.metrics.observe(c, r.Method, end.Sub(c.start))
	s.logAccess(r, c, end)
	if cut != nil {
		panic(http.ErrAbortHandler)
	}
}

// logAccess writes the access log's line. It hands the record to the handler itself: the Logger's methods would look
// for the line of code first.
func (s *Server) logAccess(r *http.Request, c *call, end time.Time) {
	ctx, level := r.Context(), level(c)
	if c.tooMuch != "" {
		s.logRefusal(ctx, c, end)
		return
	}
	if !s.log.Enabled(ctx, level) {
		return
	}
	line := slog.NewRecord(end, level, "request", 0)
	line.AddAttrs(
		slog.String("request_id", c.id), slog.String("listener", c.listener.String()),
		slog.String("method", r.Method), slog.String("route", c.route.Name),
		slog.String("path", r.URL.Path[:min(len(r.URL.Path), 256)]), // never the query: it may hold anything
		slog.Int("status", c.w.status), slog.Int64("octets", c.w.octets), slog.Duration("took", end.Sub(c.start)),
		slog.String("remote", c.remote), slog.String("client", c.client))
	if c.proxy != nil {
		line.AddAttrs(slog.String("proxy", remoteHost(c.proxy)))
	}
	_ = s.log.Handler().Handle(ctx, line) // as slog does: there is nobody to tell
}

// level keeps scrapes and CRL downloads, which are many and alike, out of the log by default.
func level(c *call) slog.Level {
	if c.listener == Status || c.listener == Ops {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// serve runs a route's handler, as its line of the table says, when there is room for it. An operator is known before,
// so that strangers cannot take the room of operators, and the body is read before, so that nobody takes room by sending
// nothing.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, c *call) error {
	if err := s.c.Limits.allow(c); err != nil {
		return err
	}
	r, err := s.admit(r, c, c.route.Access)
	if err != nil {
		return err
	}
	gate := s.c.Limits.gates[c.kind]
	if gate != nil {
		readAhead(r)
	}
	if err := gate.Enter(r.Context()); err != nil {
		return err
	}
	defer gate.Leave()
	return c.route.Handler(w, r)
}

// clean reports whether a path is in normal form, so that no proxy before us, and no rule that it enforces,
// reads it differently. It looks at the path as sent: an id may hold a slash, which is then written %2F.
func clean(u *url.URL) bool {
	segments, ok := strings.CutPrefix(u.EscapedPath(), "/")
	if !ok {
		return false
	}
	for segment := range strings.SplitSeq(strings.TrimSuffix(segments, "/"), "/") {
		text, err := url.PathUnescape(segment)
		if err != nil || text == "." || text == ".." || text == "" && segments != "" || strings.Contains(text, `\`) {
			return false
		}
	}
	return true
}

func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
