// Package ocsp answers what became of a certificate (RFC 6960, RFC 9654), from the records that the CA's other answers
// come from.
//
// Each answer begins with a look into these records, so that a revocation shows in the next one, on every node. What a
// look costs is little; what would cost more is a signature, and so an answer without a nonce is signed once and used
// again for as long as the records say the same. The signature is a delegate's: the issuing CA's key may be in a device,
// and has better to do.
package ocsp

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"sync/atomic"
	"time"

	"github.com/pkid/pkid/internal/recent"
)

// Kind is what a certificate is.
type Kind uint8

// The kinds. The zero value claims nothing.
const (
	Unknown Kind = iota // this issuing CA has no record of such a certificate
	Good
	Revoked // or held
)

// Status is what the records say of a certificate.
type Status struct {
	Kind   Kind
	At     time.Time // of the revocation
	Reason int       // CRLReason (RFC 5280 section 5.3.1)
}

func (s Status) equal(o Status) bool {
	return s.Kind == o.Kind && s.Reason == o.Reason && s.At.Equal(o.At)
}

// Records are what answers come from.
type Records interface {
	// Status returns what became of an issuing CA's certificate by now, and Unknown if it has issued none with that serial
	// number. It may be called at once. An error says that it cannot be known at the moment.
	Status(ctx context.Context, issuer string, serial *big.Int) (Status, error)
}

// Issuer is an issuing CA whose certificates are asked about.
type Issuer struct {
	ID          string // as Records know it
	Certificate *x509.Certificate
	Delegate    *Delegate // nil: it has none yet, so who asks is to try again later
}

// Config is what a Responder needs. Now may be nil.
type Config struct {
	Records  Records
	Lifetime time.Duration // of an answer: nextUpdate - thisUpdate
	Now      func() time.Time
}

// Responder answers. All methods may be called at once.
type Responder struct {
	records  Records
	lifetime time.Duration
	now      func() time.Time
	issuers  atomic.Pointer[map[issuerKey]*Issuer]
	signed   *recent.Cache[string, *signed] // by CertID
	counts   counts
}

// remembered bounds how many answers are kept: about a kilobyte each.
const remembered = 8192

// signed is an answer that may be used again.
type signed struct {
	status   Status
	delegate *Delegate
	again    time.Time // when another is to be signed
	Response
}

// Response is what a Responder says.
type Response struct {
	DER []byte
	// ThisUpdate and NextUpdate bound how long it holds. They are zero if it is nothing to keep: it is for one request,
	// says that a certificate is unknown, or why there is no answer.
	ThisUpdate, NextUpdate time.Time
	Err                    error // why there is no answer; nil if there is one
}

// ErrInternal is an answer that could not be signed, which should not happen.
var ErrInternal = errors.New("ocsp: no signature")

// New validates c. There are no issuing CAs before SetIssuers.
func New(c Config) (*Responder, error) {
	if c.Records == nil || c.Lifetime < time.Second {
		return nil, errors.New("ocsp: Records and a Lifetime are required")
	}
	r := &Responder{records: c.Records, lifetime: c.Lifetime, now: c.Now, signed: recent.New[string, *signed](remembered)}
	if r.now == nil {
		r.now = time.Now
	}
	r.issuers.Store(&map[issuerKey]*Issuer{})
	return r, nil
}

const oidSHA1 = "\x2b\x0e\x03\x02\x1a"

// hashes are those that a CertID may name its issuer by, by the DER content of their OIDs. Most clients use SHA-1, which
// RFC 5019 section 2.1.1 asks for: it finds a name and a key here, and protects nothing.
var hashes = map[string]crypto.Hash{
	oidSHA1:                                crypto.SHA1,
	"\x60\x86\x48\x01\x65\x03\x04\x02\x01": crypto.SHA256,
	"\x60\x86\x48\x01\x65\x03\x04\x02\x02": crypto.SHA384,
	"\x60\x86\x48\x01\x65\x03\x04\x02\x03": crypto.SHA512,
}

// SetIssuers says for which issuing CAs there are answers. Others are none of this responder's business.
func (r *Responder) SetIssuers(list ...Issuer) error {
	next := map[issuerKey]*Issuer{}
	for _, i := range list {
		key, err := keyBits(i.Certificate)
		if err != nil {
			return err
		}
		for oid, hash := range hashes {
			next[issuerKey{oid, sum(hash, i.Certificate.RawSubject), sum(hash, key)}] = &i
		}
	}
	r.issuers.Store(&next)
	return nil
}

