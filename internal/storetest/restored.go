package storetest

import (
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
)

var restoredTests = map[string]func(*testing.T, *store){
	// A store that was brought back from a backup knows that it was, and when.
	"RestoredMark": func(t *testing.T, s *store) {
		if at, err := s.Restored(t.Context()); err != nil || !at.IsZero() {
			t.Fatalf("a new store was restored at %s, %v", at, err)
		}
		for _, at := range []time.Time{start, start.Add(time.Hour)} {
			if err := s.MarkRestored(t.Context(), at, event(audit.Restore, "store")); err != nil {
				t.Fatal(err)
			}
			s.reopen(t)
			if got, err := s.Restored(t.Context()); err != nil || !got.Equal(at) {
				t.Errorf("restored at %s, %v; want %s", got, err, at)
			}
		}
		if head, err := s.AuditHead(t.Context()); err != nil || head.Seq != 2 {
			t.Errorf("%d entries, %v; want one for each", head.Seq, err)
		}
	},
	// Of certificates whose records were lost nothing is known but the serial number; they have no text of their own, and
	// are revoked all the same.
	"LostRecords": func(t *testing.T, s *store) {
		lost := func(r *ca.Record) {
			r.ClientID, r.Profile, r.Names, r.DER = ca.UnknownClient, "", nil, nil
		}
		a, b := record("x", 0, lost), record("x", time.Second, lost)
		insert(t, s, a, b)
		revoke(t, s, a.Serial, &ca.Revocation{Reason: ca.KeyCompromise, At: start})
		revoke(t, s, b.Serial, &ca.Revocation{Reason: ca.Superseded, At: start})
		var listed int
		for e, err := range s.Revoked(t.Context(), crl.Shard{Issuer: issuerID}, start) {
			if err != nil {
				t.Fatal(err)
			}
			if string(e.Serial) != string(a.Serial[:]) && string(e.Serial) != string(b.Serial[:]) {
				t.Errorf("%x is listed", e.Serial)
			}
			listed++
		}
		if listed != 2 {
			t.Errorf("%d are listed, want 2", listed)
		}
		got, err := s.Certificate(t.Context(), b.Serial)
		if err != nil || len(got.DER) != 0 || got.ClientID != ca.UnknownClient || got.Revocation == nil || got.Revocation.Reason != ca.Superseded {
			t.Errorf("read back: %+v, %v", got, err)
		}
	},
}
