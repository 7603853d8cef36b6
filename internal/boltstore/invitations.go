package boltstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
)

// keepInvitations is how long an invitation stays after it expired, spent or not, so that somebody who comes
// late is told so and not that it never was.
const keepInvitations = 30 * 24 * time.Hour

// invitation is the stored form of an enroll.Invitation, whose own member names may change.
type invitation struct {
	Secret    []byte        `json:"secret_hash"`
	Client    string        `json:"client"`
	Profile   string        `json:"profile"`
	Name      string        `json:"cn"`
	DNS       []string      `json:"dns,omitempty"`
	IPs       []netip.Addr  `json:"ips,omitempty"`
	URIs      []string      `json:"uris,omitempty"`
	Emails    []string      `json:"emails,omitempty"`
	Lifetime  time.Duration `json:"lifetime,omitempty"` // ns
	CreatedAt time.Time     `json:"created_at"`
	ExpiresAt time.Time     `json:"expires_at"`
	Serial    ca.Serial     `json:"serial,omitzero"` // once it is spent: for which certificate,
	Use       []byte        `json:"use,omitempty"`   // and by which request
}

// PutInvitation implements enroll.Store.
func (s *Store) PutInvitation(ctx context.Context, inv *enroll.Invitation, ev audit.Event) error {
	if err := checkID("invitation", inv.ID); err != nil {
		return err
	}
	key := []byte(inv.ID)
	stored := invitation{
		Secret: inv.SecretHash[:], Client: inv.ClientID, Profile: inv.Profile,
		Name: inv.Names.CommonName, DNS: inv.Names.DNS, IPs: inv.Names.IPs, URIs: inv.Names.URIs, Emails: inv.Names.Emails,
		Lifetime: inv.Lifetime, CreatedAt: inv.CreatedAt, ExpiresAt: inv.ExpiresAt,
	}
	v, err := json.Marshal(stored)
	if err != nil {
		return fmt.Errorf("encoding invitation %s: %w", inv.ID, err)
	}
	return s.update(ctx, func(t *tx) error {
		if t.get(invitations, key) != nil {
			return fmt.Errorf("invitation %s exists already", inv.ID) // an id is 128 random bits
		}
		return errors.Join(
			t.put(invitations, key, v),
			t.put(due, dueKey(stamp(inv.ExpiresAt.Add(keepInvitations)), dueInvitation, key), nil),
			t.seal(ev),
		)
	})
}

// Invitation implements enroll.Store.
func (s *Store) Invitation(ctx context.Context, id string) (*enroll.Invitation, error) {
	var i *invitation
	err := s.view(ctx, func(t *tx) (err error) {
		i, err = t.invitation(id)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &enroll.Invitation{
		ID: id, ClientID: i.Client, Profile: i.Profile,
		Names:    ca.Names{CommonName: i.Name, DNS: i.DNS, IPs: i.IPs, URIs: i.URIs, Emails: i.Emails},
		Lifetime: i.Lifetime, CreatedAt: i.CreatedAt.UTC(), ExpiresAt: i.ExpiresAt.UTC(),
	}
	copy(out.SecretHash[:], i.Secret)
	if i.spent() {
		out.Spent = &enroll.Spent{Serial: i.Serial}
		copy(out.Spent.Use[:], i.Use)
	}
	return out, nil
}

func (i *invitation) spent() bool { return len(i.Use) > 0 }

// invitation reads a stored invitation, or returns enroll.ErrInvitation.
func (t *tx) invitation(id string) (*invitation, error) {
	v := t.get(invitations, []byte(id))
	if v == nil {
		return nil, fmt.Errorf("%w: there is none with that id", enroll.ErrInvitation)
	}
	i := new(invitation)
	if err := json.Unmarshal(v, i); err != nil {
		return nil, fmt.Errorf("reading invitation %s: %w", id, err)
	}
	return i, nil
}

// unspent returns the invitation that a certificate is to use up, or nil if it uses up none. The errors are
// enroll.ErrInvitation and *ca.SpentError.
func (t *tx) unspent(spend *ca.Spend) (*invitation, error) {
	if spend == nil {
		return nil, nil //nolint:nilnil // nothing to spend is no error
	}
	i, err := t.invitation(spend.ID)
	if err != nil {
		return nil, err
	}
	if i.spent() {
		return nil, &ca.SpentError{Spend: ca.Spend{ID: spend.ID, Use: [32]byte(i.Use)}, Serial: i.Serial}
	}
	return i, nil
}

// spend marks the invitation that unspent returned.
func (t *tx) spend(i *invitation, spend *ca.Spend, serial ca.Serial) error {
	if i == nil {
		return nil
	}
	i.Serial, i.Use = serial, spend.Use[:]
	v, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("encoding invitation %s: %w", spend.ID, err)
	}
	return t.put(invitations, []byte(spend.ID), v)
}
