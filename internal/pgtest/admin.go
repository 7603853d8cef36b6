package pgtest

import (
	"os"
	"path/filepath"
	"testing"
)

// Administer executes statements as the superuser.
func (s *Server) Administer(t testing.TB, statements ...string) {
	t.Helper()
	if err := s.run(t.Context(), "postgres", statements...); err != nil {
		t.Fatal(err)
	}
}

// Put writes a file into the server's data directory, which the server's account owns and nobody else may read, and
// returns its path.
func (s *Server) Put(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(s.data(), name)
	err := os.WriteFile(path, content, 0o600)
	if err == nil {
		err = s.programs.account.own(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
