package boltstore

import (
	"path/filepath"
	"testing"

	"github.com/pkid/pkid/internal/storetest"
)

func openTest(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T, dir string) storetest.Engine {
		return openTest(t, filepath.Join(dir, "pkid.db"))
	})
}
