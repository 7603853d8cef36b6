// Package forwardauth answers the sub-requests by which a reverse proxy asks whether a client's request may pass: nginx
// auth_request, Traefik ForwardAuth, Caddy forward_auth, HAProxy, and the HTTP form of Envoy's ext_authz.
//
// The answer is 200 with headers that say who the client is, or the refusal that the client is to get, challenges and
// DPoP nonce included. Proofs are held against the client's request, not against the sub-request, and only proxies that
// are trusted are told anything of a token (RFC 9449 section 4.3, RFC 8705 section 6.5).
package forwardauth

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/pkid/pkid/tokenbind"
)

// DefaultPrefix is the path that sub-requests are sent to.
const DefaultPrefix = "/v1/verify"

// Receiver turns a sub-request into the client's request, or says why it will not; *tokenbind.Proxies is one. Whatever
// its error is, nobody may pass.
type Receiver interface {
	ReceiveCheck(r *http.Request) (*http.Request, error)
}

// Server is one resource server that proxies ask for.
type Server struct {
	// Name is what the path of a sub-request calls it by: /v1/verify/NAME. Empty: it is chosen by its audience alone.
	Name string
	// Config is how its requests are judged. RequiredScopes are demanded whatever the sub-request says. Proxies is not
	// for here: the Handler has dealt with them before.
	tokenbind.Config
}

// Config sets up a Handler.
type Config struct {
	Prefix  string   // DefaultPrefix if empty
	Proxies Receiver // who may ask; required
	Servers []Server // by names and audiences that differ; none: every sub-request is answered with 404
	// Replay is for those Servers that have none of their own. All should share one: a proof that was used at one of them
	// is then used up at all. Nil: one in memory.
	Replay tokenbind.Replay
	// Observe, if set, hears of every answer. It must not block.
	Observe func(*http.Request, Outcome)
	Logger  *slog.Logger // nil: slog.Default()
}

// Outcome is what came of a sub-request.
type Outcome struct {
	Server   string            // name of the resource server, or its audience; empty if none was found
	Status   int               // of the answer
	Original *http.Request     // of the client; nil if the sub-request was not believed
	Claims   *tokenbind.Claims // of who may pass; nil if refused
	Err      error             // why it was refused
	Took     time.Duration
}

// Handler answers sub-requests of any method. It is safe for concurrent use.
type Handler struct {
	c          Config
	byName     map[string]*server
	byAudience map[string]*server
}

