package web

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
)

// exportedErrors reads the names of a package's exported sentinels (var ErrX) and error types (an exported
// type with an Error method) from its source.
func exportedErrors(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	for _, file := range parseDir(t, dir) {
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok && d.Tok == token.VAR {
						for _, n := range v.Names {
							if strings.HasPrefix(n.Name, "Err") {
								names = append(names, n.Name)
							}
						}
					}
				}
			case *ast.FuncDecl:
				if d.Name.Name == "Error" && d.Recv != nil {
					if star, ok := d.Recv.List[0].Type.(*ast.StarExpr); ok && ast.IsExported(star.X.(*ast.Ident).Name) {
						names = append(names, star.X.(*ast.Ident).Name)
					}
				}
			}
		}
	}
	return names
}

func parseDir(t *testing.T, dir string) []*ast.File {
	t.Helper()
	paths := must[[]string](t)(filepath.Glob(filepath.Join(dir, "*.go")))
	if len(paths) == 0 {
		t.Fatalf("%s has no Go files: %v", dir, fs.ErrNotExist)
	}
	var files []*ast.File
	for _, path := range paths {
		if !strings.HasSuffix(path, "_test.go") {
			files = append(files, must[*ast.File](t)(parser.ParseFile(token.NewFileSet(), path, nil, 0)))
		}
	}
	return files
}

// TestProblems_TableIsComplete: an error that a package behind the handlers exports has a line in the table.
func TestProblems_TableIsComplete(t *testing.T) {
	listed := map[string]bool{}
	for _, file := range parseDir(t, ".") {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || spec.Names[0].Name != "problems" {
				return true
			}
			ast.Inspect(spec, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					if pkg, ok := sel.X.(*ast.Ident); ok {
						listed[pkg.Name+"."+sel.Sel.Name] = true
					}
				}
				return true
			})
			return false
		})
	}
	for pkg, dir := range map[string]string{"ca": "../ca", "enroll": "../enroll", "authserver": "../tokenbind/authserver"} {
		found := exportedErrors(t, dir)
		if len(found) == 0 {
			t.Errorf("no errors found in %s: has the test lost its way?", dir)
		}
		for _, name := range found {
			if !listed[pkg+"."+name] {
				t.Errorf("problems lacks %s.%s", pkg, name)
			}
		}
	}
}

func TestProblems_KindsAreStable(t *testing.T) {
	kind := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	statuses := map[string]int{}
	for _, p := range problems {
		if !kind.MatchString(p.kind) || p.title == "" || http.StatusText(p.status) == "" {
			t.Errorf("bad line %+v", p.outcome)
		}
		if s, ok := statuses[p.kind]; ok && s != p.status {
			t.Errorf("%s has status %d and %d", p.kind, s, p.status)
		}
		statuses[p.kind] = p.status
	}
}

// TestProblems_InternalTextStaysInside: an error that nobody foresaw, and one that is nobody's business,
// show a request id and never their text.
func TestProblems_InternalTextStaysInside(t *testing.T) {
	for _, err := range []error{
		errors.New("open /var/lib/pkid/pkid.db: input/output error"),
		fmt.Errorf("signing: %w: secret detail", ca.ErrMismatch),
		fmt.Errorf("recording: %w", ca.ErrDuplicate),
		&ca.LineageError{Err: errors.New("write /var/lib/pkid/pkid.db: no space left")},
		fmt.Errorf("%w: reading /etc/pkid", context.DeadlineExceeded),
	} {
		p := problem(err, "the-id")
		if p.Status < 500 || p.Detail != "" || p.RequestID != "the-id" {
			t.Errorf("%v: %+v", err, p)
		}
	}
}

// awayError is one of a store whose database is away.
type awayError struct{ wait time.Duration }

func (*awayError) Error() string               { return "dialling db.example.com: connection refused" }
func (e *awayError) RetryAfter() time.Duration { return e.wait }

// TestProblems_Unavailable: what is away for now is told as such, with when to try again, and without its text.
func TestProblems_Unavailable(t *testing.T) {
	f := newFixture(t)
	for _, tt := range []struct {
		err  error
		kind string
		wait string
	}{
		{fmt.Errorf("reading certificate: %w", &awayError{2 * time.Second}), "unavailable", "2"},
		{&awayError{1500 * time.Millisecond}, "unavailable", "2"},
		{&awayError{}, "unavailable", "1"},
		{context.DeadlineExceeded, "timeout", "1"},
	} {
		for i := range f.table {
			if f.table[i].Name == "ca" {
				f.table[i].Handler = func(http.ResponseWriter, *http.Request) error { return tt.err }
			}
		}
		w := httptest.NewRecorder()
		f.Public().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/ca", nil))
		if body := w.Body.String(); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != tt.wait ||
			!strings.Contains(body, "urn:pkid:problem:"+tt.kind) || strings.Contains(body, "example.com") {
			t.Errorf("%v: %d, %v, %s", tt.err, w.Code, w.Header(), body)
		}
	}
}

// TestProblems_FirstLineCounts: a used invitation is a conflict, though it is an invalid invitation as well.
func TestProblems_FirstLineCounts(t *testing.T) {
	err := fmt.Errorf("%w: %w", enroll.ErrInvitation, &ca.SpentError{})
	if got := outcomeOf(err); got.status != http.StatusConflict {
		t.Errorf("%v: %+v", err, got)
	}
}
