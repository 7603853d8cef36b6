package pgstore_test

import (
	"errors"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/pgstore"
	"github.com/pkid/pkid/internal/pgtest"
)

// TestPasswordIsNowhere: whatever is wrong, no error has the password in it.
func TestPasswordIsNowhere(t *testing.T) {
	t.Parallel()
	const password = "s3cret-p@ss"
	right := pgtest.Database(t)
	at := func(change func(*url.URL)) string {
		u, err := url.Parse(right)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("pkid", password)
		change(u)
		return u.String()
	}
	for name, u := range map[string]string{
		"wrong password":    at(func(*url.URL) {}),
		"no such database":  at(func(u *url.URL) { u.Path = "/nowhere" }),
		"nobody there":      at(func(u *url.URL) { u.Host = "127.0.0.1:1" }),
		"bad sslmode":       at(func(u *url.URL) { u.RawQuery = "sslmode=" + password }),
		"bad pool":          at(func(u *url.URL) { u.RawQuery = "pool_max_conns=many" }),
		"another scheme":    at(func(u *url.URL) { u.Scheme = "mysql" }),
		"bad port":          "postgres://pkid:s3cret-p%40ss@127.0.0.1:port/x",
		"bad escape":        "postgres://pkid:s3cret-p@ss%zz@127.0.0.1/x",
		"keywords":          "host=127.0.0.1 user=pkid password=" + password,
		"password as query": "postgres://pkid@127.0.0.1:1/x?connect_timeout=x&password=" + url.QueryEscape(password),
	} {
		s, err := pgstore.Open(t.Context(), u, pgstore.Options{})
		if err == nil {
			t.Errorf("%s: it was opened: %v", name, s.Close())
			continue
		}
		if text := err.Error(); strings.Contains(text, "s3cret") {
			t.Errorf("%s: the error has the password in it: %s", name, text)
		}
	}
}

// TestDatabaseIsAway: an error that says when to try again, which whoever does not know this package understands too.
func TestDatabaseIsAway(t *testing.T) {
	t.Parallel()
	_, err := pgstore.Open(t.Context(), "postgres://pkid@127.0.0.1:1/pkid", pgstore.Options{})
	var away interface {
		error
		RetryAfter() time.Duration
	}
	if !errors.Is(err, pgstore.ErrUnavailable) || !errors.As(err, &away) || away.RetryAfter() <= 0 {
		t.Errorf("Open = %v; want ErrUnavailable, with a time to try again", err)
	}
}

// TestSeveralHosts: the one that answers is used, and of those the one that can be written to.
func TestSeveralHosts(t *testing.T) {
	t.Parallel()
	u := pgtest.Database(t)
	_, host, _ := strings.Cut(u, "@")
	several := strings.Replace(u, "@"+host, "@127.0.0.1:1,"+host, 1)
	insert(t, open(t, several), newRecord(1))
}

// TestCommitsWaitForTheDisk: a server that would answer before its disk has anything is told to wait.
func TestCommitsWaitForTheDisk(t *testing.T) {
	t.Parallel()
	u := pgtest.Database(t)
	parsed, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	execute(t, u, "ALTER ROLE CURRENT_USER IN DATABASE "+strings.Trim(parsed.Path, "/")+" SET synchronous_commit = off")
	s := open(t, u)
	if got, err := s.Setting(t.Context(), "synchronous_commit"); err != nil || got != "on" {
		t.Errorf("synchronous_commit = %q, %v; want on", got, err)
	}
}

// TestSettings: every connection has the bounds that keep one node out of the others' way, whatever the URL and the role
// say.
func TestSettings(t *testing.T) {
	t.Parallel()
	u := pgtest.Database(t)
	parsed, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	execute(t, u, "ALTER ROLE CURRENT_USER IN DATABASE "+strings.Trim(parsed.Path, "/")+" SET default_transaction_isolation = 'serializable'")
	s := open(t, u+"&statement_timeout=0&search_path=public&idle_in_transaction_session_timeout=0")
	given, hurried, err := s.Settings(t.Context())
	if err != nil || !maps.Equal(given, pgstore.Session) {
		t.Errorf("a connection has %v, %v; want %v", given, err, pgstore.Session)
	}
	if len(hurried) > 0 {
		t.Errorf("a migration has to be done within %v", hurried)
	}
	for name, want := range map[string]string{"search_path": "pkid", "statement_timeout": "4s"} { // of one in the pool
		if got, err := s.Setting(t.Context(), name); err != nil || got != want {
			t.Errorf("%s = %q, %v; want %q", name, got, err, want)
		}
	}
}
