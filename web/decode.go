package web

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/thumbprint"
)

// decode reads a JSON body of one value, whose members T must all know. A misspelt member would otherwise
// mean its default, such as a scope list that limits nothing.
func decode[T any](r *http.Request) (T, error) {
	var v T
	kind, err := mediaType(r)
	if err != nil {
		return v, err
	}
	if kind != "application/json" && (r.Method != http.MethodPatch || kind != "application/merge-patch+json") {
		return v, refuse(badMediaType, "send application/json, not %q", kind)
	}
	return unmarshal[T](r.Body)
}

func unmarshal[T any](body io.Reader) (T, error) {
	var v T
	text, err := io.ReadAll(body)
	if err != nil {
		return v, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, jsonError(err)
	}
	if len(bytes.Trim(text[d.InputOffset():], " \t\r\n")) > 0 {
		return v, refuse(badRequest, "the body has something after its JSON value")
	}
	return v, checkMembers(text, membersOf(reflect.TypeFor[T]()))
}

// checkMembers refuses what encoding/json lets pass: a member that is given twice, of which the last one
// counts, and one that is known but for its case. Whoever looked at the body before may have read another value.
// The text is one JSON value.
func checkMembers(text []byte, known []string) error {
	if !bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("{")) {
		return refuse(badRequest, "the body is not a JSON object")
	}
	var seen uint64 // bit by bit, which of known
	for name := range memberNames(text) {
		switch i := slices.Index(known, name); {
		case i < 0:
			return refuse(badRequest, "the body is not the JSON that this path takes: unknown field %q", name)
		case seen>>i&1 == 1:
			return refuse(badRequest, "the body has %q twice", name)
		default:
			seen |= 1 << i
		}
	}
	return nil
}

// memberNames yields the names of a JSON object's members, but not of those within them. The text is valid JSON.
func memberNames(text []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		depth, next := 0, false // whether a string that comes now is a member's name
		for i := 0; i < len(text); i++ {
			switch text[i] {
			case '{', '[':
				depth++
				next = true
			case '}', ']':
				depth--
			case ',':
				next = true
			case '"':
				start := i
				for i++; text[i] != '"'; i++ {
					if text[i] == '\\' {
						i++
					}
				}
				if next && depth == 1 && !yield(unquote(text[start:i+1])) {
					return
				}
				next = false
			}
		}
	}
}

// unquote returns what a JSON string says.
func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	_ = json.Unmarshal(quoted, &s) // it is a JSON string
	return s
}

// members are the names of the members of each type that a body is decoded into, by reflect.Type.
var members sync.Map

func membersOf(t reflect.Type) []string {
	if names, ok := members.Load(t); ok {
		return names.([]string)
	}
	var names []string
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	members.Store(t, names)
	return names
}

// decodeOptional is decode for a body that may be absent, which means the zero T.
func decodeOptional[T any](r *http.Request) (T, error) {
	var v T
	if empty, err := emptyBody(r); empty || err != nil {
		return v, err
	}
	return decode[T](r)
}

// emptyBody reports whether r has no body. One that comes in chunks shows only when it is read; what was read
// is put back.
func emptyBody(r *http.Request) (bool, error) {
	if r.ContentLength >= 0 {
		return r.ContentLength == 0, nil
	}
	body := bufio.NewReader(r.Body)
	_, err := body.Peek(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{body, r.Body}
	return false, err
}

func jsonError(err error) error {
	if errors.Is(err, io.EOF) {
		return refuse(badRequest, "the body is empty; send JSON")
	}
	return refuse(badRequest, "the body is not the JSON that this path takes: %s", strings.TrimPrefix(err.Error(), "json: "))
}

// mediaType returns the type of a body, without its parameters.
func mediaType(r *http.Request) (string, error) {
	values := r.Header.Values("Content-Type")
	if len(values) != 1 {
		return "", refuse(badMediaType, "send one Content-Type, got %d", len(values))
	}
	switch values[0] {
	case "application/json", "application/pkcs10": // nothing to parse
		return values[0], nil
	}
	kind, _, err := mime.ParseMediaType(values[0])
	if err != nil {
		return "", refuse(badMediaType, "Content-Type %q: %v", values[0], err)
	}
	return kind, nil
}

// accepts picks the first offer that the request's Accept header names, or the default, which is answered
// too where nothing offered was asked for (RFC 9110 section 12.5.1 allows it). Weights other than 0 are not
// weighed: what comes first counts.
func accepts(r *http.Request, otherwise string, offers ...string) string {
	if len(r.Header["Accept"]) == 0 {
		return otherwise
	}
	for field := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		kind, params, err := mime.ParseMediaType(field)
		if err != nil || params["q"] == "0" {
			continue
		}
		if kind == otherwise || slices.Contains(offers, kind) {
			return kind
		}
	}
	return otherwise
}

