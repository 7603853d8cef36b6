package client

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A server that answers without end, or with what is no answer, fills no memory.
func TestHostileAnswers(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"too long": {strings.Repeat(" ", maxBody+1), "larger than"},
		"deep":     {strings.Repeat("[", 1<<20), "exceeded max depth"},
		"no JSON":  {"<html>", "invalid character"},
	} {
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(c.body)) }))
		err := call(t.Context(), server.Client(), http.MethodGet, server.URL, nil, nil, new(CA))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		server.Close()
	}
}
