package tokenbind

import (
	"fmt"
	"strings"

	"github.com/pkid/pkid/internal/jws"
)

// Result is the outcome of a Check.
type Result string

// The outcomes.
const (
	Pass          Result = "pass"
	Fail          Result = "fail"
	NotApplicable Result = "not applicable" // nothing to check, or not reached after a failure
)

// Check is one thing that was looked at, for a person who asks why a request was refused.
type Check struct {
	Name    string `json:"name"`
	Section string `json:"section"` // where the rule is written, such as "RFC 9449 4.3-9"
	Result  Result `json:"result"`
	Seen    string `json:"seen,omitempty"`
	Wanted  string `json:"wanted,omitempty"`
	Hint    string `json:"hint,omitempty"` // what to do about it
}

// rule is one check of an S. Rules stand in tables, in the order in which they are judged.
type rule[S any] struct {
	name    string
	section string
	kind    kind
	judge   func(S) finding
}

// kind says how a rule stands to others, and to what is known.
type kind uint8

const (
	needed kind = 1 << iota // the rules after it cannot be judged if it fails
	once                    // passed once, passed for good: not judged again for what is known
)

// finding is what a rule found. The zero value is a failure without a reason, so that a rule which forgets
// to decide refuses.
type finding struct {
	result Result
	seen   string
	wanted string
	hint   string
	code   string // the OAuth error code, where it is not that of the rule's table
	err    error
}

func pass(seen string) finding         { return finding{result: Pass, seen: seen} }
func notApplicable(why string) finding { return finding{result: NotApplicable, hint: why} }
func fail(seen, wanted string) finding {
	return finding{result: Fail, seen: jws.Short(seen), wanted: jws.Short(wanted)}
}
func (f finding) because(hint string) finding { f.hint = hint; return f }
func (f finding) as(code string) finding      { f.code = code; return f }
func (f finding) from(err error) finding      { f.err = err; return f }

// failure is the first rule that failed.
type failure struct {
	finding
	name    string
	section string
}

// Error says what was seen, what was wanted and what to do, in one line.
func (f *failure) Error() string {
	var b strings.Builder
	b.WriteString(f.name)
	switch {
	case f.seen != "" && f.wanted != "":
		fmt.Fprintf(&b, ": got %s, want %s", f.seen, f.wanted)
	case f.wanted != "":
		fmt.Fprintf(&b, ": want %s", f.wanted)
	case f.seen != "":
		fmt.Fprintf(&b, ": got %s", f.seen)
	}
	if f.hint != "" {
		b.WriteString("; ")
		b.WriteString(f.hint)
	}
	return b.String()
}

// trail is what came of the rules so far. Verifying and explaining walk the same rules; verifying stops at
// the first failure, explaining (all) goes on for as long as the rules make sense.
type trail struct {
	all    bool
	checks []Check // kept only if all
	first  *failure
	stuck  bool // a needed rule failed
}

// pass is the finding of a rule that holds. What it saw is put into words only for who explains.
func (t *trail) pass(seen func() string) finding {
	if !t.all {
		return pass("")
	}
	return pass(seen())
}

// walk judges the rules in order and reports whether none failed, now or before.
func walk[S interface{ known() bool }](t *trail, rules []rule[S], s S) bool {
	for i := range rules {
		if t.first != nil && !t.all {
			return false
		}
		r := &rules[i]
		if r.kind&once != 0 && s.known() {
			continue
		}
		f := notApplicable("not reached")
		if !t.stuck {
			f = r.judge(s)
		}
		t.note(r.name, r.section, f)
		if f.failed() {
			t.stuck = t.stuck || r.kind&needed != 0
		}
	}
	return t.first == nil
}

func (f finding) failed() bool { return f.result != Pass && f.result != NotApplicable }

// note records a finding under a rule's name.
func (t *trail) note(name, section string, f finding) {
	if f.failed() && t.first == nil {
		t.first = &failure{finding: f, name: name, section: section}
	}
	if t.all {
		if f.failed() {
			f.result = Fail
		}
		t.checks = append(t.checks, Check{name, section, f.result, jws.Short(f.seen), f.wanted, f.hint})
	}
}
