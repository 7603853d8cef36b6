package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/pgstore"
	"github.com/pkid/pkid/internal/secret"
	"github.com/pkid/pkid/tokenbind"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// store is what the daemon asks of an engine. internal/storetest is its contract.
type store interface {
	ca.Store
	crl.Store
	crl.Revocations
	enroll.Store
	authserver.ClientStore
	authserver.RevokedTokens
	tokenbind.Replay // of assertions
	keyring.Store
	audit.Archive

	Record(ctx context.Context, ev audit.Event) error
	Audit(ctx context.Context, after uint64, limit int) ([]audit.Entry, error)
	AuditHead(ctx context.Context) (audit.Head, error)
	// RevokedTokens returns until when revoked tokens count, by the SHA-256 of their ids.
	RevokedTokens(ctx context.Context, now time.Time, limit int) (map[[32]byte]time.Time, error)
	Prune(ctx context.Context, now time.Time, keep ca.Retention, limit int) (ca.Pruned, error)
	// MarkRestored remembers that the store was brought back from a backup at an instant, and Restored returns the
	// newest such instant; zero if there was none.
	MarkRestored(ctx context.Context, at time.Time, ev audit.Event) error
	Restored(ctx context.Context) (time.Time, error)
	// Writable returns nil if something was written just now.
	Writable(ctx context.Context) error
	Close() error
}

// proofs remembers DPoP proofs; those from before since it may have forgotten.
type proofs struct {
	tokenbind.Replay
	since time.Time
}

// completeStore fills in the default store, and makes paths absolute, which are the caller's and not the directory's.
func (s *InitSpec) completeStore() (err error) {
	if s.Store == "" {
		s.Store = "bolt:pkid.db"
	} else if s.Store, err = config.AbsoluteStore(s.Store); err != nil {
		return err
	}
	if err := config.CheckStore(s.Store); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if s.StorePassword != "" {
		s.StorePassword, err = secret.Absolute("store_password", s.StorePassword)
	}
	return err
}

// createStore makes the store of a new CA, where there must be none.
func createStore(ctx context.Context, cfg *config.Config, issuer *ca.Issuer) (store, error) {
	if path := cfg.StorePath(); path != "" {
		return boltstore.Open(path, boltstore.Options{Create: true, Identity: identity(issuer)})
	}
	return openDatabase(ctx, cfg, pgstore.Options{Create: true, Identity: identity(issuer)})
}

// openStore opens the store that the configuration names, which must be the one of this CA.
func openStore(ctx context.Context, cfg *config.Config, issuer *ca.Issuer, log *slog.Logger) (store, proofs, error) {
	path := cfg.StorePath()
	if path == "" {
		s, err := openDatabase(ctx, cfg, pgstore.Options{Identity: identity(issuer), Logger: log})
		if err != nil {
			return nil, proofs{}, err
		}
		return s, proofs{Replay: s}, nil // the database forgets no proof, whichever node crashed
	}
	s, err := boltstore.Open(path, boltstore.Options{Identity: identity(issuer)})
	if err != nil {
		return nil, proofs{}, err
	}
	p := s.Proofs()
	return s, proofs{p, p.Since()}, nil
}

func openDatabase(ctx context.Context, cfg *config.Config, o pgstore.Options) (store, error) {
	url, err := cfg.StoreURL()
	if err != nil {
		return nil, err
	}
	s, err := pgstore.Open(ctx, url, o)
	if err != nil {
		return nil, err
	}
	return s, nil
}
