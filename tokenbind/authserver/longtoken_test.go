package authserver

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// What is issued can be introspected, and taken by a verifier: a record that would give longer tokens is
// refused, and so is a request whose token JSON makes longer than it looks.
func TestLongestTokenIsOfUse(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	add := func(id string, resources []string) (string, error) {
		_, secret, err := h.registry.Add(t.Context(), Client{ID: id, Auth: ClientSecretBasic, InsecureBearer: true, Resources: resources})
		return secret, err
	}
	resource := func(i, size int, fill string) string {
		return fmt.Sprintf("https://r%d.example/%s", i, strings.Repeat(fill, size))
	}
	var fit, long []string
	for i := range 16 {
		fit = append(fit, resource(i, 340, "x"))
		long = append(long, resource(i, 400, "x"))
	}
	secret, err := add("fit", fit)
	if err != nil {
		t.Fatal(err)
	}
	token, _ := mustIssue(t, h.token(nil, basic("fit", secret)))
	if len(token) > maxToken || ask(token).body["active"] != true {
		t.Errorf("a token of %d octets: %v", len(token), ask(token).body)
	}
	if _, err := add("long", long); err == nil {
		t.Error("a client was added whose tokens would be too long")
	}
	if secret, err = add("escaped", []string{resource(1, 1900, "&"), resource(2, 1900, "&")}); err != nil {
		t.Fatal(err)
	}
	mustRefuse(h, h.token(nil, basic("escaped", secret)), 400, "invalid_target", "a token for all that was asked for")
}

func TestWithdrawnKeyAfterTheClockWasAhead(t *testing.T) {
	set := &remoteSet{fetched: time.Now().Add(90 * time.Minute), keys: []clientKey{{}}}
	if keys, _, _ := set.known(time.Now()); keys != nil {
		t.Error("keys from a time that has not come count")
	}
}
