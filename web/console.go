package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"fmt"
	"html/template"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/pkid/pkid/client"
)

// The console is HTML alone: it works without JavaScript, loads nothing from elsewhere, and shows what the
// REST API shows, to the same operators.
//
//go:embed console
var consoleFiles embed.FS

//go:embed openapi.json
var openAPI []byte

// consolePolicy allows the style sheet and the icon of this server, forms back to it, and nothing else.
const consolePolicy = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

var pageNames = []string{"welcome", "overview", "certificates", "certificate", "clients", "audit", "error"}

// parsePages parses one set of templates per page, so that no page's definitions leak into another's.
func parsePages() (map[string]*template.Template, error) {
	funcs := template.FuncMap{"stamp": stamp, "relative": relative, "escape": url.PathEscape}
	layout, err := template.New("layout.html").Funcs(funcs).ParseFS(consoleFiles, "console/layout.html")
	if err != nil {
		return nil, fmt.Errorf("parsing layout: %w", err)
	}
	pages := map[string]*template.Template{}
	for _, name := range pageNames {
		set, err := layout.Clone()
		if err != nil {
			return nil, fmt.Errorf("parsing page %s: %w", name, err)
		}
		if pages[name], err = set.ParseFS(consoleFiles, "console/"+name+".html"); err != nil {
			return nil, fmt.Errorf("parsing page %s: %w", name, err)
		}
	}
	return pages, nil
}

// view is what every page gets.
type view struct {
	Page     string // its name, for the menu
	Title    string
	CA       string
	Operator string // empty: nobody who may use the menu
	Now      time.Time
	Data     any
}

// render fills a page in memory first: a template that fails must not leave half a page behind.
func (s *Server) render(w http.ResponseWriter, r *http.Request, status int, page, title string, data any) error {
	var body bytes.Buffer
	v := view{Page: page, Title: title, CA: s.c.Name, Now: s.now(), Data: data}
	if c := callOf(r.Context()); c.operator {
		v.Operator = c.client
	}
	if err := s.pages[page].Execute(&body, v); err != nil {
		return fmt.Errorf("rendering page %s: %w", page, err)
	}
	w.Header().Set("Content-Security-Policy", consolePolicy)
	send(w, status, "text/html; charset=utf-8", body.Bytes())
	return nil
}

// errorPage is a problem document for people.
func (s *Server) errorPage(w http.ResponseWriter, r *http.Request, p *client.Problem) {
	data := struct {
		*client.Problem
		MTLS   string
		Import bool // tell how a browser gets the operator's certificate
		Text   string
		Back   link
	}{p, s.c.URLs.MTLS, p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden, sentence(p), s.back(r)}
	if err := s.render(w, r, p.Status, "error", p.Title, data); err != nil {
		s.log.ErrorContext(r.Context(), "request failed", "request_id", p.RequestID, "error", err)
		http.Error(w, p.Title, p.Status)
	}
}

// sentence is a problem's detail as it stands under a heading: without what that says already.
func sentence(p *client.Problem) string {
	text := p.Detail
	if n := len(p.Title); len(text) >= n && strings.EqualFold(text[:n], p.Title) {
		text = strings.TrimLeft(text[n:], ": ")
	}
	if n := len(text) - len(p.Title); n >= 0 && strings.EqualFold(text[n:], p.Title) {
		text = strings.TrimRight(text[:n], ": ")
	}
	first, size := utf8.DecodeRuneInString(text)
	if size == 0 {
		return ""
	}
	return string(unicode.ToUpper(first)) + text[size:]
}

type link struct{ URL, Text string }

// back is where a person goes on after an error. Whoever is no operator goes where the console is explained.
func (s *Server) back(r *http.Request) link {
	c := callOf(r.Context())
	if !c.operator {
		return link{s.c.URLs.Public + "/", "What this is"}
	}
	if form, ok := strings.CutSuffix(r.URL.EscapedPath(), "/revoke"); ok && c.route.Name == "console.revoke" {
		return link{form, "Back to the certificate"}
	}
	for _, page := range []link{
		{"/console/certificates", "All certificates"}, {"/console/clients", "All clients"}, {"/console/audit", "Newest of the audit log"},
	} {
		if strings.HasPrefix(r.URL.Path, page.URL) {
			return page
		}
	}
	return link{"/console", "Overview"}
}

// welcomePage tells on the public listener where the console is, and leads there on the mTLS listener.
func (s *Server) welcomePage(w http.ResponseWriter, r *http.Request) error {
	if callOf(r.Context()).listener == MTLS {
		http.Redirect(w, r, "/console", http.StatusSeeOther)
		return nil
	}
	root := s.c.Authority.Issuer().Root
	return s.render(w, r, http.StatusOK, "welcome", s.c.Name, struct {
		MTLS, Status, Fingerprint string
	}{s.c.URLs.MTLS, s.c.URLs.Status, fingerprint(root)})
}

func (s *Server) asset(w http.ResponseWriter, r *http.Request) error {
	name := callOf(r.Context()).vars["file"]
	kind := mime.TypeByExtension(path.Ext(name))
	body, err := consoleFiles.ReadFile("console/assets/" + name)
	if err != nil || kind == "" {
		return errNoRoute
	}
	// A new version's pages must not meet an old style sheet, so it is asked for each time, and rarely sent.
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(body)))
	h.Set("Cache-Control", "public, no-cache")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	return nil
}

func (s *Server) getOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Cache-Control", "public, max-age=3600")
	send(w, http.StatusOK, "application/json", openAPI)
	return nil
}

// relative says how far t is from now, in the largest unit that fits.
func relative(t, now time.Time) string {
	d := t.Sub(now)
	form := "in %d %s"
	if d < 0 {
		d, form = -d, "%d %s ago"
	}
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "days"}, {time.Hour, "h"}, {time.Minute, "min"}} {
		if d >= 2*u.size {
			return fmt.Sprintf(form, d/u.size, u.name)
		}
	}
	return "now"
}
