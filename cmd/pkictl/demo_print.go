package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/pkid/pkid/tokenbind"
)

// printer tells the story. Its first error ends the demo through act, step or end.
type printer struct {
	w      *stickyWriter
	colour bool
}

// stickyWriter keeps its first error, after which it writes no more.
type stickyWriter struct {
	w   io.Writer
	err error
}

func (s *stickyWriter) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.w.Write(p)
	s.err = err
	return n, err
}

// newPrinter uses colours on a terminal, unless NO_COLOR is set (no-color.org).
func newPrinter(w io.Writer) *printer {
	f, ok := w.(*os.File)
	return &printer{w: &stickyWriter{w: w}, colour: ok && os.Getenv("NO_COLOR") == "" && term.IsTerminal(int(f.Fd()))}
}

const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (p *printer) paint(style, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

func (p *printer) act(n int, a act) error {
	fmt.Fprintf(p.w, "\n%s\n%s\n", p.paint(bold, fmt.Sprintf("Act %d. %s", n, a.title)), indent("  ", a.text))
	return p.w.err
}

func (p *printer) end() error {
	fmt.Fprintf(p.w, "\n%s\n", p.paint(green, "Every step came out as told."))
	return p.w.err
}

// step is a moment of the story.
type step struct {
	title   string
	request string
	why     string
	// run does it. It returns the answer to be shown, and an error if that is not what was told.
	run func() (fmt.Stringer, error)
}

func (p *printer) step(s step) error {
	answer, err := s.run()
	mark := p.paint(green, "✓")
	if err != nil {
		mark = p.paint(red, "✗")
	}
	fmt.Fprintf(p.w, "\n  %s %s\n", mark, p.paint(bold, s.title))
	p.labelled("request", cyan, s.request)
	if answer != nil {
		p.labelled("answer", cyan, answer.String())
	}
	if err != nil {
		p.labelled("but", red, err.Error())
		return fmt.Errorf("%s: %w", s.title, err)
	}
	p.labelled("why", dim, s.why)
	return p.w.err
}

func (p *printer) labelled(label, style, text string) {
	for i, line := range strings.Split(text, "\n") {
		if i > 0 {
			label = ""
		}
		fmt.Fprintf(p.w, "    %s %s\n", p.paint(style, fmt.Sprintf("%-8s", label)), printable(line))
	}
}

func indent(by, text string) string { return by + strings.ReplaceAll(text, "\n", "\n"+by) }

// text is an answer that is only words.
type text string

func (t text) String() string { return string(t) }

// confirmationOf reads the cnf of a token for show; who relies on it uses a Verifier.
func confirmationOf(token string) (tokenbind.Confirmation, error) {
	var claims struct {
		Confirmation tokenbind.Confirmation `json:"cnf"`
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims.Confirmation, fmt.Errorf("a token of %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return claims.Confirmation, err
	}
	err = json.Unmarshal(payload, &claims)
	return claims.Confirmation, err
}

// short is enough of a token to recognise it.
func short(token string) string {
	if len(token) <= 24 {
		return token
	}
	return token[:12] + "..." + token[len(token)-8:]
}
