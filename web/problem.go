package web

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/admission"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/feed"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/rollover"
	"github.com/pkid/pkid/tokenbind"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// outcome is how an error looks from outside. Kind is the word after "urn:pkid:problem:" and never changes.
type outcome struct {
	status int
	kind   string
	title  string
}

// problems maps the errors of the packages behind the handlers to answers; the first line that matches
// counts. A test finds exported errors that it lacks. From status 500 up, the error's text stays in the log.
var problems = []struct {
	matches func(error) bool
	outcome
}{
	{as[*admission.FullError], outcome{http.StatusServiceUnavailable, "overloaded", "There are too many requests right now; try again after the time in Retry-After"}},
	{as[*limitedError], outcome{http.StatusTooManyRequests, "too-many-requests", "Too many requests"}},
	{as[*ca.LineageError], outcome{http.StatusServiceUnavailable, "lineage-not-revoked", "The certificate is revoked, the rest of its lineage may not be; revoke it again with its lineage"}},
	{uncertain, outcome{http.StatusServiceUnavailable, "outcome-unknown", "Whether this took effect cannot be known right now; look at what became of it before you try again"}},
	{as[*ca.SpentError], outcome{http.StatusConflict, "invitation-used", "The invitation was used before"}},
	{as[*ca.AlreadyRevokedError], outcome{http.StatusConflict, "already-revoked", "The certificate is revoked already"}},
	{is(ca.ErrCSR), outcome{http.StatusBadRequest, "bad-csr", "Bad certificate request"}},
	{is(ca.ErrSerial), outcome{http.StatusBadRequest, "bad-serial", "Bad serial number"}},
	{is(ca.ErrCursor), outcome{http.StatusBadRequest, "bad-cursor", "Unknown cursor"}},
	{is(ca.ErrKey), outcome{http.StatusUnprocessableEntity, "key-not-allowed", "Key not allowed"}},
	{is(ca.ErrNames), outcome{http.StatusUnprocessableEntity, "names-not-allowed", "Names not allowed"}},
	{is(ca.ErrLifetime), outcome{http.StatusUnprocessableEntity, "lifetime-not-allowed", "Lifetime not allowed"}},
	{is(ca.ErrProfile), outcome{http.StatusUnprocessableEntity, "no-profile", "No such profile"}},
	{is(ca.ErrNotActive), outcome{http.StatusForbidden, "certificate-not-active", "The certificate is not active"}},
	{is(ca.ErrReason), outcome{http.StatusConflict, "reason-not-allowed", "Reason not allowed"}},
	{is(ca.ErrIssuer), outcome{http.StatusConflict, "other-issuer", "The certificate is of another issuing CA"}},
	{is(ca.ErrNotFound), outcome{http.StatusNotFound, "no-certificate", "No such certificate"}},
	{is(ca.ErrClock), outcome{http.StatusServiceUnavailable, "clock", "The CA's clock is wrong; an operator must set it right"}},
	{is(ca.ErrSignerAway), outcome{http.StatusServiceUnavailable, "signer-away", "The issuing key does not answer; try again"}},
	{is(ca.ErrRecorded), outcome{http.StatusConflict, "certificate-recorded", "The certificate is recorded already"}},
	{is(ca.ErrDuplicate), internal},
	{is(ca.ErrMismatch), internal},

	{is(enroll.ErrInvitation), outcome{http.StatusUnauthorized, "invitation-not-valid", "Invitation not valid"}},
	{is(enroll.ErrRequest), outcome{http.StatusBadRequest, "bad-invitation", "Bad invitation request"}},
	{is(enroll.ErrNoCertificate), certificateNeeded},
	{is(tokenbind.ErrUnavailable), unavailable},
	{is(enroll.ErrOwnKey), outcome{http.StatusBadRequest, "own-key-needed", "A certificate request with the certificate's own key is needed"}},
	{is(client.ErrEnrolmentToken), outcome{http.StatusUnauthorized, "bad-enrolment-token", "Bad enrolment token"}},

	{is(authserver.ErrDisabled), outcome{http.StatusForbidden, "client-disabled", "The client is disabled"}},
	{is(authserver.ErrNoClient), outcome{http.StatusNotFound, "no-client", "No such client"}},
	{is(authserver.ErrConflict), outcome{http.StatusConflict, "client-conflict", "The client exists already, or changed meanwhile"}},
	{is(authserver.ErrClientMetadata), outcome{http.StatusUnprocessableEntity, "bad-client", "Bad client record"}},
	{is(authserver.ErrNoCertificate), outcome{http.StatusNotFound, "no-certificate", "No such certificate"}},

	{is(audit.ErrNoEntry), outcome{http.StatusConflict, "no-audit-entry", "The audit log has no such entry, or it was not exported yet"}},
	{is(rollover.ErrRefused), outcome{http.StatusUnprocessableEntity, "key-refused", "That key or certificate cannot be used"}},
	{is(rollover.ErrState), outcome{http.StatusConflict, "key-state", "That cannot be done with the key now"}},
	{is(keyring.ErrNotFound), outcome{http.StatusNotFound, "no-key", "No such key"}},
	{is(keyring.ErrConflict), outcome{http.StatusConflict, "key-changed", "The key was changed in between; read it again"}},

	{is(feed.ErrPosition), badRequest},
	{is(feed.ErrClosed), outcome{http.StatusServiceUnavailable, "stopping", "The server stops; try again"}},

	{is(crl.ErrNotPublished), outcome{http.StatusNotFound, "no-crl", "No such CRL"}},

	{is(syscall.ENOSPC), diskFull},
	{is(syscall.EDQUOT), diskFull},
	{as[retryable], unavailable},
	{as[*http.MaxBytesError], outcome{http.StatusRequestEntityTooLarge, "too-large", "The request is too large"}},
	{is(context.DeadlineExceeded), outcome{http.StatusServiceUnavailable, "timeout", "The answer took too long; try again"}},
	{is(context.Canceled), outcome{http.StatusServiceUnavailable, "stopped", "The request was ended before its answer; try again"}},
}

