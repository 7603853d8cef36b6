// Package pgtest runs a real PostgreSQL for tests, as an ordinary program would meet it: its data are synced to disk,
// pkid's role is no superuser, and text sorts as a language does and not as octets do.
//
// Database gives a test a database of its own on a server that the tests of a process share. Start runs a server for
// one test, which may stop it. A Proxy stands between the two where a network is to fail. No server outlives the
// process of the tests, however that ends.
package pgtest

import (
	"errors"
	"os"
	"sync"
	"testing"
)

// shared is the server of this process, which Database starts when it is first needed.
var shared = sync.OnceValues(NewServer)

// Database returns the URL of an empty database on the shared server, the test's until it ends.
func Database(t testing.TB) string {
	t.Helper()
	s, err := shared()
	check(t, err)
	return s.Database(t)
}

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	s, err := NewServer()
	check(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing PostgreSQL: %v", err)
		}
	})
	return s
}

// check skips the test where there is no PostgreSQL, and fails it then with CI=true, and after any other error.
func check(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrMissing) && os.Getenv("CI") != "true":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

// Database returns the URL of an empty database, the test's until it ends. Whoever is connected then is cut off.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name, err := s.take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.giveBack(name); err != nil {
			t.Errorf("emptying the database: %v", err)
		}
	})
	return s.url(role, name)
}
