package pkid_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// checklist are the requirements of the test matrix: A is RFC 8705's authorization server, B its resource server, C its
// client; D is RFC 9449 section 4.3, E its authorization server, F its resource server, G its client; H is the FAPI 2.0
// Security Profile, whose ids leave gaps between its parts.
var checklist = []string{
	"A01 to A35", "B01 to B09", "C01 to C07", "D01 to D17", "E01 to E29", "F01 to F14", "G01 to G09",
	"H01 to H13", "H20 to H33", "H40 to H54", "H60 to H72", "H80 to H86", "H90 to H94", "H100 to H109",
}

// ids are those that a range such as "H40 to H54" names, or the one id that text is.
func ids(t *testing.T, text string) (all []string) {
	t.Helper()
	first, last, isRange := strings.Cut(text, " to ")
	if !isRange {
		last = first
	}
	from, err1 := strconv.Atoi(first[1:])
	to, err2 := strconv.Atoi(last[1:])
	if err1 != nil || err2 != nil || first[0] != last[0] || from > to {
		t.Fatalf("%q is no range of ids", text)
	}
	for n := from; n <= to; n++ {
		all = append(all, fmt.Sprintf("%c%02d", first[0], n))
	}
	return all
}

// Every requirement has a test of its name, or a line in docs/divergences.md that says why not.
func TestChecklistIsCovered(t *testing.T) {
	tested := testedIDs(t)
	text, err := os.ReadFile("docs/divergences.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	const id = `[A-H][0-9]{2,3}`
	for _, m := range regexp.MustCompile(`(?m)^\| (`+id+`(?: to `+id+`)?) \| [^|]{20,}`).FindAllStringSubmatch(string(text), -1) {
		for _, one := range ids(t, m[1]) {
			explained[one] = true
		}
	}
	total := 0
	for _, part := range checklist {
		for _, id := range ids(t, part) {
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
	name := regexp.MustCompile(`(?m)^func (Test((?:[A-H][0-9]{2,3})+)_\w+)\(`)
	id := regexp.MustCompile(`[A-H][0-9]{2,3}`)
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
