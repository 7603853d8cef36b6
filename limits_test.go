package pkid_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// Every bound in docs/limits.md is in the code as it says there, and has tests that exist.
func TestLimitsAreAsDocumented(t *testing.T) {
	text, err := os.ReadFile("docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	tests, corpus := testNames(t), corpusNames(t)
	row := regexp.MustCompile("(?m)^\\| [^`|][^|]* \\| [^|]+ \\| `([^`]+)`: `([^`]+)` \\| (.+) \\|$")
	rows := row.FindAllStringSubmatch(string(text), -1)
	_, table, _ := strings.Cut(string(text), "\n| what | bound |")
	if n := strings.Count(table, "\n| ") - 1; n < 30 || len(rows) != n {
		t.Fatalf("%d of %d rows can be read", len(rows), n)
	}
	for _, m := range rows {
		file, code := m[1], strings.ReplaceAll(m[2], `\|`, "|")
		source, err := os.ReadFile(filepath.FromSlash(file))
		if err != nil || !strings.Contains(string(source), code) {
			t.Errorf("%s has no %q: %v", file, code, err)
		}
		named := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(m[3], -1)
		if len(named) == 0 {
			t.Errorf("%s: no test", m[0])
		}
		for _, name := range named {
			if !tests[name[1]] && !corpus[name[1]] {
				t.Errorf("no test and no hostile input is named %s", name[1])
			}
		}
	}
}

// testNames are the names of all tests.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "grep", "-rhoE", "--include=*_test.go", `^func Test\w+`, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		names[strings.TrimPrefix(strings.TrimSpace(line), "func ")] = true
	}
	return names
}

// corpusNames are those of the hostile inputs, each behind the name of its file.
func corpusNames(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("integration/testdata/hostile/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	names := map[string]bool{}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			name, _, _ := strings.Cut(f.Name, " | ")
			names[strings.TrimSuffix(filepath.Base(file), ".txt")+"/"+name] = true
		}
	}
	return names
}
