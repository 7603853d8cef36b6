package ca_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
)

// fault is how a call of the store or the signer fails.
type fault string

const (
	failsBefore fault = "fails before" // nothing was done
	failsAfter  fault = "fails after"  // it was done, and the answer was lost
	hangs       fault = "hangs"        // until whoever asked gives up
)

// seam is where a fault is planted: at the calls of one name, from the nth on.
type seam struct {
	call string
	nth  int // 1 is the first
	how  fault

	calls map[string]int
}

func (s *seam) do(ctx context.Context, call string, act func() error) error {
	s.calls[call]++
	if call != s.call || s.calls[call] < s.nth {
		return act()
	}
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

func (s *seam) mend() { s.call, s.calls = "", map[string]int{} }

// seamStore is the real store behind a seam.
type seamStore struct {
	ca.Store
	*seam
}

func (s seamStore) Insert(ctx context.Context, rec *ca.Record, spend *ca.Spend, ev audit.Event) error {
	return s.do(ctx, "Insert", func() error { return s.Store.Insert(ctx, rec, spend, ev) })
}

func (s seamStore) Certificate(ctx context.Context, serial ca.Serial) (rec *ca.Record, err error) {
	return rec, s.do(ctx, "Certificate", func() error { rec, err = s.Store.Certificate(ctx, serial); return err })
}

func (s seamStore) List(ctx context.Context, q ca.Query) (page *ca.Page, err error) {
	return page, s.do(ctx, "List", func() error { page, err = s.Store.List(ctx, q); return err })
}

func (s seamStore) Decide(ctx context.Context, serial ca.Serial, decide func(*ca.Record) (*ca.Revocation, audit.Event, error)) (rec *ca.Record, err error) {
	return rec, s.do(ctx, "Decide", func() error { rec, err = s.Store.Decide(ctx, serial, decide); return err })
}

// seamSigner is the real signer behind a seam.
type seamSigner struct {
	ca.Signer
	*seam
}

func (s seamSigner) SignCertificate(ctx context.Context, tbs ca.TBSCertificate) (signature []byte, err error) {
	return signature, s.do(ctx, "SignCertificate", func() error { signature, err = s.Signer.SignCertificate(ctx, tbs); return err })
}

// stage is an authority with a certificate of a line of two, and a seam below it.
type stage struct {
	*bench
	*seam
	csr           []byte
	first, second *ca.Issued
}

// patience is how long a caller waits; a hanging call takes no longer.
const patience = 10 * time.Second

// onStage plays a fault in a time of its own.
func onStage(t *testing.T, f fault, call string, nth int, play func(*stage)) {
	t.Run(fmt.Sprintf("%s %d %s", call, nth, f), func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &stage{bench: newBench(t), seam: &seam{calls: map[string]int{}}}
			s.store.Store = seamStore{s.store.Store, s.seam}
			s.signer.Signer = seamSigner{s.signer.Signer, s.seam}
			s.csr = newCSR(t, newKey(t), nil)
			s.invite("inv")
			s.first = s.issue()
			next, err := s.bench.renew(s.first.Record, newKey(t))
			if err != nil {
				t.Fatal(err)
			}
			s.second = next
			s.mend()
			s.changes = 0
			s.call, s.nth, s.how = call, nth, f
			play(s)
		})
	})
}

// attempt acts as a caller does that waits for a time, checks that it is told of the fault in that time, and mends it.
func (s *stage) attempt(act func(context.Context) error) error {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	began := time.Now()
	err := act(ctx)
	if took := time.Since(began); took > patience {
		s.t.Errorf("it took %s", took)
	}
	if s.calls[s.call] < s.nth {
		s.t.Fatalf("%s was called %d times", s.call, s.calls[s.call])
	}
	if s.how == hangs {
		if !errors.Is(err, context.DeadlineExceeded) {
			s.t.Errorf("got %v, want that the time was up", err)
		}
	} else if !errors.Is(err, errFault) {
		s.t.Errorf("got %v, want the fault", err)
	}
	s.mend()
	return err
}