// retryable is an error of something that cannot do its part for now, and says when to try again: a database that is
// away, a queue that is full.
type retryable interface {
	error
	RetryAfter() time.Duration
}

// uncertain reports whether an act whose error this is may have taken effect all the same.
func uncertain(err error) bool {
	e, ok := errors.AsType[interface {
		error
		OutcomeUnknown() bool
	}](err)
	return ok && e.OutcomeUnknown()
}

// retryAfter is what a 503 or 429 says in Retry-After, in whole seconds; one where the error does not know.
func retryAfter(err error) string {
	wait := time.Second
	if e, ok := errors.AsType[retryable](err); ok {
		wait = max(wait, e.RetryAfter())
	}
	return strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)
}

// The outcomes that this package itself decides on.
var (
	unavailable       = outcome{http.StatusServiceUnavailable, "unavailable", "This cannot be done right now; try again after the time in Retry-After"}
	diskFull          = outcome{http.StatusInsufficientStorage, "disk-full", "The CA's disk is full, and nothing was changed; make room on it and try again"}
	internal          = outcome{http.StatusInternalServerError, "internal", "Internal error; the log has it under this request id"}
	badRequest        = outcome{http.StatusBadRequest, "bad-request", "Bad request"}
	badPath           = outcome{http.StatusBadRequest, "bad-path", "Bad path"}
	badMediaType      = outcome{http.StatusUnsupportedMediaType, "bad-media-type", "Unsupported media type"}
	noRoute           = outcome{http.StatusNotFound, "no-route", "Nothing is here"}
	methodNotAllowed  = outcome{http.StatusMethodNotAllowed, "method-not-allowed", "Method not allowed"}
	tokenNeeded       = outcome{http.StatusUnauthorized, "enrolment-token-needed", "An enrolment token is needed"}
	certificateNeeded = outcome{http.StatusUnauthorized, "certificate-needed", "A client certificate is needed"}
	certificateBad    = outcome{http.StatusUnauthorized, "certificate-not-accepted", "Client certificate not accepted"}
	operatorNeeded    = outcome{http.StatusForbidden, "operator-needed", "This is for operators"}
	forwarded         = outcome{http.StatusBadRequest, "forwarded-certificate", "Forwarded client certificate refused"}
	crossOrigin       = outcome{http.StatusForbidden, "cross-origin", "Request from another site refused"}
)