func sum(hash crypto.Hash, b []byte) string {
	h := hash.New()
	h.Write(b)
	return string(h.Sum(nil))
}

// Respond answers a request in DER. There is always a response to send.
func (r *Responder) Respond(ctx context.Context, der []byte) Response {
	req, err := parseRequest(der)
	if err != nil {
		return r.fail(statusMalformed, err)
	}
	issuer := r.issuerOf(req)
	if issuer == nil {
		return r.fail(statusUnauthorized, errUnauthorized)
	}
	return r.answer(ctx, issuer, req)
}

var (
	errUnauthorized = errors.New("ocsp: not one issuing CA of this responder")
	errNoDelegate   = errors.New("ocsp: the issuing CA has no responder's certificate at the moment")
)

// issuerOf returns the issuing CA that a request is about. One delegate speaks for one, so there can only be one.
func (r *Responder) issuerOf(req *request) *Issuer {
	known := *r.issuers.Load()
	issuer := known[req.certs[0].issuer]
	for _, c := range req.certs[1:] {
		if i := known[c.issuer]; i == nil || issuer == nil || i.ID != issuer.ID {
			return nil
		}
	}
	return issuer
}

func (r *Responder) answer(ctx context.Context, issuer *Issuer, req *request) Response {
	now := r.now()
	d := issuer.Delegate
	if d == nil || now.Before(d.Certificate.NotBefore) || !now.Before(d.Certificate.NotAfter) {
		return r.fail(statusTryLater, errNoDelegate)
	}
	t := toBeSigned{delegate: d, nonce: req.nonce, thisUpdate: now.Truncate(time.Second)}
	t.nextUpdate = t.thisUpdate.Add(r.lifetime)
	if t.nextUpdate.After(d.Certificate.NotAfter) {
		t.nextUpdate = d.Certificate.NotAfter
	}
	shared := req.nonce == nil && len(req.certs) == 1
	for _, c := range req.certs {
		status, err := r.records.Status(ctx, issuer.ID, c.serial)
		if err != nil {
			return r.fail(statusTryLater, fmt.Errorf("ocsp: looking up a certificate: %w", err))
		}
		r.counts.answered(status.Kind)
		shared = shared && status.Kind != Unknown // of which there are more than can be kept
		t.answers = append(t.answers, answer{c, status})
	}
	if !shared {
		return r.sign(&t)
	}
	key, status := t.answers[0].cert.raw, t.answers[0].status
	if s, ok := r.signed.Get(key); ok && s.holds(status, d, now) {
		r.counts.reused.Add(1)
		return s.Response
	}
	response := r.sign(&t)
	if response.Err == nil {
		response.ThisUpdate, response.NextUpdate = t.thisUpdate, t.nextUpdate
		r.signed.Put(key, &signed{status, d, t.thisUpdate.Add(t.nextUpdate.Sub(t.thisUpdate) / 2), response})
	}
	return response
}

// holds reports whether an answer says what is to be said now. A clock that was set back makes it one of the future.
func (s *signed) holds(status Status, d *Delegate, now time.Time) bool {
	return s.status.equal(status) && s.delegate == d && now.Before(s.again) && !now.Before(s.ThisUpdate)
}

func (r *Responder) sign(t *toBeSigned) Response {
	began := time.Now()
	der, err := t.sign()
	if err != nil {
		return r.fail(statusInternal, fmt.Errorf("%w: %w", ErrInternal, err))
	}
	r.counts.signed(time.Since(began))
	return Response{DER: der}
}

func (r *Responder) fail(status byte, err error) Response {
	r.counts.failed(status)
	return Response{DER: failure(status), Err: err}
}

// Staple answers for a certificate of an issuing CA as a request without a nonce would be answered, for who serves with
// that certificate to send along (RFC 6066 section 8).
func (r *Responder) Staple(ctx context.Context, cert, issuer *x509.Certificate) (Response, error) {
	req, err := newRequest(cert, issuer)
	if err != nil {
		return Response{}, err
	}
	response := r.Respond(ctx, req)
	return response, response.Err
}
