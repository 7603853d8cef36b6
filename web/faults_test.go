package web

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"syscall"
	"testing"

	"github.com/pkid/pkid/ca"
)

// lostCommit is what an engine says that was lost in the moment of a commit.
type lostCommit struct{ error }

func (lostCommit) OutcomeUnknown() bool { return true }
func (e lostCommit) Unwrap() error      { return e.error }

// What a store could not do is told apart: not done, done in part, and nobody knows.
func TestFaultsOfTheStoreAreToldApart(t *testing.T) {
	full := &fs.PathError{Op: "write", Path: "/var/lib/pkid/pkid.db", Err: syscall.ENOSPC}
	unknown := lostCommit{errors.New("unexpected EOF")}
	for _, c := range []struct {
		err    error
		status int
		kind   string
	}{
		{fmt.Errorf("recording invitation: %w", full), http.StatusInsufficientStorage, "disk-full"},
		{fmt.Errorf("revoking: %w", unknown), http.StatusServiceUnavailable, "outcome-unknown"},
		{lostCommit{full}, http.StatusServiceUnavailable, "outcome-unknown"}, // that it was not done cannot be said
		{&ca.LineageError{Err: unknown}, http.StatusServiceUnavailable, "lineage-not-revoked"},
		{&ca.LineageError{Err: full}, http.StatusServiceUnavailable, "lineage-not-revoked"},
		{errors.New("anything else"), http.StatusInternalServerError, "internal"},
	} {
		if p := problem(c.err, "id"); p.Status != c.status || p.Type != "urn:pkid:problem:"+c.kind || p.Detail != "" {
			t.Errorf("%v: %d %s %q; want %d %s and no text of the error", c.err, p.Status, p.Type, p.Detail, c.status, c.kind)
		}
	}
}