// pathVariable reads a part of the path. Routes are matched on the path as sent, so that a client's id may
// hold a slash; what the path escapes is undone here.
func pathVariable(r *http.Request, name string) (string, error) {
	text, err := url.PathUnescape(callOf(r.Context()).vars[name])
	if err != nil {
		return "", refuse(badPath, "the path is not well escaped")
	}
	return text, nil
}

// query reads a request's parameters. The first mistake sticks and is returned by close.
type query struct {
	values url.Values
	err    error
}

// parseQuery refuses parameters that are not known, since a misspelt filter would select everything, and
// those that are given twice.
func parseQuery(r *http.Request, known ...string) *query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return &query{err: refuse(badRequest, "malformed query")}
	}
	q := &query{values: values}
	for name, v := range values {
		if !slices.Contains(known, name) {
			q.fail("unknown parameter %q; known: %s", name, strings.Join(known, ", "))
		}
		if len(v) > 1 {
			q.fail("parameter %q is given %d times", name, len(v))
		}
	}
	return q
}

func (q *query) fail(format string, args ...any) {
	if q.err == nil {
		q.err = refuse(badRequest, format, args...)
	}
}

func (q *query) text(name string) string { return q.values.Get(name) }

func (q *query) oneOf(name string, allowed ...string) string {
	v := q.text(name)
	if v != "" && !slices.Contains(allowed, v) {
		q.fail("%s is one of %s, not %q", name, strings.Join(allowed, ", "), v)
	}
	return v
}

func (q *query) number(name string, otherwise, most uint64) uint64 {
	if !q.values.Has(name) {
		return otherwise
	}
	n, err := strconv.ParseUint(q.text(name), 10, 64)
	if err != nil || n > most {
		q.fail("%s is a number up to %d, not %q", name, most, q.text(name))
	}
	return n
}

// limit reads how much a page shall hold.
func (q *query) limit() int {
	n := q.number("limit", defaultPage, maxPage)
	if n == 0 {
		q.fail("limit is at least 1")
	}
	return int(n)
}

const (
	defaultPage = 100
	maxPage     = 1000
)

// time reads an instant. The zero time, which stands for none, and others from before there were certificates
// are refused.
func (q *query) time(name string) time.Time {
	if q.text(name) == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, q.text(name))
	if err != nil || t.Unix() < 0 {
		q.fail("%s is a time since 1970 such as 2026-01-31T12:00:00Z (RFC 3339), not %q", name, q.text(name))
	}
	return t
}

func (q *query) thumbprint(name string) thumbprint.Cert {
	if q.text(name) == "" {
		return thumbprint.Cert{}
	}
	t, err := thumbprint.ParseCert(q.text(name))
	if err != nil {
		q.fail("%s: %v", name, err)
	}
	return t
}

// filters are the parameters that certificates reads.
var filters = []string{"client", "name", "thumbprint", "status", "profile", "expires_before", "expires_after", "cursor"}

// certificates reads what selects certificates.
func (q *query) certificates() ca.Query {
	return ca.Query{
		ClientID:      q.text("client"),
		Name:          q.text("name"),
		Thumbprint:    q.thumbprint("thumbprint"),
		Status:        ca.Status(q.oneOf("status", string(ca.Active), string(ca.Held), string(ca.Revoked), string(ca.Expired))),
		Profile:       q.text("profile"),
		ExpiresBefore: q.time("expires_before"),
		ExpiresAfter:  q.time("expires_after"),
		Cursor:        q.text("cursor"),
	}
}
