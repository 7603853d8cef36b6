package boltstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
)

// An invitation is written once: a version octet, then its members. That it was used up is a record of its own, the
// certificate's serial and the use.
const (
	invitationVersion = 1
	spentLen          = len(ca.Serial{}) + len(ca.Spend{}.Use)
)

func encodeInvitation(inv *enroll.Invitation) []byte {
	b := append([]byte{invitationVersion}, inv.SecretHash[:]...)
	b = appendText(appendText(appendText(b, inv.ClientID), inv.Profile), inv.Names.CommonName)
	for _, list := range [][]string{inv.Names.DNS, inv.Names.URIs, inv.Names.Emails} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, s := range list {
			b = appendText(b, s)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(inv.Names.IPs)))
	for _, ip := range inv.Names.IPs {
		b = appendText(b, ip.String())
	}
	b = binary.AppendVarint(b, int64(inv.Lifetime))
	b = binary.AppendVarint(b, inv.CreatedAt.UnixMilli())
	return binary.AppendVarint(b, inv.ExpiresAt.UnixMilli())
}

// decodeInvitation reads what encodeInvitation wrote, and spent, if there is such a record.
func decodeInvitation(id string, v, spent []byte) (*enroll.Invitation, error) {
	f := fields{rest: v}
	inv, err := &enroll.Invitation{ID: id}, error(nil)
	if f.octet() != invitationVersion {
		err = errDamaged
	}
	copy(inv.SecretHash[:], f.take(len(inv.SecretHash)))
	inv.ClientID, inv.Profile, inv.Names.CommonName = string(f.text()), string(f.text()), string(f.text())
	inv.Names.DNS, inv.Names.URIs, inv.Names.Emails = f.texts(), f.texts(), f.texts()
	for _, s := range f.texts() {
		ip, e := netip.ParseAddr(s)
		inv.Names.IPs, err = append(inv.Names.IPs, ip), errors.Join(err, e)
	}
	inv.Lifetime = time.Duration(f.number())
	inv.CreatedAt, inv.ExpiresAt = time.UnixMilli(f.number()).UTC(), time.UnixMilli(f.number()).UTC()
	if err != nil || f.short || len(f.rest) > 0 || spent != nil && len(spent) != spentLen {
		return nil, fmt.Errorf("invitation %s: %w", id, errors.Join(errDamaged, err))
	}
	if spent != nil {
		inv.Spent = &enroll.Spent{Serial: ca.Serial(spent), Use: [32]byte(spent[len(ca.Serial{}):])}
	}
	return inv, nil
}

func (f *fields) texts() []string {
	var out []string
	for range f.count() {
		s := f.text()
		if f.short {
			return nil
		}
		out = append(out, string(s))
	}
	return out
}

// PutInvitation implements enroll.Store.
func (s *Store) PutInvitation(ctx context.Context, inv *enroll.Invitation, ev audit.Event) error {
	if err := checkID("invitation", inv.ID); err != nil {
		return err
	}
	key, v := []byte(inv.ID), encodeInvitation(inv)
	return s.update(ctx, func(t *tx) error {
		if t.get(invitations, key) != nil {
			return fmt.Errorf("invitation %s exists already", inv.ID) // an id is 128 random bits
		}
		return errors.Join(
			t.put(invitations, key, v),
			t.put(ended, join(stamp(inv.ExpiresAt), key), nil),
			t.seal(ev),
		)
	})
}

var errNoInvitation = fmt.Errorf("%w: there is none with that id", enroll.ErrInvitation)

// Invitation implements enroll.Store.
func (s *Store) Invitation(ctx context.Context, id string) (*enroll.Invitation, error) {
	var inv *enroll.Invitation
	err := s.view(ctx, func(t *tx) (err error) {
		v := t.get(invitations, []byte(id))
		if v == nil {
			return errNoInvitation
		}
		inv, err = decodeInvitation(id, v, t.get(spent, []byte(id)))
		return err
	})
	return inv, err
}

// unspent checks the right that a certificate is to use up, if it uses up one. The errors are enroll.ErrInvitation
// and *ca.SpentError.
func (t *tx) unspent(spend *ca.Spend) error {
	if spend == nil {
		return nil
	}
	if t.get(invitations, []byte(spend.ID)) == nil {
		return errNoInvitation
	}
	v := t.get(spent, []byte(spend.ID))
	switch {
	case v == nil:
		return nil
	case len(v) != spentLen:
		return fmt.Errorf("invitation %s: %w", spend.ID, errDamaged)
	}
	return &ca.SpentError{Spend: ca.Spend{ID: spend.ID, Use: [32]byte(v[len(ca.Serial{}):])}, Serial: ca.Serial(v)}
}

// spend uses up what unspent found.
func (t *tx) spend(spend *ca.Spend, serial ca.Serial) error {
	if spend == nil {
		return nil
	}
	return t.put(spent, []byte(spend.ID), join(serial[:], spend.Use[:]))
}
