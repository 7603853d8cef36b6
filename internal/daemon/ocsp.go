package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/rollover"
	"github.com/pkid/pkid/ocsp"
)

const (
	// respondersEvery is how often it is looked whether a responder's certificate is to be replaced.
	respondersEvery = 5 * time.Second
	// respondersAhead is how long before an issuing CA's first certificate its responder has one, so that clients of
	// the first find an answer.
	respondersAhead = time.Minute
	// responderTimeout bounds the look at one, with the certificate that is issued in it. Each issuing CA has its own:
	// one whose device hangs takes no time from the others.
	responderTimeout = 15 * time.Second
)

// responders are the OCSP responder and its certificates: one for each issuing CA that has certificates that live, or is
// about to, with a key that exists in memory only.
type responders struct {
	*ocsp.Responder
	authority *ca.Authority
	known     func() []rollover.Issuer
	log       *slog.Logger
	now       func() time.Time
	wake      chan struct{}

	mu        sync.Mutex // guards what follows, which keep alone writes; never held while something is waited for
	delegates map[string]*delegate
	failed    map[string]error // why the last attempt to replace one did; by issuing CA, as the delegates are
}

type delegate struct {
	*ocsp.Delegate
	serial ca.Serial
}

// newResponders returns nil if there is to be no OCSP.
func newResponders(c config.OCSP, authority *ca.Authority, known func() []rollover.Issuer, log *slog.Logger, now func() time.Time) (*responders, error) {
	if !c.On() {
		return nil, nil
	}
	responder, err := ocsp.New(ocsp.Config{Records: records{authority}, Lifetime: c.Lifetime, Now: now})
	if err != nil {
		return nil, err
	}
	return &responders{
		Responder: responder, authority: authority, known: known, log: log, now: now, wake: make(chan struct{}, 1),
		delegates: map[string]*delegate{}, failed: map[string]error{},
	}, nil
}

func (r *responders) responder() *ocsp.Responder {
	if r == nil {
		return nil
	}
	return r.Responder
}

// records tells the OCSP responder what the CA knows.
type records struct{ authority *ca.Authority }

// Status is ocsp.Records. A certificate that has been pruned, or that a restored store does not know, is as unknown as
// one that was never issued.
func (r records) Status(ctx context.Context, issuer string, number *big.Int) (ocsp.Status, error) {
	serial, err := ca.SerialOf(number)
	if err != nil {
		return ocsp.Status{}, nil //nolint:nilerr // no certificate of this CA has such a number
	}
	rec, err := r.authority.Certificate(ctx, serial)
	switch {
	case errors.Is(err, ca.ErrNotFound):
		return ocsp.Status{}, nil
	case err != nil:
		return ocsp.Status{}, err
	case rec.Issuer != issuer:
		return ocsp.Status{}, nil
	case rec.Revocation != nil:
		return ocsp.Status{Kind: ocsp.Revoked, At: rec.Revocation.At, Reason: int(rec.Revocation.Reason)}, nil
	}
	return ocsp.Status{Kind: ocsp.Good}, nil
}

// run replaces certificates in time. What fails is tried again at the next look; half of a lifetime is left to mend its
// cause.
func (r *responders) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(respondersEvery):
		case <-r.wake:
		}
		r.keep(ctx)
	}
}

