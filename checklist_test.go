package pkid_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// checklist is how many requirements each section of the test matrix has: A is RFC 8705's authorization
// server, B its resource server, C its client; D is RFC 9449 section 4.3, E its authorization server, F its
// resource server, G its client.
var checklist = map[string]int{"A": 35, "B": 9, "C": 7, "D": 17, "E": 29, "F": 14, "G": 9}

// Every requirement has a test of its name, or a line in docs/divergences.md that says why not.
func TestChecklistIsCovered(t *testing.T) {
	tested := testedIDs(t)
	text, err := os.ReadFile("docs/divergences.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([A-G][0-9]{2}) \| [^|]{20,}`).FindAllStringSubmatch(string(text), -1) {
		explained[m[1]] = true
	}
	total := 0
	for section, n := range checklist {
		for i := 1; i <= n; i++ {
			id := fmt.Sprintf("%s%02d", section, i)
			total++
			switch {
			case len(tested[id]) == 0 && !explained[id]:
				t.Errorf("%s has no test of its name and no line in docs/divergences.md", id)
			case len(tested[id]) > 0 && explained[id]:
				t.Errorf("%s has a line in docs/divergences.md and a test, %s: one of them is wrong", id, tested[id][0])
			}
		}
	}
	t.Logf("%d requirements: %d tested, %d explained", total, len(tested), len(explained))
}

// testedIDs finds TestD09_..., TestE27E28_... and the like.
func testedIDs(t *testing.T) map[string][]string {
	t.Helper()
	name := regexp.MustCompile(`(?m)^func (Test((?:[A-G][0-9]{2})+)_\w+)\(`)
	id := regexp.MustCompile(`[A-G][0-9]{2}`)
	found := map[string][]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range name.FindAllStringSubmatch(string(text), -1) {
			for _, one := range id.FindAllString(m[2], -1) {
				found[one] = append(found[one], m[1])
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
