package client

import (
	"testing"

	"github.com/pkid/pkid/tokenbind"
)

// Whoever explains has not seen the requests, and must not say that a proof is fresh.
func TestExplainedSaysNothingOfReplays(t *testing.T) {
	said := []tokenbind.Check{{Name: "htu", Result: tokenbind.Pass}, {Name: tokenbind.CheckReplay, Result: tokenbind.Pass}}
	e := Explained(said)
	if !e.Accepted || e.Checks[0].Result != tokenbind.Pass || e.Checks[1].Result != tokenbind.NotApplicable || e.Checks[1].Hint == "" {
		t.Errorf("%+v", e)
	}
	if said[1].Result != tokenbind.Pass {
		t.Error("what the verifier reported was changed")
	}
	e = Explained([]tokenbind.Check{{Result: tokenbind.Fail, Hint: "first"}, {Result: tokenbind.Fail, Hint: "second"}})
	if e.Accepted || e.Cause != "first" {
		t.Errorf("%+v", e)
	}
}

func TestCallIsForHTTPS(t *testing.T) {
	for target, ok := range map[string]bool{"https://api.example/a.B/C": true, "http://api.example/a.B/C": false, "https:///a.B/C": false, "/a.B/C": false} {
		if _, err := (&TokenSource{}).Call("POST", target); (err == nil) != ok {
			t.Errorf("%s: %v", target, err)
		}
	}
}
