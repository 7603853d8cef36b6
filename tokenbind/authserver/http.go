package authserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

const (
	maxBody   = 64 << 10 // bounds a request's form in octets
	usualBody = 2 << 10  // what room is made for on the word of a Content-Length alone
)

// refusal is an error answer of RFC 6749 section 5.2. Any other error means that the server could not decide.
type refusal struct {
	status    int
	code      string
	text      string // what is wrong and what to do
	challenge string // WWW-Authenticate
	cause     error  // for the log alone
}

func (r *refusal) Error() string { return r.code + ": " + r.text }

func refused(status int, code, format string, args ...any) *refusal {
	return &refusal{status: status, code: code, text: fmt.Sprintf(format, args...)}
}

func invalidRequest(format string, args ...any) *refusal {
	return refused(http.StatusBadRequest, "invalid_request", format, args...)
}

func invalidClient(format string, args ...any) *refusal {
	return refused(http.StatusUnauthorized, "invalid_client", format, args...)
}

// failed is the one answer for all that is wrong with a client's credentials before it is known to be that
// client, so that nobody learns from it which clients there are and how they are registered. The cause is for
// the log alone. One answer tells more: 503 while a client's jwks_uri is down (anyKey), for the client's own sake.
func failed(format string, args ...any) *refusal {
	return invalidClient("client authentication failed: the client is unknown, or it is not registered with this method, secret, key or " +
		"certificate; the server's log has the reason").because(fmt.Errorf(format, args...))
}

// because notes for the log what the client is not told.
func (r *refusal) because(cause error) *refusal {
	r.cause = cause
	return r
}

// refuse answers with an error and logs it in one line, without secrets, tokens or assertions.
func (s *Server) refuse(w http.ResponseWriter, c *call, err error) {
	level := slog.LevelInfo
	var r *refusal
	var later interface{ RetryAfter() time.Duration }
	if !errors.As(err, &r) {
		level = slog.LevelError
		r = refused(http.StatusServiceUnavailable, "temporarily_unavailable", "the server cannot decide right now; try again").because(err)
	}
	if r.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	if errors.As(r.cause, &later) {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(later.RetryAfter().Seconds()))))
	}
	if s.c.Limits != nil && (r.code == "invalid_client" || r.code == "invalid_dpop_proof") {
		s.c.Limits.Failed(c.http.Context())
	}
	attrs := []slog.Attr{
		slog.String("endpoint", c.http.URL.Path), slog.String("error", r.code), slog.String("reason", r.text),
		slog.String("client_id", truncate(c.clientID, maxClientID)), slog.String("address", remoteAddress(c.http)),
		slog.String("request_id", audit.From(c.http.Context()).RequestID),
	}
	if c.cert != nil {
		attrs = append(attrs, slog.String("x5t#S256", c.x5t.String()))
	}
	if r.cause != nil {
		attrs = append(attrs, slog.String("cause", r.cause.Error()))
	}
	s.c.Logger.LogAttrs(c.http.Context(), level, "oauth request refused", attrs...)
	if r.challenge != "" {
		w.Header().Set("WWW-Authenticate", r.challenge)
	}
	writeError(w, r.status, oauthError{r.code, r.text, audit.From(c.http.Context()).RequestID})
}

// oauthError is the answer of RFC 6749 section 5.2, with the id that finds the refusal and its cause in the log.
type oauthError struct {
	Code        string `json:"error"`
	Description string `json:"error_description"`
	RequestID   string `json:"request_id,omitempty"`
}

func writeError(w http.ResponseWriter, status int, e oauthError) {
	e.Description = describable(e.Description)
	body, _ := json.Marshal(e) // strings always encode
	writeJSON(w, status, body)
}

// Unavailable answers a request that an endpoint does not get to see, such as one too many, as the endpoint itself
// would: scripts of any origin may read it.
func Unavailable(w http.ResponseWriter, status int, text string) {
	allowOrigins(w.Header())
	writeError(w, status, oauthError{Code: "temporarily_unavailable", Description: text})
}

// Malformed answers a request that an endpoint does not get to see because of what stands in its headers.
func Malformed(w http.ResponseWriter, r *http.Request, text string) {
	allowOrigins(w.Header())
	writeError(w, http.StatusBadRequest, oauthError{"invalid_request", text, audit.From(r.Context()).RequestID})
}

// describable keeps to the characters of an error_description (RFC 6749 section 5.2).
func describable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case r < 0x20 || r > 0x7e || r == '\\':
			return '?'
		}
		return r
	}, text)
}

func truncate(s string, n int) string { return s[:min(n, len(s))] }

func remoteAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// readForm returns a request's parameters. Each may come once only (RFC 6749 section 3.2), except resource
// (RFC 8707 section 2), and one without a value counts as absent.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST, OPTIONS")
		return nil, refused(http.StatusMethodNotAllowed, "invalid_request", "use POST")
	}
	if r.URL.RawQuery != "" {
		return nil, invalidRequest("send parameters in the body, never in the URL, which ends up in logs")
	}
	if !isForm(r.Header.Get("Content-Type")) {
		return nil, invalidRequest("send the parameters as application/x-www-form-urlencoded")
	}
	var body bytes.Buffer
	body.Grow(int(min(max(r.ContentLength, 0), usualBody)) + bytes.MinRead)
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, refused(http.StatusRequestEntityTooLarge, "invalid_request", "the body has more than %d octets", maxBody)
	}
	if err != nil {
		return nil, invalidRequest("the body could not be read to its end").because(err)
	}
	form, err := url.ParseQuery(body.String())
	if err != nil {
		return nil, invalidRequest("the body is malformed: percent-encode names and values").because(err)
	}
	for name, values := range form {
		if len(values) > 1 && name != "resource" {
			return nil, invalidRequest("parameter %q comes more than once", truncate(name, 64))
		}
		if len(values) == 1 && values[0] == "" {
			delete(form, name)
		}
	}
	return form, nil
}

func isForm(contentType string) bool {
	const form = "application/x-www-form-urlencoded"
	if contentType == form {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && media == form
}

// allowOrigins lets scripts of any origin read an answer: nothing here depends on cookies (RFC 9449
// sections 7.1 and 8).
func allowOrigins(h http.Header) {
	setHeaders(h, "Access-Control-Allow-Origin", "*", "Access-Control-Expose-Headers", "DPoP-Nonce, WWW-Authenticate")
}

// setHeaders sets headers, given as pairs of a name in its canonical form and a value, with one allocation for all.
func setHeaders(h http.Header, pairs ...string) {
	values := make([]string, len(pairs)/2)
	for i := range values {
		values[i] = pairs[2*i+1]
		h[pairs[2*i]] = values[i : i+1 : i+1]
	}
}

func preflight(w http.ResponseWriter) {
	w.Header().Set("Access-Control-Allow-Methods", "GET, POST")
	w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type, DPoP")
	w.Header().Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
}

// writeJSON answers with a JSON body, or with none.
func writeJSON(w http.ResponseWriter, status int, body []byte) {
	if len(body) > 0 {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that hung up is not our concern
}