// errNoRoute: the path is none of this listener's.
var errNoRoute = refuse(noRoute, "no such path on this listener; GET /v1/openapi.json on the public one lists the API")

// refusal is an error of this package: an outcome, and what is wrong and what to do.
type refusal struct {
	outcome
	detail string
}

func (r *refusal) Error() string { return r.detail }

func refuse(o outcome, format string, args ...any) error {
	return &refusal{o, fmt.Sprintf(format, args...)}
}

// methodError is a refusal that names the methods which would do.
type methodError struct{ allow []string }

func (e *methodError) Error() string {
	return "this path takes " + strings.Join(e.allow, ", ")
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func as[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// outcomeOf looks an error up. What nobody foresaw is internal.
func outcomeOf(err error) outcome {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.outcome
	}
	if as[*methodError](err) {
		return methodNotAllowed
	}
	for _, p := range problems {
		if p.matches(err) {
			return p.outcome
		}
	}
	return internal
}

// problem describes err to the requester.
func problem(err error, requestID string) *client.Problem {
	o := outcomeOf(err)
	p := &client.Problem{Type: "urn:pkid:problem:" + o.kind, Title: o.title, Status: o.status, RequestID: requestID}
	if o.status < http.StatusInternalServerError {
		p.Detail = err.Error()
	}
	return p
}

// fail answers with err, as a problem document (RFC 9457) or, on a page, as HTML. After the first octet of
// an answer it can only cut the connection, so that nobody takes a part for the whole.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	c := callOf(r.Context())
	p := problem(err, c.id)
	c.tooMuch = tooMuch(err)
	if c.tooMuch == "" && p.Status >= http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
		s.log.ErrorContext(r.Context(), "request failed", "request_id", c.id, "route", c.route.Name, "error", err)
	}
	if c.w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	for _, name := range []string{"Content-Disposition", "Content-Encoding", "Content-Length", "ETag", "Last-Modified", "Location"} {
		h.Del(name)
	}
	if m, ok := errors.AsType[*methodError](err); ok {
		h.Set("Allow", strings.Join(m.allow, ", "))
	}
	if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
		h.Set("Retry-After", retryAfter(err))
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", challenge(c.route.Access))
	}
	if c.tooMuch != "" && c.route.Access == OAuthClient { // its clients read RFC 6749
		authserver.Unavailable(w, p.Status, cmp.Or(p.Detail, p.Title))
		return
	}
	if c.forwarded != nil && c.route.Access == OAuthClient {
		if p.Status == http.StatusBadRequest {
			authserver.Malformed(w, r, p.Detail)
		} else {
			authserver.Unavailable(w, p.Status, cmp.Or(p.Detail, p.Title))
		}
		return
	}
	if c.page() {
		s.errorPage(w, r, p)
		return
	}
	body, _ := json.Marshal(p) // strings and a number: always encodable
	send(w, p.Status, "application/problem+json", append(body, '\n'))
}

// challenge is what RFC 9110 section 15.5.2 wants beside a 401. TLS client authentication has no registered
// scheme, so its name is our own; the text of the problem is what helps.
func challenge(a Access) string {
	return cmp.Or(map[Access]string{EnrolmentToken: `Bearer realm="pkid enrolment"`}[a], `TLS-Client-Certificate realm="pkid"`)
}
