package web

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/pkid/pkid/internal/admission"
	"github.com/pkid/pkid/internal/feed"
	"github.com/pkid/pkid/revocation"
)

// revoking names the routes by which something is revoked, or a client disabled. The stream is told at once.
var revoking = []string{
	"certificates.revoke", "clients.change", "oauth.revoke", "console.revoke", "console.clients.disable", "console.clients.enable",
}

// revoked pokes the stream if a request may have revoked something, whatever its answer says.
func (s *Server) revoked(r *Route) {
	if s.c.Feed != nil && slices.Contains(revoking, r.Name) {
		s.c.Feed.Poke()
	}
}

// streams counts the streams of a listener that are open, those of each address apart. Their number is bounded apart from
// that of requests, so that they leave room for those.
type streams struct {
	mu   sync.Mutex // guards the rest
	all  int
	from map[admission.Address]int
}

const streamsFull = "streams"

// retryStream is when a stream that was refused for want of room may be asked for again.
const retryStream = 5 * time.Second

func (s *streams) begin(from admission.Address, c LimitsConfig) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Streams > 0 && s.all >= c.Streams || c.StreamsPerAddress > 0 && s.from[from] >= c.StreamsPerAddress {
		return &admission.FullError{Reason: streamsFull, After: retryStream}
	}
	if s.from == nil {
		s.from = map[admission.Address]int{}
	}
	s.all++
	s.from[from]++
	return nil
}

func (s *streams) end(from admission.Address) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.from[from]--; s.from[from] == 0 {
		delete(s.from, from)
	}
}

// getRevocations streams what is revoked, for as long as the reader takes it. The id that it goes on from is that of the
// header, which a browser sends, too, when it connects again, or else that of the query.
func (s *Server) getRevocations(w http.ResponseWriter, r *http.Request) error {
	if s.c.Feed == nil {
		return refuse(unavailable, "no revocations are streamed here; poll the CRL")
	}
	q := parseQuery(r, "since")
	since := cmp.Or(r.Header.Get("Last-Event-ID"), q.text("since"))
	if q.err != nil {
		return q.err
	}
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", revocation.ContentType)
		return nil
	}
	c := callOf(r.Context())
	from := admission.AddressOf(c.remote)
	if err := s.streams[c.listener].begin(from, s.c.Limits.c); err != nil {
		return err
	}
	defer s.streams[c.listener].end(from)
	starting, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	l, err := s.c.Feed.Listen(starting, since)
	if err != nil {
		return err
	}
	defer l.Close()
	return stream(w, r, l)
}

// stream sends what a listener hears. A reader has requestTimeout to take each piece, and is cut if it does not; then it
// goes on from where it was.
func stream(w http.ResponseWriter, r *http.Request, l *feed.Listener) error {
	w.Header().Set("Content-Type", revocation.ContentType)
	w.Header().Set("X-Accel-Buffering", "no") // nginx would collect events until it has a page of them
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // nothing more is read but the end of the connection
	var buf []byte
	for {
		var err error
		if buf, err = l.Next(r.Context(), buf); err != nil {
			return nil //nolint:nilerr // the reader went away, or is to ask again: there is nothing to be said
		}
		for p := buf; len(p) > 0; {
			_ = rc.SetWriteDeadline(time.Now().Add(requestTimeout)) // a test's recorder has none
			n, err := w.Write(p[:min(len(p), streamStep)])          //nolint:gosec // it is JSON in a stream of events, never a page
			if err == nil {
				err = rc.Flush()
			}
			if err != nil {
				return nil //nolint:nilerr // as above
			}
			p = p[n:]
		}
	}
}

// streamStep is what a reader has to take within requestTimeout.
const streamStep = 64 << 10

// EndStreams ends all streams of revocations, so that a server that shuts down does not wait for them.
func (s *Server) EndStreams() {
	if s.c.Feed != nil {
		s.c.Feed.Close()
	}
}
