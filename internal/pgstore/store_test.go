package pgstore_test

import (
	"testing"

	"github.com/pkid/pkid/internal/pgstore"
	"github.com/pkid/pkid/internal/pgtest"
)

// open opens the store in a database, and creates it if need be. It is closed when the test ends.
func open(t testing.TB, url string) *pgstore.Store {
	t.Helper()
	s, err := pgstore.Open(t.Context(), url, pgstore.Options{Create: true, Identity: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestOpen(t *testing.T) {
	url := pgtest.Database(t)
	s := open(t, url)
	if h, err := s.AuditHead(t.Context()); err != nil || h.Seq != 0 {
		t.Fatal(h, err)
	}
	open(t, url)
}
