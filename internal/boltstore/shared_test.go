package boltstore

import (
	"path/filepath"
	"testing"

	"github.com/pkid/pkid/internal/storetest"
)

// One process has the file open, so the races are those within it.
func TestContractOfRaces(t *testing.T) {
	storetest.RunShared(t, func(t *testing.T, dir string) storetest.Engine {
		return openTest(t, filepath.Join(dir, "pkid.db"))
	}, 1)
}
