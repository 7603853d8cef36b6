package pgstore_test

import (
	"sync"
	"testing"

	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/storetest"
)

// Three nodes have the same database.
func TestContractOfRaces(t *testing.T) {
	storetest.RunShared(t, opener(), 3)
}

// opener gives each directory that the contract names a database of its own.
func opener() storetest.Open {
	var mu sync.Mutex // guards urls
	urls := map[string]string{}
	return func(t *testing.T, dir string) storetest.Engine {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if urls[dir] == "" {
			urls[dir] = pgtest.Database(t)
		}
		return open(t, urls[dir])
	}
}
