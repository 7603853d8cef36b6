package forwardauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/pkid/pkid/tokenbind"
)

var errNoServer = errors.New("no such resource server is configured here")

// maxScopes bounds what one sub-request may demand.
const maxScopes = 32

// subrequest is what the URL of a sub-request says, which is the proxy's configuration and not the client's choice.
type subrequest struct {
	server     *server
	scopes     []string      // to be demanded beside the server's own
	badRequest int           // what to answer instead of 400
	sub        *http.Request // for the Receiver
}

func (q *subrequest) verifier() *tokenbind.Verifier {
	if len(q.scopes) == 0 {
		return q.server.verifier
	}
	return q.server.verifier.Requiring(slices.Concat(q.server.scopes, q.scopes)...)
}

// read takes a sub-request apart. There are two forms:
//
//	/v1/verify[/NAME]?audience=A&scope=S   headers tell of the client's request
//	/v1/verify/NAME/the/client's/path?and=query   with the client's method, as Envoy asks
//
// In the second form the query is the client's, and must not say anything here: the client would choose by which rules
// it is judged. In the first a client's query can get in only by a mistake, and then can do no more than add demands.
func (h *Handler) read(r *http.Request) (*subrequest, error) {
	path := r.URL.EscapedPath()
	rest, ok := strings.CutPrefix(path, h.c.Prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return nil, fmt.Errorf("%w: the path is %s", errNoServer, path)
	}
	name, _, within := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	if within {
		s, err := h.choose(name, true, "")
		if err != nil {
			return nil, err
		}
		sub, err := carried(r, rest[1+len(name):])
		return &subrequest{server: s, sub: sub}, err
	}
	q := &subrequest{sub: r}
	return q, h.readQuery(q, name, rest != "", r.URL.RawQuery)
}

func (h *Handler) readQuery(q *subrequest, name string, named bool, raw string) error {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return fmt.Errorf("the query cannot be read: %w", err)
	}
	for key, values := range query {
		switch {
		case key == "scope":
			q.scopes, err = scopes(values)
		case len(values) > 1:
			err = fmt.Errorf("%s is there more than once", key)
		case key == "bad_request" && values[0] == "401":
			q.badRequest = http.StatusUnauthorized
		case key == "bad_request":
			err = errors.New("bad_request: want 401")
		case key != "audience":
			err = errors.New("only audience, scope and bad_request may stand in the query; the client's own does not belong there")
		}
		if err != nil {
			return err
		}
	}
	q.server, err = h.choose(name, named, query.Get("audience"))
	return err
}

// choose finds the resource server by its name, its audience, or as the only one.
func (h *Handler) choose(name string, named bool, audience string) (*server, error) {
	if len(h.byAudience) == 0 {
		return nil, fmt.Errorf("%w: none is at all", errNoServer)
	}
	if named {
		s := h.byName[name]
		if s == nil {
			return nil, fmt.Errorf("%w: name %q", errNoServer, name)
		}
		if audience != "" && h.byAudience[audience] != s {
			return nil, fmt.Errorf("%w: %q has another audience", errNoServer, name)
		}
		return s, nil
	}
	if s := h.byAudience[audience]; s != nil {
		return s, nil
	}
	if audience != "" {
		return nil, fmt.Errorf("%w: audience %q", errNoServer, audience)
	}
	if len(h.byAudience) > 1 {
		return nil, errors.New("there are several resource servers here: say which with ?audience= or with its name in the path")
	}
	for _, s := range h.byAudience {
		return s, nil
	}
	return nil, errNoServer
}

// scopes reads repeated and space-separated ones (RFC 6749 section 3.3).
func scopes(values []string) ([]string, error) {
	var all []string
	for _, v := range values {
		all = append(all, strings.Fields(v)...)
	}
	if len(all) > maxScopes {
		return nil, fmt.Errorf("%d scopes, at most %d are taken", len(all), maxScopes)
	}
	for _, s := range all {
		if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			return nil, fmt.Errorf("scope %q: no such scope can be in a token", s)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// carried takes the prefix off a sub-request that otherwise is the client's request, and tells it in the headers that a
// Receiver knows too. What they said of method and path came through from the client, and is dropped.
func carried(r *http.Request, original string) (*http.Request, error) {
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		original += "?" + r.URL.RawQuery
	}
	u, err := url.ParseRequestURI(original)
	if err != nil {
		return nil, errors.New("the client's path cannot be read") // nor is it shown: its query may hold anything
	}
	sub := r.Clone(r.Context())
	sub.URL, sub.RequestURI = u, original
	for _, name := range []string{"X-Original-Method", "X-Original-Uri", "X-Original-Url", "X-Forwarded-Prefix"} {
		sub.Header.Del(name)
	}
	sub.Header.Set("X-Forwarded-Method", r.Method)
	sub.Header.Set("X-Forwarded-Uri", original)
	return sub, nil
}
