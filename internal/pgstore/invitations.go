package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
)

const (
	invitationSQL = `SELECT secret_hash, client_id, profile, names, lifetime, created_at, expires_at, spent_serial, spent_use
		FROM invitations WHERE id = $1`
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
	inv := &enroll.Invitation{ID: id}
	var lifetime int64
	var hash, names, serial, use []byte
	err := s.view(ctx, "reading an invitation", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, invitationSQL, id).
			Scan(&hash, &inv.ClientID, &inv.Profile, &names, &lifetime, &inv.CreatedAt, &inv.ExpiresAt, &serial, &use)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errNoInvitation
	}
	if err != nil {
		return nil, err
	}
	inv.Lifetime, inv.CreatedAt, inv.ExpiresAt = time.Duration(lifetime), inv.CreatedAt.UTC(), inv.ExpiresAt.UTC()
	if err := errors.Join(fill(inv.SecretHash[:], hash), json.Unmarshal(names, &inv.Names)); err != nil {
		return nil, fmt.Errorf("invitation %s: %w: %w", id, errDamaged, err)
	}
	if serial != nil {
		inv.Spent = &enroll.Spent{Serial: ca.Serial{}}
		if err := errors.Join(fill(inv.Spent.Serial[:], serial), fill(inv.Spent.Use[:], use)); err != nil {
			return nil, fmt.Errorf("invitation %s: %w", id, err)
		}
	}
	return inv, nil
}
