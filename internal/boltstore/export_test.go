package boltstore

import (
	"context"
	"errors"
	"iter"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/migrate"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// TestExport: everything is given up, and as the store's own methods tell of it.
func TestExport(t *testing.T) {
	path, ctx := filepath.Join(t.TempDir(), "pkid.db"), t.Context()
	s, err := Open(path, Options{Create: true, Identity: "the CA"})
	if err != nil {
		t.Fatal(err)
	}
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	later := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	inv := &enroll.Invitation{ID: strings.Repeat("ab", 16), ClientID: "a", Profile: "client", CreatedAt: later, ExpiresAt: later}
	first, second := newRecord("a"), newRecord("b")
	second.Serial[5]++ // made a little later
	shard := crl.Shard{Issuer: first.Issuer}
	list := crl.Signed{Shard: shard, Number: 7, ThisUpdate: later, NextUpdate: later, DER: crl.DER{[]byte("a list")}}
	_, errClient := s.PutClient(ctx, authserver.Client{ID: "a", Auth: authserver.TLSClientAuth}, event("a"))
	_, errKey := s.PutKey(ctx, keyring.Key{ID: "k", Use: keyring.Tokens}, event("k"))
	must(
		errClient, errKey,
		s.PutInvitation(ctx, inv, event(inv.ID)),
		s.Insert(ctx, first, &ca.Spend{ID: inv.ID, Use: [32]byte{9}}, event("a")),
		s.Insert(ctx, second, nil, event("b")),
		s.Replace(ctx, crl.Signed{}, list),
		s.RevokeToken(ctx, "jti", later, event("jti")),
		s.Use(ctx, [32]byte{1}, later),
		s.Use(ctx, [32]byte{2}, time.Now().Add(-time.Hour)), // of no more use
		s.Proofs().Use(ctx, [32]byte{3}, later),
	)
	_, err = s.Decide(ctx, second.Serial, func(*ca.Record) (*ca.Revocation, audit.Event, error) {
		return &ca.Revocation{Reason: ca.KeyCompromise, At: later}, event("b"), nil
	})
	must(err, s.Close())

	s = openTest(t, path)
	data, err := s.Export(ctx)
	must(err)
	moved, err := migrate.Move(ctx, data, func(_ context.Context, data migrate.Data, check func(migrate.Data) error) error {
		if got := all(t, data.Certificates); len(got) != 2 || got[0].Thumbprint != first.Thumbprint || got[1].Revocation == nil {
			t.Errorf("certificates: %+v", got)
		}
		if got := all(t, data.Changes); len(got) != 1 || got[0].Shard != shard || got[0].Position != 1 || got[0].Reason != int(ca.KeyCompromise) {
			t.Errorf("changes: %+v", got)
		}
		if got := all(t, data.CRLs); len(got) != 1 || got[0].Number != 7 || string(got[0].DER.Bytes()) != "a list" {
			t.Errorf("CRLs: %+v", got)
		}
		if got := all(t, data.Shards); len(got) != 1 || got[0].Issuer != first.Issuer || got[0].Certificates != 2 {
			t.Errorf("shards: %+v", got)
		}
		if got := all(t, data.Invitations); len(got) != 1 || got[0].Spent == nil || got[0].Spent.Serial != first.Serial {
			t.Errorf("invitations: %+v", got)
		}
		if got := all(t, data.Clients); len(got) != 1 || got[0].Version != 1 {
			t.Errorf("clients: %+v", got)
		}
		if got := all(t, data.Uses); len(got) != 2 {
			t.Errorf("uses: %+v", got)
		}
		if got := all(t, data.Tokens); len(got) != 1 || !got[0].Until.Equal(later) {
			t.Errorf("revoked tokens: %+v", got)
		}
		if got := all(t, data.Audit); len(got) != 7 {
			t.Errorf("audit log: %+v", got)
		}
		if got := all(t, data.Keys); len(got) != 1 || got[0].ID != "k" {
			t.Errorf("keys: %+v", got)
		}
		if m := data.Meta; m.Identity != "the CA" || m.Position != 1 || m.AuditHead.Seq != 7 {
			t.Errorf("meta: %+v", m)
		}
		return check(data)
	})
	must(err)
	for _, k := range moved {
		if k.Rows == 0 {
			t.Errorf("no %s moved", k.Name)
		}
	}
}

func all[T any](t *testing.T, rows iter.Seq2[T, error]) (out []T) {
	t.Helper()
	for row, err := range rows {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, row)
	}
	return out
}

// TestExportAfterACrash: what proofs were taken just before a crash is not known, so nobody else may take over yet.
func TestExportAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	useProof(t, s, 1, nil)
	crashed := path + ".crashed"
	copyFile(t, path, crashed)
	now := time.Now()
	s, err := Open(crashed, Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Export(t.Context()); !errors.Is(err, ErrProofsUnknown) {
		t.Errorf("right after the crash: %v", err)
	}
	now = now.Add(proofsKnown)
	if _, err := s.Export(t.Context()); err != nil {
		t.Errorf("later: %v", err)
	}
}
