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
	toldToTheLogAlone(t, "the secret cause", func(http.ResponseWriter, *http.Request) error { panic("the secret cause") })
}

func TestMiddleware_InternalError(t *testing.T) {
	toldToTheLogAlone(t, "disk on fire", func(http.ResponseWriter, *http.Request) error { return errors.New("disk on fire") })
}

// toldToTheLogAlone wants a handler's failure answered without its cause, and logged with it.
func toldToTheLogAlone(t *testing.T, cause string, h func(http.ResponseWriter, *http.Request) error) {
	t.Helper()
	f := newFixture(t)
	a := f.do(request{url: f.with("/broken", h)})
	p := a.problem(t, http.StatusInternalServerError, "internal")
	if strings.Contains(a.body, cause) {
		t.Errorf("the answer shows the cause: %s", a.body)
	}
	if log := f.log.String(); !strings.Contains(log, cause) || !strings.Contains(log, p.RequestID) {
		t.Errorf("the log lacks the cause or the request id: %s", log)
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