// redeem issues a certificate for the invitation.
func (s *stage) redeem(ctx context.Context, csr []byte) (*ca.Issued, error) {
	r := s.request(csr)
	r.Spend = &ca.Spend{ID: "inv", Use: r.Key.Use()}
	return s.Issue(ctx, r)
}

// TestIssueAtEachFault: nothing is handed out that is not recorded, and whoever tries again gets the one certificate
// that the invitation gives.
func TestIssueAtEachFault(t *testing.T) {
	for _, c := range []struct {
		call     string
		recorded map[fault]int // afterwards; none if it is not named
	}{
		{"SignCertificate", nil},
		{"Insert", map[fault]int{failsAfter: 1}},
	} {
		for _, f := range []fault{failsBefore, failsAfter, hangs} {
			onStage(t, f, c.call, 1, func(s *stage) {
				before := s.count()
				_ = s.attempt(func(ctx context.Context) error {
					issued, err := s.redeem(ctx, s.csr)
					if issued != nil {
						s.t.Error("a certificate was handed out")
					}
					return err
				})
				if got := s.count() - before; got != c.recorded[f] {
					s.t.Errorf("%d certificates are recorded, want %d", got, c.recorded[f])
				}
				s.restart()
				issued, err := s.redeem(s.t.Context(), s.csr)
				again, err2 := s.redeem(s.t.Context(), s.csr)
				if err != nil || err2 != nil || issued.Record.Serial != again.Record.Serial || s.count() != before+1 {
					s.t.Errorf("tried again: %v, %v, %d certificates", err, err2, s.count()-before)
				}
				var spent *ca.SpentError
				if _, err := s.redeem(s.t.Context(), newCSR(s.t, newKey(s.t), nil)); !errors.As(err, &spent) {
					s.t.Errorf("another request got %v", err)
				}
			})
		}
	}
}

// TestRetryAtEachFault: the answer to a retry is lost as well; nothing comes of it but another retry.
func TestRetryAtEachFault(t *testing.T) {
	for _, call := range []string{"Insert", "Certificate"} {
		for _, f := range []fault{failsBefore, failsAfter, hangs} {
			onStage(t, f, call, 1, func(s *stage) {
				s.call = "" // for the first time
				issued, err := s.redeem(s.t.Context(), s.csr)
				if err != nil {
					s.t.Fatal(err)
				}
				s.mend()
				s.call = call
				if call == "Insert" && f == failsAfter {
					return // the store found the invitation used: nothing was kept, and that is what it says
				}
				_ = s.attempt(func(ctx context.Context) error { _, err := s.redeem(ctx, s.csr); return err })
				if again, err := s.redeem(s.t.Context(), s.csr); err != nil || again.Record.Serial != issued.Record.Serial {
					s.t.Errorf("tried again: %v", err)
				}
			})
		}
	}
}

// TestRenewAtEachFault: a successor that nobody got is recorded, or there is none; the certificate can be renewed again.
func TestRenewAtEachFault(t *testing.T) {
	for _, c := range []struct {
		call     string
		recorded map[fault]int
	}{
		{"SignCertificate", nil},
		{"Insert", map[fault]int{failsAfter: 1}},
		{"Certificate", map[fault]int{failsBefore: 1, failsAfter: 1, hangs: 1}}, // the look whether it was revoked meanwhile
	} {
		for _, f := range []fault{failsBefore, failsAfter, hangs} {
			onStage(t, f, c.call, 1, func(s *stage) {
				before, key := s.count(), newKey(s.t)
				_ = s.attempt(func(ctx context.Context) error {
					proven, err := ca.ProveCSR(newCSR(s.t, key, nil))
					if err != nil {
						s.t.Fatal(err)
					}
					_, err = s.Renew(ctx, ca.Renewal{Current: leaf(s.t, s.second), Record: s.second.Record, Key: proven})
					return err
				})
				if got := s.count() - before; got != c.recorded[f] {
					s.t.Errorf("%d certificates are recorded, want %d", got, c.recorded[f])
				}
				if _, err := s.bench.renew(s.second.Record, key); err != nil {
					s.t.Errorf("renewed again: %v", err)
				}
			})
		}
	}
}

