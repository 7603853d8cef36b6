package ca_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
)

var reasons = []ca.Reason{
	ca.Unspecified, ca.KeyCompromise, ca.CACompromise, ca.AffiliationChanged, ca.Superseded,
	ca.CessationOfOperation, ca.CertificateHold, ca.PrivilegeWithdrawn, ca.AACompromise,
}

func (b *bench) revoke(serial ca.Serial, reason ca.Reason) error {
	_, err := b.Revoke(b.t.Context(), ca.RevocationRequest{Serial: serial, Reason: reason})
	return err
}

func (b *bench) status(serial ca.Serial) ca.Status {
	b.t.Helper()
	rec, err := b.Certificate(b.t.Context(), serial)
	if err != nil {
		b.t.Fatal(err)
	}
	return rec.Status(b.now)
}

func TestRevokeEachReason(t *testing.T) {
	b := newBench(t)
	for _, reason := range reasons {
		t.Run(reason.String(), func(t *testing.T) {
			serial := b.issue().Record.Serial
			before := b.changes
			if err := b.revoke(serial, reason); err != nil {
				t.Fatal(err)
			}
			rec, err := b.Certificate(t.Context(), serial)
			if err != nil || rec.Revocation == nil || rec.Revocation.Reason != reason || !rec.Revocation.At.Equal(b.now.Truncate(time.Millisecond)) {
				t.Errorf("recorded %+v, %v", rec.Revocation, err)
			}
			if want := map[bool]ca.Status{true: ca.Held, false: ca.Revoked}[reason == ca.CertificateHold]; rec.Status(b.now) != want {
				t.Errorf("status %s", rec.Status(b.now))
			}
			if b.changes != before+1 {
				t.Errorf("told %d times", b.changes-before)
			}
			if text, err := ca.ParseReason(reason.String()); err != nil || text != reason {
				t.Errorf("reason reads back as %v, %v", text, err)
			}
		})
	}
}

func TestRevokeTwice(t *testing.T) {
	for _, c := range []struct {
		why   string
		steps []ca.Reason
		want  error // of the last step
		as    bool  // or an AlreadyRevokedError
		end   ca.Status
	}{
		{"twice", []ca.Reason{ca.KeyCompromise, ca.Superseded}, nil, true, ca.Revoked},
		{"revoked, then held", []ca.Reason{ca.KeyCompromise, ca.CertificateHold}, nil, true, ca.Revoked},
		{"held twice", []ca.Reason{ca.CertificateHold, ca.CertificateHold}, nil, true, ca.Held},
		{"held, then revoked", []ca.Reason{ca.CertificateHold, ca.KeyCompromise}, nil, false, ca.Revoked},
		{"held and released", []ca.Reason{ca.CertificateHold, ca.RemoveFromCRL}, nil, false, ca.Active},
		{"held, released and revoked", []ca.Reason{ca.CertificateHold, ca.RemoveFromCRL, ca.Superseded}, nil, false, ca.Revoked},
		{"released without a hold", []ca.Reason{ca.RemoveFromCRL}, ca.ErrReason, false, ca.Active},
		{"revoked, then released", []ca.Reason{ca.KeyCompromise, ca.RemoveFromCRL}, ca.ErrReason, false, ca.Revoked},
		{"held, revoked, then released", []ca.Reason{ca.CertificateHold, ca.KeyCompromise, ca.RemoveFromCRL}, ca.ErrReason, false, ca.Revoked},
		{"reason 7", []ca.Reason{7}, ca.ErrReason, false, ca.Active},
		{"reason 11", []ca.Reason{11}, ca.ErrReason, false, ca.Active},
	} {
		t.Run(c.why, func(t *testing.T) {
			b := newBench(t)
			serial := b.issue().Record.Serial
			for _, r := range c.steps[:len(c.steps)-1] {
				if err := b.revoke(serial, r); err != nil {
					t.Fatal(err)
				}
			}
			told := b.changes
			err := b.revoke(serial, c.steps[len(c.steps)-1])
			already, is := errors.AsType[*ca.AlreadyRevokedError](err)
			if !errors.Is(err, c.want) && !c.as || is != c.as {
				t.Errorf("got %v", err)
			}
			if is && (already.Serial != serial || already.Reason != c.steps[0]) {
				t.Errorf("told of %+v", already)
			}
			if got := b.status(serial); got != c.end {
				t.Errorf("ended as %s, want %s", got, c.end)
			}
			if (err != nil) != (b.changes == told) {
				t.Errorf("err %v, told of %d changes", err, b.changes-told)
			}
		})
	}
	if err := newBench(t).revoke(ca.Serial{1}, ca.Superseded); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("unknown serial: %v", err)
	}
}

// TestRevokeUnderFaults is invariant 1's second half.
func TestRevokeUnderFaults(t *testing.T) {
	b := newBench(t)
	serial := b.issue().Record.Serial
	b.store.before = true
	if err := b.revoke(serial, ca.KeyCompromise); !errors.Is(err, errFault) || b.changes != 0 {
		t.Errorf("got %v, told of %d changes", err, b.changes)
	}
	b.store.before = false
	if got := b.status(serial); got != ca.Active {
		t.Errorf("not recorded, and yet %s", got)
	}
	b.store.after = true
	if err := b.revoke(serial, ca.KeyCompromise); !errors.Is(err, errFault) {
		t.Errorf("got %v", err)
	}
	b.store.after = false
	b.restart()
	if err := b.revoke(serial, ca.KeyCompromise); err == nil {
		t.Error("what was recorded was lost")
	}
	if got := b.status(serial); got != ca.Revoked {
		t.Errorf("recorded, and yet %s", got)
	}
}

// TestRevokeWhenNobodyWaits: the caller left while the transaction was under way, and it went through. The CRL
// must follow all the same.
func TestRevokeWhenNobodyWaits(t *testing.T) {
	b := newBench(t)
	serial := b.issue().Record.Serial
	ctx, cancel := context.WithCancel(t.Context())
	b.store.onDecide = cancel
	b.store.after = true
	if _, err := b.Revoke(ctx, ca.RevocationRequest{Serial: serial, Reason: ca.KeyCompromise}); err == nil {
		t.Fatal("acknowledged")
	}
	if b.changes != 1 {
		t.Errorf("told of %d changes", b.changes)
	}
}
