package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
)

// pkid runs the command, and returns all that it prints.
func pkid(t *testing.T, want int, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if code := run(t.Context(), args, &out, &out); code != want {
		t.Fatalf("pkid %v exits with %d, want %d\n%s", args, code, want, out.String())
	}
	return out.String()
}

// newData makes a data directory with addresses that nobody listens at.
func newData(t *testing.T, args ...string) string {
	t.Helper()
	dir, free := filepath.Join(t.TempDir(), "d"), "127.0.0.1:0"
	pkid(t, 0, append([]string{"init", "--data", dir, "--public", free, "--mtls", free, "--status", free, "--ops", free}, args...)...)
	return dir
}

func contains(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q does not say %q", text, w)
		}
	}
}

// The command prints what it moved and what to do next, and never moves onto something or twice.
func TestMigrateStore(t *testing.T) {
	store, password := pkitest.Database(t, pgtest.Database(t))
	dir := newData(t)
	out := pkid(t, 0, "migrate-store", "--data", dir, "--to", store, "--to-password", password)
	contains(t, out, "certificates ", "audit entries ", `store: "`+store+`"`, `store_password: "`+password+`"`, filepath.Join(dir, "pkid.db.moved"))
	contains(t, pkid(t, exitFailed, "migrate-store", "--data", dir, "--to", store, "--to-password", password), "no such file")

	other := newData(t)
	contains(t, pkid(t, exitFailed, "migrate-store", "--from", "bolt:"+filepath.Join(other, "pkid.db"), "--to", store, "--to-password", password), "not empty")
	if _, err := os.Stat(filepath.Join(other, "pkid.db")); err != nil {
		t.Errorf("what was not moved: %v", err)
	}
	third := filepath.Join(t.TempDir(), "third")
	contains(t, pkid(t, exitFailed, "init", "--data", third, "--store", store, "--store-password", password), "belongs to another CA")
	if _, err := os.Stat(third); err == nil {
		t.Error("an init that failed left its directory")
	}
}

// A CA is created in a database, and its configuration shows where that is and no password.
func TestInitInDatabase(t *testing.T) {
	store, password := pkitest.Database(t, pgtest.Database(t))
	dir := newData(t, "--store", store, "--store-password", password)
	if _, err := os.Stat(filepath.Join(dir, "pkid.db")); err == nil {
		t.Error("there is a file too")
	}
	contains(t, pkid(t, 0, "check-config", "--data", dir), store, password)
	contains(t, pkid(t, exitFailed, "migrate-store", "--data", dir, "--to", store), "in PostgreSQL already")
}

func TestMigrateStoreCalledWrongly(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"", "want postgres://"},
		{"--to bolt:x", "want postgres://"},
		{"--to postgres://pkid:hunter2@localhost/pkid", "a password does not belong into a URL"},
		{"--to postgres://pkid@localhost/pkid --to-password hunter2", "want file:PATH"},
		{"--from pkid.db --to postgres:///x", "want bolt:PATH"},
		{"--from bolt:x --data y --to postgres:///x", "give one"},
	} {
		out := pkid(t, exitUsage, append([]string{"migrate-store"}, withFrom(tt.args)...)...)
		contains(t, out, tt.want)
		if strings.Contains(out, "hunter2") {
			t.Errorf("%s: the password is shown: %s", tt.args, out)
		}
	}
}

// withFrom adds a store to move where the arguments name none.
func withFrom(args string) []string {
	fields := strings.Fields(args)
	if !strings.Contains(args, "--from") {
		fields = append(fields, "--from", "bolt:none")
	}
	return fields
}
