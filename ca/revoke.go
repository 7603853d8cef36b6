package ca

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

// RevocationRequest asks to revoke, to hold (CertificateHold) or to release what is held (RemoveFromCRL).
type RevocationRequest struct {
	Serial Serial
	Reason Reason
	// Lineage also revokes every other certificate of the lineage that is active or held, for the same reason:
	// those before it may have the same key, and who stole the key may have renewed it already, for a key that
	// the thief alone has. It does not go with a hold or a release, which concern one certificate.
	Lineage bool
}

// RevocationOutcome is what Revoke did.
type RevocationOutcome struct {
	Record *Record
	Also   []Serial // of its lineage, revoked with it, oldest first
	Active []Serial // of its lineage, active still, oldest first; empty after a hold or a release
	// LineageErr is why Active is not known: what concerns one certificate took effect, whatever becomes of the look at
	// the others.
	LineageErr error
}

// Revoke records a revocation, a hold or a release, and tells Changed. When it returns without error the
// record is durable, that of each other certificate with an audit entry of its own. A clock that jumped back does not keep
// it from that.
//
// A certificate that is revoked already is an error, unless Lineage finds others to revoke: these are
// revoked then, for the certificate's own reason if r has none. So a *LineageError can be tried again.
// Errors: ErrNotFound, ErrIssuer, ErrReason, *AlreadyRevokedError, *LineageError.
func (a *Authority) Revoke(ctx context.Context, r RevocationRequest) (*RevocationOutcome, error) {
	alone := r.Reason == CertificateHold || r.Reason == RemoveFromCRL
	if r.Lineage && alone {
		return nil, fmt.Errorf("%w: %s concerns one certificate, not its lineage", ErrReason, r.Reason)
	}
	rec, err := a.revoke(ctx, r.Serial, r.Reason, Serial{})
	already, repeated := errors.AsType[*AlreadyRevokedError](err)
	switch {
	case err == nil && alone:
		return &RevocationOutcome{Record: rec}, nil
	case err == nil:
		return a.follow(ctx, rec, r.Reason, r.Lineage)
	case !repeated || !r.Lineage:
		return nil, err
	}
	if rec, err = a.store.Certificate(ctx, r.Serial); err != nil {
		return nil, fmt.Errorf("revoking the lineage of %s: %w", r.Serial, err)
	}
	done, err := a.follow(ctx, rec, cmp.Or(r.Reason, already.Reason), true)
	if err == nil && len(done.Also) == 0 {
		err = fmt.Errorf("revoking %s: %w", r.Serial, already)
	}
	return done, err
}

// follow deals with the rest of the lineage of a certificate that was revoked just now: it revokes it, or tells
// what of it is active.
func (a *Authority) follow(ctx context.Context, target *Record, reason Reason, lineage bool) (*RevocationOutcome, error) {
	done := &RevocationOutcome{Record: target}
	if !lineage {
		done.Active, done.LineageErr = a.relatives(ctx, target, Active)
		return done, nil
	}
	var err error
	if done.Also, err = a.revokeLineage(ctx, target, reason); err != nil {
		return nil, &LineageError{Serial: target.Serial, Also: done.Also, Err: err}
	}
	return done, nil
}

// revokeLineage revokes what the lineage of target still has. It looks again until it finds none, for the sake
// of renewals that were under way: one whose record is not there yet when this looks for the last time finds its
// parent revoked, and drops itself (dropOrphan).
func (a *Authority) revokeLineage(ctx context.Context, target *Record, reason Reason) (also []Serial, err error) {
	for {
		found, err := a.relatives(ctx, target, Active, Held)
		if err != nil || len(found) == 0 {
			return also, err
		}
		for _, serial := range found {
			_, err := a.revoke(ctx, serial, reason, target.Serial)
			if _, already := errors.AsType[*AlreadyRevokedError](err); already {
				continue // by someone else, since it was found
			}
			if err != nil {
				return also, err
			}
			also = append(also, serial)
		}
	}
}

// relatives lists, oldest first, the other certificates of these statuses in target's lineage.
func (a *Authority) relatives(ctx context.Context, target *Record, statuses ...Status) ([]Serial, error) {
	first, err := a.firstOfLineage(ctx, target)
	if err != nil {
		return nil, err
	}
	found, err := a.successors(ctx, first, statuses...)
	if err != nil {
		return nil, err
	}
	if slices.Contains(statuses, first.Status(a.clock())) {
		found = slices.Insert(found, 0, first.Serial)
	}
	return slices.DeleteFunc(found, func(s Serial) bool { return s == target.Serial }), nil
}

