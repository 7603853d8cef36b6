package ca_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
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

// line is a certificate, its successor and that one's, each for another key.
func (b *bench) line() (first, second, third *ca.Record) {
	b.t.Helper()
	out := []*ca.Record{b.issue().Record}
	for range 2 {
		next, err := b.renew(out[len(out)-1], newKey(b.t))
		if err != nil {
			b.t.Fatal(err)
		}
		out = append(out, next.Record)
	}
	return out[0], out[1], out[2]
}

func (b *bench) wantStatus(want ca.Status, records ...*ca.Record) {
	b.t.Helper()
	for _, rec := range records {
		if got := b.status(rec.Serial); got != want {
			b.t.Errorf("%s is %s, want %s", rec.Serial, got, want)
		}
	}
}

// TestRevokeLineage: who stole a key renewed its certificate, for a key of their own, before the theft was
// noticed. What the holder has beside it stays.
func TestRevokeLineage(t *testing.T) {
	for _, gap := range []time.Duration{0, time.Hour, -4 * time.Minute} { // serials of one millisecond have no order
		t.Run(gap.String(), func(t *testing.T) {
			b := newBench(t)
			b.now = b.now.Add(time.Hour)
			b.store.page = 2
			sibling := b.issue().Record
			first := b.issue().Record
			var all []*ca.Record
			parents := []*ca.Record{first}
			for range 3 {
				b.now = b.now.Add(gap)
				var next []*ca.Record
				for _, p := range parents {
					for range 2 {
						issued, err := b.renew(p, newKey(t))
						if err != nil {
							t.Fatal(err)
						}
						next = append(next, issued.Record)
					}
				}
				all, parents = append(all, next...), next
				gap = max(gap, 0)
			}
			if err := b.revoke(all[1].Serial, ca.CertificateHold); err != nil {
				t.Fatal(err)
			}
			if err := b.revoke(all[2].Serial, ca.Superseded); err != nil { // its successors still count
				t.Fatal(err)
			}
			done, err := b.Revoke(t.Context(), ca.RevocationRequest{Serial: first.Serial, Reason: ca.KeyCompromise, Lineage: true})
			if err != nil || done.Record.Serial != first.Serial || len(done.Also) != len(all)-1 || len(done.Active) != 0 {
				t.Fatalf("got %+v, %v", done, err)
			}
			b.wantStatus(ca.Revoked, append(all, first)...)
			b.wantStatus(ca.Active, sibling)
			events := map[string]string{}
			entries, err := b.store.bolt.Audit(t.Context(), 0, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if e.Action == audit.Revoke && e.Detail["reason"] == "keyCompromise" {
					events[e.Subject] = e.Detail["lineage"]
				}
			}
			for _, serial := range done.Also {
				if got := events[serial.String()]; got != first.Serial.String() {
					t.Errorf("the audit log has %q as lineage of %s", got, serial)
				}
			}
			if root, ok := events[first.Serial.String()]; !ok || root != "" {
				t.Errorf("the audit log has %q as lineage of the first", root)
			}
		})
	}
}

// TestRevokeLineageFromItsEnd: a renewal keeps the key unless it is asked for another, so the certificates
// before the one that was stolen are no better than it.
func TestRevokeLineageFromItsEnd(t *testing.T) {
	b := newBench(t)
	first, second, third := b.line()
	sibling := b.issue().Record
	done, err := b.Revoke(t.Context(), ca.RevocationRequest{Serial: third.Serial, Reason: ca.KeyCompromise, Lineage: true})
	if err != nil || len(done.Also) != 2 {
		t.Fatalf("got %+v, %v; want the two before it revoked with it", done, err)
	}
	b.wantStatus(ca.Revoked, first, second, third)
	b.wantStatus(ca.Active, sibling)
}

// TestRevokeWithoutLineage tells of the successors that work on, and a second try can revoke these.
func TestRevokeWithoutLineage(t *testing.T) {
	b := newBench(t)
	first, second, third := b.line()
	done, err := b.Revoke(t.Context(), ca.RevocationRequest{Serial: first.Serial, Reason: ca.Superseded})
	if err != nil || len(done.Also) != 0 || len(done.Active) != 2 {
		t.Fatalf("got %+v, %v", done, err)
	}
	b.wantStatus(ca.Active, second, third)
	if _, already := errors.AsType[*ca.AlreadyRevokedError](b.revoke(first.Serial, ca.Superseded)); !already {
		t.Error("a second revocation without lineage succeeds")
	}
	again := ca.RevocationRequest{Serial: first.Serial, Lineage: true}
	if done, err = b.Revoke(t.Context(), again); err != nil || len(done.Also) != 2 {
		t.Fatalf("got %+v, %v", done, err)
	}
	if rec, err := b.Certificate(t.Context(), third.Serial); err != nil || rec.Revocation.Reason != ca.Superseded {
		t.Errorf("%+v, %v: want the reason of the first", rec.Revocation, err)
	}
	done, err = b.Revoke(t.Context(), again)
	if _, already := errors.AsType[*ca.AlreadyRevokedError](err); !already {
		t.Errorf("a third time: %+v, %v", done, err)
	}
	for _, reason := range []ca.Reason{ca.CertificateHold, ca.RemoveFromCRL} {
		if _, err := b.Revoke(t.Context(), ca.RevocationRequest{Serial: b.issue().Record.Serial, Reason: reason, Lineage: true}); !errors.Is(err, ca.ErrReason) {
			t.Errorf("%s with lineage: %v", reason, err)
		}
	}
}

