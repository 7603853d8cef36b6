package enroll_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
)

// fault is how a call of the store or of the registry fails.
type fault string

const (
	failsBefore fault = "fails before" // nothing was done
	failsAfter  fault = "fails after"  // it was done, and the answer was lost
	hangs       fault = "hangs"        // until whoever asked gives up
)

// seam is the store and the registry, with a fault planted at the calls of one name. What package ca does with the store
// has a table of its own there.
type seam struct {
	enroll.Store
	clients enroll.Clients
	call    string
	how     fault
	times   int // that the fault struck
}

func (s *seam) do(ctx context.Context, call string, act func() error) error {
	if call != s.call {
		return act()
	}
	s.times++
	switch s.how {
	case failsBefore:
		return errFault
	case failsAfter:
		return errors.Join(act(), errFault)
	default:
		<-ctx.Done()
		return ctx.Err()
	}
}

func (s *seam) PutInvitation(ctx context.Context, inv *enroll.Invitation, ev audit.Event) error {
	return s.do(ctx, "PutInvitation", func() error { return s.Store.PutInvitation(ctx, inv, ev) })
}

func (s *seam) Invitation(ctx context.Context, id string) (inv *enroll.Invitation, err error) {
	return inv, s.do(ctx, "Invitation", func() error { inv, err = s.Store.Invitation(ctx, id); return err })
}

func (s *seam) Enrol(ctx context.Context, id string, scopes, resources []string) error {
	return s.do(ctx, "Enrol", func() error { return s.clients.Enrol(ctx, id, scopes, resources) })
}

func (s *seam) CheckEnabled(ctx context.Context, id string) error {
	return s.do(ctx, "CheckEnabled", func() error { return s.clients.CheckEnabled(ctx, id) })
}

// patience is how long a caller waits; a hanging call takes no longer.
const patience = 10 * time.Second

// atEachFault plays each fault at each call, on a service of its own, in a time of its own.
func atEachFault(t *testing.T, calls []string, play func(*testing.T, *house, *seam, func(func(context.Context) error))) {
	for _, call := range calls {
		for _, how := range []fault{failsBefore, failsAfter, hangs} {
			t.Run(fmt.Sprintf("%s %s", call, how), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := newHouse(t)
					s := &seam{Store: h.store, clients: h}
					var err error
					if h.Service, err = enroll.New(enroll.Config{Authority: h.authority, Store: s, Clients: s, Now: func() time.Time { return h.now }}); err != nil {
						t.Fatal(err)
					}
					// attempt acts under the fault, and mends it.
					play(t, h, s, func(act func(context.Context) error) {
						t.Helper()
						ctx, cancel := context.WithTimeout(t.Context(), patience)
						defer cancel()
						began := time.Now()
						s.call, s.how = call, how
						err := act(ctx)
						s.call = ""
						if !errors.Is(err, errFault) && !errors.Is(err, context.DeadlineExceeded) || s.times == 0 || time.Since(began) > patience {
							t.Errorf("got %v after %s; the fault struck %d times", err, time.Since(began), s.times)
						}
					})
				})
			})
		}
	}
}

func (h *house) certificates(t *testing.T) int {
	t.Helper()
	page, err := h.authority.List(t.Context(), ca.Query{Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	return len(page.Records)
}

// An invitation that nobody was told of can be made again; the one that was recorded has a secret that nobody knows.
func TestInviteAtEachFault(t *testing.T) {
	atEachFault(t, []string{"CheckEnabled", "PutInvitation", "Enrol"}, func(t *testing.T, h *house, s *seam, attempt func(func(context.Context) error)) {
		attempt(func(ctx context.Context) error {
			inv, secret, err := h.Invite(ctx, enroll.InviteRequest{ClientID: "payments"})
			if inv != nil || secret != [32]byte{} {
				t.Error("a secret was handed out")
			}
			return err
		})
		inv, secret := h.invite(t, enroll.InviteRequest{ClientID: "payments"})
		if _, err := h.Enroll(t.Context(), inv.ID, secret, newCSR(t, newKey(t))); err != nil || h.certificates(t) != 1 {
			t.Errorf("enrolling with the next invitation: %v, %d certificates", err, h.certificates(t))
		}
	})
}

// An enrolment that failed before it came to signing has changed nothing, and a retry gives the one certificate.
func TestEnrollAtEachFault(t *testing.T) {
	atEachFault(t, []string{"Invitation", "CheckEnabled"}, func(t *testing.T, h *house, s *seam, attempt func(func(context.Context) error)) {
		inv, secret := h.invite(t, enroll.InviteRequest{ClientID: "payments"})
		csr := newCSR(t, newKey(t))
		redeem := func(ctx context.Context) (issued *ca.Issued, err error) { return h.Enroll(ctx, inv.ID, secret, csr) }
		attempt(func(ctx context.Context) error { _, err := redeem(ctx); return err })
		if n := h.certificates(t); n != 0 {
			t.Errorf("%d certificates", n)
		}
		first, err := redeem(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		again, err := redeem(t.Context())
		if err != nil || again.Record.Serial != first.Record.Serial || h.certificates(t) != 1 {
			t.Errorf("tried again: %v, %d certificates", err, h.certificates(t))
		}
	})
}

// A renewal that failed before it came to signing has changed nothing.
func TestRenewAtEachFault(t *testing.T) {
	atEachFault(t, []string{"CheckEnabled"}, func(t *testing.T, h *house, s *seam, attempt func(func(context.Context) error)) {
		inv, secret := h.invite(t, enroll.InviteRequest{ClientID: "payments"})
		issued, err := h.Enroll(t.Context(), inv.ID, secret, newCSR(t, newKey(t)))
		if err != nil {
			t.Fatal(err)
		}
		attempt(func(ctx context.Context) error { _, err := h.Renew(ctx, peer(t, issued), nil); return err })
		if n := h.certificates(t); n != 1 {
			t.Errorf("%d certificates", n)
		}
		if _, err := h.Renew(t.Context(), peer(t, issued), nil); err != nil || h.certificates(t) != 2 {
			t.Errorf("renewed again: %v, %d certificates", err, h.certificates(t))
		}
	})
}
