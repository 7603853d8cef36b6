package config

import (
	"bytes"
	"net/url"
	"strings"
	"testing"
)

func TestStores(t *testing.T) {
	for _, store := range []string{
		"bolt:pkid.db",
		"bolt:/var/lib/pkid/pkid.db",
		"postgres:///pkid",
		"postgresql:///pkid?host=/run/postgresql",
		"postgres://pkid@localhost:5433/pkid",
		"postgres://pkid@127.0.0.1:1,localhost:2/pkid",
		"postgres://pkid@db.example.com/pkid?sslmode=verify-full",
		"postgres://pkid@db1.example.com:5432,db2.example.com:5433/pkid?sslmode=verify-full&target_session_attrs=read-write",
		"postgres://pkid@db.example.com/?dbname=pkid&sslmode=disable&passfile=/etc/pkid/pgpass",
	} {
		if err := CheckStore(store); err != nil {
			t.Errorf("%s: %v", store, err)
		}
	}
}

// What is said about a store that is refused does not show the password that it holds.
func TestStoreErrorsHoldNoPassword(t *testing.T) {
	const secret = "hunter2"
	for _, store := range []string{
		"postgres://pkid:hunter2@localhost/pkid",
		"postgres://localhost/pkid?user=pkid&password=hunter2",
		"postgres://pkid:hunter2@local host/pkid",
		"postgres://pkid:hunter2%zz@localhost/pkid",
		"postgres://pkid:hunter2@localhost:port/pkid",
		"postgres://pkid:hunter2/x@localhost/pkid",
		"mysql://pkid:hunter2@localhost/pkid",
		"hunter2",
	} {
		_, err := Parse([]byte(minimal+"store: '"+store+"'\n"), "")
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: got %v, want an error without the password", store, err)
		}
	}
}

// The password reaches the driver and nothing else.
func TestStorePassword(t *testing.T) {
	const secret = `p@ss/w:rd "x"`
	t.Setenv("PKID_TEST_DB", secret+"\n")
	c, err := Parse([]byte(minimal+"store: postgres://pkid@localhost/pkid?pool_max_conns=4\nstore_password: env:PKID_TEST_DB\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.StoreURL()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := u.User.Password(); got != secret || u.User.Username() != "pkid" || u.Query().Get("pool_max_conns") != "4" {
		t.Errorf("got %v", u)
	}
	var printed bytes.Buffer
	if err := c.Print(&printed); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(printed.String(), "p@ss") || strings.Contains(printed.String(), "p%40ss") {
		t.Errorf("the password is printed:\n%s", printed.String())
	}
	c.StorePassword = "env:PKID_TEST_UNSET"
	if _, err := c.StoreURL(); err == nil || !strings.Contains(err.Error(), "store_password: environment variable PKID_TEST_UNSET") {
		t.Errorf("got %v", err)
	}
}