// TestRevokeLineageUnderFaults: the disk fills up after the certificate's own revocation.
func TestRevokeLineageUnderFaults(t *testing.T) {
	b := newBench(t)
	first, second, third := b.line()
	r := ca.RevocationRequest{Serial: first.Serial, Reason: ca.KeyCompromise, Lineage: true}
	b.store.onDecide = func() { b.store.before = true }
	_, err := b.Revoke(t.Context(), r)
	partly, ok := errors.AsType[*ca.LineageError](err)
	if !ok || partly.Serial != first.Serial || !errors.Is(err, errFault) {
		t.Errorf("got %v", err)
	}
	b.wantStatus(ca.Revoked, first)
	b.wantStatus(ca.Active, second, third)
	b.store.before, b.store.onDecide = false, nil
	if done, err := b.Revoke(t.Context(), r); err != nil || len(done.Also) != 2 {
		t.Errorf("trying again: %+v, %v", done, err)
	}
	b.wantStatus(ca.Revoked, second, third)
}

// TestRevokeLineageOfARenewalUnderWay: the certificate is renewed while its lineage is revoked, after the look
// for successors and before the revocation of what is renewed.
func TestRevokeLineageOfARenewalUnderWay(t *testing.T) {
	b := newBench(t)
	first, second, third := b.line()
	var late []*ca.Record
	b.store.onDecide = func() {
		if len(late) == 4 {
			return
		}
		for _, rec := range []*ca.Record{second, third} {
			if issued, err := b.renew(rec, newKey(t)); err == nil {
				late = append(late, issued.Record)
			}
		}
	}
	if _, err := b.Revoke(t.Context(), ca.RevocationRequest{Serial: first.Serial, Reason: ca.KeyCompromise, Lineage: true}); err != nil {
		t.Fatal(err)
	}
	if len(late) == 0 {
		t.Fatal("nothing was renewed meanwhile")
	}
	b.wantStatus(ca.Revoked, append(late, first, second, third)...)
}

// TestRevokeLineageWithAnotherOperator: a successor that somebody else revokes in the meantime ends nothing.
func TestRevokeLineageWithAnotherOperator(t *testing.T) {
	b := newBench(t)
	first, second, third := b.line()
	decided, others := 0, 0
	b.store.onDecide = func() {
		if decided++; decided == 2 { // that of a successor; the other operator takes the other one
			for _, rec := range []*ca.Record{second, third} {
				if err := b.revoke(rec.Serial, ca.Superseded); err == nil {
					others++
				}
			}
		}
	}
	done, err := b.Revoke(t.Context(), ca.RevocationRequest{Serial: first.Serial, Reason: ca.KeyCompromise, Lineage: true})
	if err != nil || len(done.Also) != 1 || others != 1 {
		t.Errorf("got %+v, %v; the other revoked %d", done, err, others)
	}
	b.wantStatus(ca.Revoked, first, second, third)
}

// TestRevokeAnothersCertificate: nobody here publishes the CRL of the issuing CA before this one.
func TestRevokeAnothersCertificate(t *testing.T) {
	b := newBench(t)
	old := *b.issue().Record
	old.Serial[15]++
	old.Issuer, old.DER = "00112233445566", append([]byte(nil), append(old.DER, 0)...)
	old.Thumbprint = thumbprint.OfDER(old.DER)
	if err := b.store.bolt.Insert(t.Context(), &old, nil, audit.Event{Action: audit.Issue}); err != nil {
		t.Fatal(err)
	}
	if err := b.revoke(old.Serial, ca.KeyCompromise); !errors.Is(err, ca.ErrIssuer) {
		t.Errorf("revoking: %v", err)
	}
	b.wantStatus(ca.Active, &old)
	if _, err := b.Issued(t.Context(), old.Serial); !errors.Is(err, ca.ErrIssuer) {
		t.Errorf("showing it with this CA's chain: %v", err)
	}
}

// TestRevokeTellsOfTheRestOfTheLineage: what is before the certificate works on as well as what is after it.
func TestRevokeTellsOfTheRestOfTheLineage(t *testing.T) {
	b := newBench(t)
	first, second, third := b.line()
	done, err := b.Revoke(t.Context(), ca.RevocationRequest{Serial: second.Serial, Reason: ca.Superseded})
	if err != nil || !slices.Equal(done.Active, []ca.Serial{first.Serial, third.Serial}) {
		t.Errorf("got %+v, %v; want the first and the third", done, err)
	}
}