// follow has it looked at once: issuing CAs may have come or gone.
func (r *responders) follow() {
	if r == nil {
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// keep issues the certificates that are due. It is called by one goroutine at a time.
func (r *responders) keep(ctx context.Context) {
	if r == nil {
		return
	}
	delegates, failed := map[string]*delegate{}, map[string]error{}
	var served []ocsp.Issuer
	for _, i := range r.known() {
		until, lives := r.until(i)
		if !lives {
			continue
		}
		id := i.ID()
		d, err := r.renewed(ctx, i.Issuer, r.delegates[id], until)
		if err != nil {
			failed[id] = err
			if ctx.Err() == nil && r.failed[id] == nil { // once; the metrics and /readyz go on saying so
				r.log.Error("issuing the OCSP responder's certificate", "issuer", id, "err", err)
			}
		}
		one := ocsp.Issuer{ID: id, Certificate: i.Signer.Certificate()}
		if d != nil {
			delegates[id], one.Delegate = d, d.Delegate
		}
		served = append(served, one)
	}
	r.mu.Lock()
	r.delegates, r.failed = delegates, failed
	r.mu.Unlock()
	if err := r.SetIssuers(served...); err != nil {
		r.log.Error("OCSP", "err", err)
	}
}

// until says whether an issuing CA has certificates that live, or will within a moment, and until when the responder's
// may be good: one that has retired must not be kept from its end by a certificate that only answers for the others.
func (r *responders) until(i rollover.Issuer) (until time.Time, lives bool) {
	switch i.State {
	case rollover.Active:
		return i.Signer.Certificate().NotAfter, true
	case rollover.Waiting: // nothing keeps it from its instant any more
		return i.Signer.Certificate().NotAfter, !r.now().Before(i.Since.Add(-respondersAhead))
	case rollover.Retiring:
		until = i.LastExpiry
		if end := i.Signer.Certificate().NotAfter; end.Before(until) { // what another program issued may outlive it
			until = end
		}
		return until, r.now().Before(until)
	case rollover.Requested, rollover.Installed, rollover.Ended:
	}
	return time.Time{}, false
}

// renewed returns a responder's certificate, or another if it is to be replaced. If that fails the one before is there
// to its end, unless an operator has revoked it: rather no answers than answers by a key that nobody is to believe.
func (r *responders) renewed(ctx context.Context, issuer *ca.Issuer, d *delegate, until time.Time) (*delegate, error) {
	ctx, cancel := context.WithTimeout(ctx, responderTimeout)
	defer cancel()
	if d != nil && r.revoked(ctx, d) {
		d = nil
	}
	if d != nil && !r.due(d, until) {
		return d, nil
	}
	next, err := r.issue(ctx, issuer, until)
	if err != nil {
		return d, err
	}
	return next, nil
}

// revoked reports whether the store is there to say that an operator has revoked a responder's certificate.
func (r *responders) revoked(ctx context.Context, d *delegate) bool {
	rec, err := r.authority.Certificate(ctx, d.serial)
	return err == nil && rec.Revocation != nil
}

// due reports whether a responder's certificate is to be replaced: half of its life is over, and another would be good
// for longer; or the clock was set back to before it.
func (r *responders) due(d *delegate, until time.Time) bool {
	cert, now := d.Certificate, r.now()
	half := cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 2)
	return now.Before(cert.NotBefore) || !now.Before(half) && cert.NotAfter.Before(until.Truncate(time.Second))
}

func (r *responders) issue(ctx context.Context, issuer *ca.Issuer, until time.Time) (*delegate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	proven, err := ca.ProveOwn(key)
	if err != nil {
		return nil, err
	}
	issued, err := r.authority.IssueResponder(ctx, ca.ResponderRequest{Issuer: issuer.ID(), ClientID: enroll.Daemon, Key: proven, Until: until})
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(issued.Record.DER)
	if err != nil {
		return nil, err
	}
	d, err := ocsp.NewDelegate(cert, key, issuer.Signer.Certificate())
	if err != nil {
		return nil, err
	}
	return &delegate{d, issued.Record.Serial}, nil
}

// check fails while there is an issuing CA that no answers can be signed for.
func (r *responders) check(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(r.failed)) {
		if d := r.delegates[id]; d == nil || !r.now().Before(d.Certificate.NotAfter) {
			return fmt.Errorf("issuing CA %s has no OCSP responder's certificate: %w", id, r.failed[id])
		}
	}
	return nil
}

func (r *responders) writeMetrics(w io.Writer) {
	r.WriteMetrics(w)
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprint(w, "# HELP pkid_ocsp_responder_not_after_seconds Until when the OCSP responder's certificate is good, Unix time, by issuing CA.\n# TYPE pkid_ocsp_responder_not_after_seconds gauge\n")
	for _, id := range slices.Sorted(maps.Keys(r.delegates)) {
		fmt.Fprintf(w, "pkid_ocsp_responder_not_after_seconds{issuer=%q} %d\n", id, r.delegates[id].Certificate.NotAfter.Unix())
	}
}
