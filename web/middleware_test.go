package web

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

// with adds a route to the public listener of a running fixture.
func (f *fixture) with(path string, h func(http.ResponseWriter, *http.Request) error) string {
	f.table = append(f.table, Route{Method: "GET", Path: path, Name: "test" + path, Listeners: Public, Access: Anyone, Handler: h})
	return f.public.URL + path
}

func TestMiddleware_Panic(t *testing.T) {
	f := newFixture(t)
	url := f.with("/panic", func(http.ResponseWriter, *http.Request) error { panic("the secret cause") })
	a := f.do(request{url: url})
	p := a.problem(t, http.StatusInternalServerError, "internal")
	if strings.Contains(a.body, "secret cause") {
		t.Errorf("the answer shows the panic: %s", a.body)
	}
	if log := f.log.String(); !strings.Contains(log, "the secret cause") || !strings.Contains(log, p.RequestID) {
		t.Errorf("the log lacks the panic or its request id: %s", log)
	}
}

func TestMiddleware_InternalError(t *testing.T) {
	f := newFixture(t)
	url := f.with("/broken", func(http.ResponseWriter, *http.Request) error { return errors.New("disk on fire") })
	a := f.do(request{url: url})
	p := a.problem(t, http.StatusInternalServerError, "internal")
	if strings.Contains(a.body, "disk on fire") {
		t.Errorf("the answer shows the error: %s", a.body)
	}
	if log := f.log.String(); !strings.Contains(log, "disk on fire") || !strings.Contains(log, p.RequestID) {
		t.Errorf("the log lacks the error or its request id: %s", log)
	}
}

func TestInvariant10_RequestsHaveADeadline(t *testing.T) {
	f := newFixture(t)
	var left time.Duration
	url := f.with("/deadline", func(_ http.ResponseWriter, r *http.Request) error {
		deadline, ok := r.Context().Deadline()
		if ok {
			left = time.Until(deadline)
		}
		return context.DeadlineExceeded
	})
	f.do(request{url: url}).problem(t, http.StatusServiceUnavailable, "timeout")
	if left <= 0 || left > requestTimeout {
		t.Errorf("%s left of the request's time, want up to %s", left, requestTimeout)
	}
}

func TestInvariant10_BodiesAreBounded(t *testing.T) {
	f := newFixture(t)
	body := `{"client_id":"` + strings.Repeat("x", maxBody) + `"}`
	for _, path := range []string{"/v1/invitations", "/v1/clients"} {
		f.operate("POST", path, body).problem(t, http.StatusRequestEntityTooLarge, "too-large")
	}
	spaces := `{"client_id":"x"}` + strings.Repeat(" ", maxBody)
	f.operate("POST", "/v1/invitations", spaces).problem(t, http.StatusRequestEntityTooLarge, "too-large")
}

// TestMiddleware_LogHoldsNoQuery: a query string may hold anything.
func TestMiddleware_LogHoldsNoQuery(t *testing.T) {
	f := newFixture(t)
	a := f.do(request{url: f.public.URL + "/v1/ca?access_token=hunter2"})
	log := f.log.String()
	if strings.Contains(log, "hunter2") {
		t.Errorf("the log has the query: %s", log)
	}
	if !strings.Contains(log, a.Header.Get("X-Request-Id")) || !strings.Contains(log, `"route":"ca"`) {
		t.Errorf("the log lacks the request: %s", log)
	}
}

func TestMiddleware_Accepts(t *testing.T) {
	for header, want := range map[string]string{
		"": "application/json", "*/*": "application/json", "text/html": "application/json",
		pemFile: pemFile, "application/json, " + pemFile: "application/json",
		pemFile + ";q=0, " + pemChain: pemChain, "text/html, " + pemChain + ";q=0.5": pemChain,
	} {
		r := &http.Request{Header: http.Header{"Accept": {header}}}
		if got := accepts(r, "application/json", pemFile, pemChain); got != want {
			t.Errorf("Accept: %s: %s, want %s", header, got, want)
		}
	}
}
