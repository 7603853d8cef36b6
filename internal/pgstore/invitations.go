package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
)

const (
	invitationsSQL = `SELECT id, secret_hash, client_id, profile, names, lifetime, created_at, expires_at, spent_serial, spent_use
		FROM invitations WHERE id = ANY($1::text[])`
	putInvitationSQL = `INSERT INTO invitations (id, secret_hash, client_id, profile, names, lifetime, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`
)

// PutInvitation implements enroll.Store.
func (s *Store) PutInvitation(ctx context.Context, inv *enroll.Invitation, ev audit.Event) error {
	if err := errors.Join(checkID("invitation", inv.ID), checkTexts("invitation "+inv.ID, inv.ClientID, inv.Profile)); err != nil {
		return err
	}
	names, err := json.Marshal(inv.Names)
	if err != nil {
		return fmt.Errorf("encoding invitation %s: %w", inv.ID, err)
	}
	exists := false
	return s.update(ctx, change{
		touches: []string{theInvitation(inv.ID)},
		read: func(q *reads) {
			q.queue("SELECT EXISTS (SELECT FROM invitations WHERE id = $1)", inv.ID).
				QueryRow(func(row pgx.Row) error { return row.Scan(&exists) })
		},
		apply: func(t *tx) error {
			if exists {
				return fmt.Errorf("invitation %s exists already", inv.ID) // an id is 128 random bits
			}
			t.exec(putInvitationSQL, inv.ID, inv.SecretHash[:], inv.ClientID, inv.Profile, names, int64(inv.Lifetime), inv.CreatedAt, inv.ExpiresAt)
			t.seal(ev)
			return nil
		},
	})
}

// Invitation implements enroll.Store.
func (s *Store) Invitation(ctx context.Context, id string) (*enroll.Invitation, error) {
	if !isText(id) {
		return nil, errNoInvitation
	}
	row, found, err := s.invitations.get(ctx, id)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, errNoInvitation
	}
	return row.invitation(id)
}

// storedInvitation is an invitation as the table has it.
type storedInvitation struct {
	clientID, profile        string
	hash, names, serial, use []byte
	lifetime                 int64 // ns
	createdAt, expiresAt     time.Time
}

func findInvitations(ctx context.Context, conn *pgx.Conn, ids []string) (map[string]storedInvitation, error) {
	rows, err := conn.Query(ctx, invitationsSQL, ids)
	return collect(rows, err, func(row pgx.CollectableRow) (id string, r storedInvitation, err error) {
		err = row.Scan(&id, &r.hash, &r.clientID, &r.profile, &r.names, &r.lifetime, &r.createdAt, &r.expiresAt, &r.serial, &r.use)
		return id, r, err
	})
}

func (r *storedInvitation) invitation(id string) (*enroll.Invitation, error) {
	inv := &enroll.Invitation{
		ID: id, ClientID: r.clientID, Profile: r.profile, Lifetime: time.Duration(r.lifetime),
		CreatedAt: r.createdAt.UTC(), ExpiresAt: r.expiresAt.UTC(),
	}
	if err := errors.Join(fill(inv.SecretHash[:], r.hash), json.Unmarshal(r.names, &inv.Names)); err != nil {
		return nil, fmt.Errorf("invitation %s: %w: %w", id, errDamaged, err)
	}
	if r.serial != nil {
		inv.Spent = &enroll.Spent{}
		if err := errors.Join(fill(inv.Spent.Serial[:], r.serial), fill(inv.Spent.Use[:], r.use)); err != nil {
			return nil, fmt.Errorf("invitation %s: %w", id, err)
		}
	}
	return inv, nil
}
