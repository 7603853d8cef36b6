package pgstore_test

import (
	"errors"
	"iter"
	"testing"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/migrate"
	"github.com/pkid/pkid/internal/pgstore"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// nothing is what a store without any rows gives up.
func nothing() migrate.Data {
	return migrate.Data{
		Meta:         migrate.Meta{Identity: "test"},
		Certificates: none[*ca.Record](), Changes: none[migrate.Change](), CRLs: none[crl.Signed](), Shards: none[migrate.Shard](),
		Invitations: none[*enroll.Invitation](), Clients: none[*authserver.Client](), Tokens: none[migrate.Once](),
		Uses: none[migrate.Once](), Audit: none[audit.Entry](), Keys: none[keyring.Key](),
	}
}

func none[T any]() iter.Seq2[T, error] { return func(func(T, error) bool) {} }

// An import that fails, before or after everything is there, leaves a database in which there is no store, so that
// nobody serves one without its revocations.
func TestImportIsAllOrNothing(t *testing.T) {
	url, broken := pgtest.Database(t), errors.New("broken")
	source := nothing()
	source.Keys = func(yield func(keyring.Key, error) bool) { yield(keyring.Key{}, broken) }
	accept := func(migrate.Data) error { return nil }
	for name, err := range map[string]error{
		"source": pgstore.Import(t.Context(), url, source, accept),
		"check":  pgstore.Import(t.Context(), url, nothing(), func(migrate.Data) error { return broken }),
	} {
		if !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := pgstore.Open(t.Context(), url, pgstore.Options{}); !errors.Is(err, pgstore.ErrNotStore) {
			t.Errorf("%s: opening what is left: %v", name, err)
		}
	}
	if err := pgstore.Import(t.Context(), url, nothing(), accept); err != nil {
		t.Fatal(err)
	}
	if err := pgstore.Import(t.Context(), url, nothing(), accept); !errors.Is(err, pgstore.ErrNotEmpty) {
		t.Errorf("once more: %v", err)
	}
	s, err := pgstore.Open(t.Context(), url, pgstore.Options{Identity: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
