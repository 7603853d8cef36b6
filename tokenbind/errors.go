package tokenbind

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
)

// The error codes of an Error, beside CodeInvalidProof and CodeUseNonce (RFC 6750 section 3.1).
const (
	CodeInvalidRequest    = "invalid_request"
	CodeInvalidToken      = "invalid_token"
	CodeInsufficientScope = "insufficient_scope"

	codeUnavailable   = "temporarily_unavailable" // a check could not be made
	codeNoCredentials = "no_credentials"          // never sent: such an answer has no error (RFC 6750 section 3.1)
)

var statuses = map[string]int{
	CodeInvalidRequest:    http.StatusBadRequest,
	CodeInvalidToken:      http.StatusUnauthorized,
	CodeInvalidProof:      http.StatusUnauthorized,
	CodeUseNonce:          http.StatusUnauthorized,
	codeNoCredentials:     http.StatusUnauthorized,
	CodeInsufficientScope: http.StatusForbidden,
	codeUnavailable:       http.StatusServiceUnavailable,
}

// The authentication schemes (RFC 6750 section 2.1, RFC 9449 section 7.1).
const (
	schemeBearer = "Bearer"
	schemeDPoP   = "DPoP"
)

// Error reports a request that was refused. Verifier.Refuse turns it into an answer.
type Error struct {
	ID          string // names this refusal in the answer and in the log, where its explanation is
	Status      int    // HTTP status
	Code        string // OAuth error code; empty if the request had no credentials
	Scheme      string // the scheme of the request, Bearer or DPoP; empty if it had none, or two
	Description string // for the client's developer: printable ASCII, may be shown
	Check       string // the check that failed, such as "certificate"
	Section     string // where it is written
	Seen        string
	Wanted      string
	Hint        string // the likely cause, or what to do about it
	Nonce       string // to be sent as DPoP-Nonce, if set

	err error
}

func (e *Error) Error() string {
	if e.Code == "" {
		return e.Description
	}
	return e.Code + ": " + e.Description
}

func (e *Error) Unwrap() error { return e.err }

// newError is the error for a rule that failed.
func newError(f *failure, code, scheme string) *Error {
	if f.code != "" {
		code = f.code
	}
	e := &Error{
		ID:          newRefusalID(),
		Status:      statuses[code],
		Code:        code,
		Scheme:      scheme,
		Description: printable(f.Error()),
		Check:       f.name,
		Section:     f.section,
		Seen:        f.seen,
		Wanted:      f.wanted,
		Hint:        f.hint,
		err:         f.err,
	}
	if code == codeNoCredentials {
		e.Code = ""
	}
	return e
}

// newRefusalID draws an id that nobody can guess, so that a log is not searched for those of others.
func newRefusalID() string { return rand.Text() }

// printable keeps to the characters of an error_description (RFC 6750 section 3), so that what a client sent
// cannot end a quoted string or a line.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '"' || r == '\\':
			return '\''
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, s)
	const most = 600
	return s[:min(len(s), most)]
}

// Refuse answers a request that was refused with err: the status, the challenges of RFC 9449 section 7, a
// nonce, and a small JSON body. An err that is not an *Error is answered with 500 and its text is only logged.
func (v *Verifier) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{ID: newRefusalID(), Status: http.StatusInternalServerError, Code: "server_error", Description: "the request could not be checked"}
	}
	v.log(r, e, err)

	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/json")
	exposeHeaders(h)
	if e.Nonce != "" {
		h.Set("DPoP-Nonce", e.Nonce)
	}
	if e.Status < http.StatusInternalServerError {
		h.Add("WWW-Authenticate", v.challenge(schemeBearer, `realm="`+printable(v.conf.Audience)+`"`, e))
		if !v.conf.NoDPoP {
			h.Add("WWW-Authenticate", v.challenge(schemeDPoP, `algs="`+strings.Join(v.proofs.algorithms(), " ")+`"`, e))
		}
	} else {
		h.Set("Retry-After", "5")
	}
	body, _ := json.Marshal(struct { // strings: always encodable
		Error       string `json:"error,omitempty"`
		Description string `json:"error_description"`
		RefusalID   string `json:"refusal_id"`
	}{e.Code, e.Description, e.ID})
	w.WriteHeader(e.Status)
	w.Write(append(body, '\n'))
}

// challenge builds one challenge. The error stands on the one that matches the request's scheme, or on both
// if the request was malformed (RFC 9449 section 7.2). Beside it stands the refusal's id: a proxy that asks here on a
// client's behalf hands on challenges and no bodies, and clients ignore parameters that they do not know (section 7.1).
func (v *Verifier) challenge(scheme, params string, e *Error) string {
	c := scheme + " " + params
	if another := e.Scheme != "" && e.Scheme != scheme && !v.conf.NoDPoP; e.Code == "" || another {
		return c
	}
	c += `, error="` + e.Code + `", error_description="` + e.Description + `", refusal_id="` + e.ID + `"`
	if e.Code == CodeInsufficientScope {
		c += `, scope="` + printable(strings.Join(v.conf.RequiredScopes, " ")) + `"`
	}
	return c
}

// exposeHeaders lets a script in a browser read what it needs to try again (RFC 9449 sections 7.1 and 8).
func exposeHeaders(h http.Header) {
	h.Add("Access-Control-Expose-Headers", "WWW-Authenticate, DPoP-Nonce")
}

const maxLogged = 256 // octets of a path

func (v *Verifier) log(r *http.Request, e *Error, err error) {
	level, attrs := slog.LevelInfo, []any{
		"refusal_id", e.ID, "method", r.Method, "path", r.URL.Path[:min(len(r.URL.Path), maxLogged)], "status", e.Status, "error", e.Code,
		"check", e.Check, "section", e.Section, "seen", printable(e.Seen), "wanted", printable(e.Wanted), "hint", printable(e.Hint),
	}
	if e.Status >= http.StatusInternalServerError {
		level, attrs = slog.LevelError, append(attrs, "cause", err)
		if e.err != nil {
			attrs = append(attrs, "detail", e.err)
		}
	}
	v.conf.Logger.Log(r.Context(), level, "request refused", attrs...)
}