// firstOfLineage follows a certificate back to the one that was enrolled.
func (a *Authority) firstOfLineage(ctx context.Context, rec *Record) (*Record, error) {
	seen := map[Serial]bool{} // a damaged store could hold a ring
	for !rec.Parent.IsZero() && !seen[rec.Serial] {
		seen[rec.Serial] = true
		parent, err := a.store.Certificate(ctx, rec.Parent)
		if errors.Is(err, ErrNotFound) {
			break // pruned, or of a damaged store: the lineage begins here
		}
		if err != nil {
			return nil, fmt.Errorf("looking for what %s renews: %w", rec.Serial, err)
		}
		rec = parent
	}
	return rec, nil
}

// successors lists, oldest first, the certificates of these statuses that renew target, directly or through
// others, whatever became of those.
func (a *Authority) successors(ctx context.Context, target *Record, statuses ...Status) ([]Serial, error) {
	type child struct {
		serial Serial
		wanted bool
	}
	children := map[Serial][]child{}
	// A renewal keeps the client and is younger than what it renews, give or take what the clock may have
	// fallen back in between. So a certificate that was issued just now costs a look at what is newest.
	q := Query{ClientID: target.ClientID, Renewal: true, After: firstSerial(target.IssuedAt.Add(-clockSlack)), Limit: 1000}
	for more := true; more; {
		page, err := a.List(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("looking for successors of %s: %w", target.Serial, err)
		}
		for _, rec := range page.Records {
			c := child{rec.Serial, slices.Contains(statuses, rec.Status(a.clock()))}
			children[rec.Parent] = append(children[rec.Parent], c)
		}
		q.Cursor, more = page.Next, page.Next != ""
	}
	var found []Serial
	for line := []Serial{target.Serial}; len(line) > 0; line = line[1:] {
		for _, c := range children[line[0]] {
			line = append(line, c.serial)
			if c.wanted {
				found = append(found, c.serial)
			}
		}
		delete(children, line[0]) // a damaged store could hold a ring
	}
	slices.SortFunc(found, func(x, y Serial) int { return bytes.Compare(x[:], y[:]) })
	return found, nil
}

// revoke revokes, holds or releases one certificate, in one transaction. The event names lineage, the
// certificate whose revocation brought this one, if there is one.
func (a *Authority) revoke(ctx context.Context, serial Serial, reason Reason, lineage Serial) (*Record, error) {
	now := a.clock()
	var decided *Record // what was to be changed, if that was to be
	rec, err := a.store.Decide(ctx, serial, func(rec *Record) (*Revocation, audit.Event, error) {
		decided = nil
		if _, err := a.issuerOf(rec); err != nil {
			return nil, audit.Event{}, err
		}
		rev, ev, err := decideRevocation(rec, reason, now, audit.From(ctx))
		if !lineage.IsZero() {
			ev.Detail["lineage"] = lineage.String()
		}
		if err == nil {
			decided = rec
		}
		return rev, ev, err
	})
	if err != nil {
		if decided != nil { // the transaction may have gone through all the same; who publishes looks
			a.changed(decided.Issuer, decided.Shard)
		}
		return nil, fmt.Errorf("revoking %s: %w", serial, err)
	}
	a.changed(rec.Issuer, rec.Shard)
	return rec, nil
}

func decideRevocation(rec *Record, reason Reason, now time.Time, actor audit.Actor) (*Revocation, audit.Event, error) {
	ev := audit.Event{
		Time: now, Actor: actor, Action: audit.Revoke, Subject: rec.Serial.String(),
		Detail: map[string]string{"client": rec.ClientID, "reason": reason.String()},
	}
	held := rec.Revocation != nil && rec.Revocation.Reason == CertificateHold
	if _, ok := reasonNames[reason]; !ok {
		return nil, ev, fmt.Errorf("%w: %s", ErrReason, reason)
	}
	switch {
	case reason == RemoveFromCRL && rec.ClientID == UnknownClient:
		return nil, ev, fmt.Errorf("%w: what the certificate was issued for was lost, so it cannot count again: its holder enrols again", ErrReason)
	case reason == RemoveFromCRL && held:
		ev.Action = audit.Release
		return nil, ev, nil
	case reason == RemoveFromCRL:
		return nil, ev, fmt.Errorf("%w: only a held certificate can be released, and this one is %s", ErrReason, rec.Status(now))
	case rec.Revocation != nil && (!held || reason == CertificateHold):
		return nil, ev, &AlreadyRevokedError{Serial: rec.Serial, Revocation: *rec.Revocation}
	case reason == CertificateHold:
		ev.Action = audit.Hold
	}
	return &Revocation{Reason: reason, At: now.UTC().Truncate(time.Millisecond)}, ev, nil
}