type server struct {
	label    string
	scopes   []string
	verifier *tokenbind.Verifier
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// New checks the configuration. It does no I/O.
func New(c Config) (*Handler, error) {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if c.Proxies == nil {
		return nil, errors.New("forwardauth: Proxies are required")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Replay == nil {
		c.Replay = tokenbind.NewMemoryReplay(maxProofs, nil)
	}
	h := &Handler{c: c, byName: map[string]*server{}, byAudience: map[string]*server{}}
	for _, s := range c.Servers {
		if err := h.add(s); err != nil {
			return nil, fmt.Errorf("forwardauth: resource server %q: %w", s.Audience, err)
		}
	}
	return h, nil
}

// For returns a Handler for the same resource servers that gets to know the clients' requests in another way. It shares
// everything else, proofs that were used included.
func (h *Handler) For(p Receiver) *Handler {
	other := *h
	other.c.Proxies = p
	return &other
}

// Prefix is the path that sub-requests are sent to.
func (h *Handler) Prefix() string { return h.c.Prefix }

const maxProofs = 1 << 20

func (h *Handler) add(s Server) error {
	if s.Config.Proxies != nil {
		return errors.New("Proxies are the Handler's")
	}
	if s.Replay == nil {
		s.Replay = h.c.Replay
	}
	verifier, err := tokenbind.NewVerifier(s.Config)
	if err != nil {
		return err
	}
	known := &server{s.Audience, s.RequiredScopes, verifier}
	if s.Name != "" {
		if !nameForm.MatchString(s.Name) {
			return fmt.Errorf("name %q: want lower-case letters, digits and hyphens, 63 at most", s.Name)
		}
		if h.byName[s.Name] != nil {
			return fmt.Errorf("name %q is there twice", s.Name)
		}
		known.label, h.byName[s.Name] = s.Name, known
	}
	if h.byAudience[s.Audience] != nil {
		return errors.New("this audience is there twice")
	}
	h.byAudience[s.Audience] = known
	return nil
}

// ServeHTTP answers one sub-request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began, answer := time.Now(), &recorder{ResponseWriter: w}
	o := h.answer(answer, r)
	if h.c.Observe != nil {
		o.Status, o.Took = answer.status, time.Since(began)
		h.c.Observe(r, o)
	}
}

func (h *Handler) answer(w *recorder, r *http.Request) (o Outcome) {
	q, err := h.read(r)
	if err != nil {
		h.misdirected(w, r, err)
		return Outcome{Err: err}
	}
	o.Server, w.badRequest = q.server.label, q.badRequest
	if o.Original, err = h.c.Proxies.ReceiveCheck(q.sub); err != nil {
		o.Err = notBelieved(err)
		q.verifier().Refuse(w, r, o.Err)
		return o
	}
	if o.Claims, o.Err = q.verifier().Admit(w, o.Original); o.Err != nil {
		return o
	}
	identity, err := identify(o.Claims)
	if err != nil {
		o.Claims, o.Err = nil, err
		q.verifier().Refuse(w, o.Original, err)
		return o
	}
	for _, f := range identity {
		w.Header()[f.name] = []string{f.value}
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return o
}

// notBelieved is the refusal of a sub-request that does not come from a trusted proxy, or contradicts itself, or of which
// that cannot be told.
func notBelieved(err error) *tokenbind.Error {
	if errors.Is(err, tokenbind.ErrUnavailable) {
		return &tokenbind.Error{
			ID: rand.Text(), Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable", Check: "forwarded request",
			Section: "RFC 9440 4", Description: "whether a trusted proxy asks cannot be told at the moment", Seen: plain(err.Error()),
		}
	}
	return &tokenbind.Error{
		ID: rand.Text(), Status: http.StatusBadRequest, Code: tokenbind.CodeInvalidRequest, Check: "forwarded request",
		Section: "RFC 9440 4", Description: plain(err.Error()), Seen: err.Error(), Wanted: "the client's request, from a trusted proxy",
	}
}

// plain keeps to the characters of an error_description (RFC 6750 section 3).
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '\''
		}
		return r
	}, s[:min(len(s), 300)])
}

// misdirected answers a sub-request that the proxy's configuration gets wrong. No client can mend that, so it is not
// told to try otherwise.
func (h *Handler) misdirected(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusBadRequest
	if errors.Is(err, errNoServer) {
		status = http.StatusNotFound
	}
	h.c.Logger.WarnContext(r.Context(), "sub-request refused: the proxy's configuration is wrong", "remote", r.RemoteAddr, "status", status, "cause", err)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	body, _ := json.Marshal(map[string]string{"error": tokenbind.CodeInvalidRequest, "error_description": plain(err.Error())}) // strings: always encodable
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // to a proxy that is gone, or to one that gets it
}

// recorder notes the status, and is where 400 becomes what the proxy understands.
type recorder struct {
	http.ResponseWriter
	status     int
	badRequest int // in place of 400, if not zero
}

func (w *recorder) WriteHeader(status int) {
	if status == http.StatusBadRequest && w.badRequest != 0 {
		status = w.badRequest
	}
	// Proxies hand on one line of challenges, nginx before 1.23 the first; as a list they all fit in it (RFC 9110
	// section 11.6.1).
	if challenges := w.Header()["Www-Authenticate"]; len(challenges) > 1 {
		w.Header().Set("WWW-Authenticate", strings.Join(challenges, ", "))
	}
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
