package authserver

import (
	"strings"
	"testing"
)

// A key is published before it signs, signs, and is published after; a token of it counts in all that time, and not
// when it is gone.
func TestSetKeys(t *testing.T) {
	h := newHouse(t)
	cert := h.enrol("a")
	old, next := h.config.Keys[0], SigningKey{newKey(t), "ES256"}
	issue := func() string {
		token, _ := mustIssue(t, h.token(clientID("a"), presenting(cert)))
		return token
	}
	first := issue()
	for _, keys := range [][]SigningKey{{old, next}, {next, old}} {
		if err := h.SetKeys(keys); err != nil {
			t.Fatal(err)
		}
		if h.keys.Load().verify(first) == nil || h.keys.Load().verify(issue()) == nil {
			t.Error("a token of a published key is refused")
		}
		for _, k := range h.keys.Load().set {
			if !strings.Contains(string(h.keys.Load().jwks), k.id) {
				t.Errorf("key %s is not published", k.id)
			}
		}
	}
	second := issue()
	if err := h.SetKeys([]SigningKey{next}); err != nil {
		t.Fatal(err)
	}
	if h.keys.Load().verify(first) != nil {
		t.Error("a token of a key that is gone counts")
	}
	if h.keys.Load().verify(second) == nil {
		t.Error("a token of the key that stayed is refused")
	}
	if err := h.SetKeys(nil); err == nil || h.keys.Load().verify(second) == nil {
		t.Errorf("without keys: %v", err)
	}
}