// TestRevokeAtEachFault: an answer never says that a revocation took effect which did not. Where one took effect, the
// answer says so, be it an error about the rest of its lineage; only if the store itself cannot tell does the caller
// learn no more than that, and then the CRL is made anew all the same.
func TestRevokeAtEachFault(t *testing.T) {
	for _, c := range []struct {
		call    string
		nth     int
		lineage bool
		status  map[fault]ca.Status // of the certificate afterwards; active if it is not named
		rest    map[fault]ca.Status // of the one before it
	}{
		{"Decide", 1, false, map[fault]ca.Status{failsAfter: ca.Revoked}, nil},
		{"Decide", 1, true, map[fault]ca.Status{failsAfter: ca.Revoked}, nil},
		{"Decide", 2, true, always(ca.Revoked), map[fault]ca.Status{failsAfter: ca.Revoked}},
		{"List", 1, true, always(ca.Revoked), nil},
		{"Certificate", 1, true, always(ca.Revoked), nil}, // the look for the lineage's first
	} {
		for _, f := range []fault{failsBefore, failsAfter, hangs} {
			onStage(t, f, c.call, c.nth, func(s *stage) {
				target := s.second.Record.Serial
				request := ca.RevocationRequest{Serial: target, Reason: ca.KeyCompromise, Lineage: c.lineage}
				err := s.attempt(func(ctx context.Context) error { _, err := s.Revoke(ctx, request); return err })
				want := statusOf(c.status, f)
				if got := s.status(target); got != want {
					s.t.Errorf("it is %s, want %s", got, want)
				}
				if got := s.status(s.first.Record.Serial); got != statusOf(c.rest, f) {
					s.t.Errorf("the one before it is %s, want %s", got, statusOf(c.rest, f))
				}
				var incomplete *ca.LineageError
				if known := c.call != "Decide" || c.nth > 1; errors.As(err, &incomplete) != known {
					s.t.Errorf("the answer is %v; does it say that the certificate is revoked? want %v", err, known)
				}
				if (s.changes > 0) != (want == ca.Revoked) {
					s.t.Errorf("told of %d changes", s.changes)
				}
				s.restart()
				request.Lineage = true
				var already *ca.AlreadyRevokedError
				if _, err := s.Revoke(s.t.Context(), request); err != nil && !errors.As(err, &already) {
					s.t.Errorf("tried again: %v", err)
				}
				for _, serial := range []ca.Serial{target, s.first.Record.Serial} {
					if got := s.status(serial); got != ca.Revoked {
						s.t.Errorf("tried again, and %s is %s", serial, got)
					}
				}
			})
		}
	}
}

func always(s ca.Status) map[fault]ca.Status {
	return map[fault]ca.Status{failsBefore: s, failsAfter: s, hangs: s}
}

func statusOf(m map[fault]ca.Status, f fault) ca.Status {
	if s, ok := m[f]; ok {
		return s
	}
	return ca.Active
}

// A revocation that concerns one certificate took effect, whatever becomes of the look at the rest of its lineage.
func TestRevokeAloneIsDoneWhenItIsDone(t *testing.T) {
	for _, call := range []string{"Certificate", "List"} {
		for _, f := range []fault{failsBefore, failsAfter, hangs} {
			onStage(t, f, call, 1, func(s *stage) {
				ctx, cancel := context.WithTimeout(s.t.Context(), patience)
				defer cancel()
				done, err := s.Revoke(ctx, ca.RevocationRequest{Serial: s.second.Record.Serial, Reason: ca.Superseded})
				if err != nil || done.Record.Status(s.now) != ca.Revoked {
					s.t.Fatalf("it took effect, and the answer is %v", err)
				}
				if done.LineageErr == nil || slices.Contains(done.Active, s.first.Record.Serial) {
					s.t.Errorf("of its lineage the answer says %v, %v", done.Active, done.LineageErr)
				}
			})
		}
	}
}
