package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
)

// A store that was restored from a backup lacks what was issued and revoked since. Adopt brings back a certificate that
// somebody still has, and Lost stands for one of which only a CRL tells.

// ErrRecorded: the store knows the certificate, or another with its serial number.
var ErrRecorded = errors.New("the certificate is recorded already")

// UnknownClient is Record.ClientID of a certificate whose record was lost; no client has such an id.
const UnknownClient = "?"

// Adoption is a certificate that one of the issuing CAs signed and that the store knows nothing of. Whom it speaks for,
// and with which rights, its text does not tell: the operator who adopts it does.
type Adoption struct {
	Certificate *x509.Certificate
	ClientID    string
	Profile     string
}

// Adopt records such a certificate, so that it counts again. The errors are ErrIssuer, ErrSerial, ErrProfile,
// ErrNotActive if it has expired, and ErrRecorded.
func (a *Authority) Adopt(ctx context.Context, ad Adoption) (*Issued, error) {
	cert := ad.Certificate
	serial, err := SerialOf(cert.SerialNumber)
	if err != nil {
		return nil, err
	}
	issuer, err := a.signerOf(cert)
	if err != nil {
		return nil, err
	}
	profile := a.profiles[ad.Profile]
	if profile == nil {
		return nil, fmt.Errorf("%w: %q", ErrProfile, ad.Profile)
	}
	for _, usage := range profile.c.ExtKeyUsage {
		if !slices.Contains(cert.ExtKeyUsage, usage) {
			return nil, fmt.Errorf("%w: %q is for more than what the certificate may be used for", ErrProfile, ad.Profile)
		}
	}
	now, err := a.now()
	if err != nil {
		return nil, err
	}
	if now.After(cert.NotAfter) {
		return nil, fmt.Errorf("%w: it expired at %s", ErrNotActive, cert.NotAfter.UTC().Format(time.RFC3339))
	}
	number, err := issuer.shardIn(cert.CRLDistributionPoints)
	if err != nil {
		return nil, err
	}
	rec := ad.record(serial, issuer.id, number)
	if err := a.keep(ctx, rec, audit.Adopt, now); err != nil {
		return nil, err
	}
	return issuer.issued(rec), nil
}

// record describes a certificate by what its text says and the operator adds.
func (ad *Adoption) record(serial Serial, issuer string, shard uint32) *Record {
	cert := ad.Certificate
	return &Record{
		Serial: serial, Issuer: issuer, Shard: shard, ClientID: ad.ClientID, Profile: ad.Profile,
		Thumbprint: thumbprint.OfCertificate(cert), NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(),
		IssuedAt: serial.issuedAt(cert.NotBefore.UTC()), Names: NamesOf(cert).Text(), DER: cert.Raw,
	}
}

// keep records a certificate that this authority did not sign just now. The error is ErrRecorded if there is one.
func (a *Authority) keep(ctx context.Context, rec *Record, action string, now time.Time) error {
	ev := audit.Event{Time: now, Actor: audit.From(ctx), Action: action, Subject: rec.Serial.String(), Detail: map[string]string{
		"client": rec.ClientID, "profile": rec.Profile, "x5t#S256": rec.Thumbprint.String(),
	}}
	switch err := a.store.Insert(ctx, rec, nil, ev); {
	case errors.Is(err, ErrDuplicate):
		return fmt.Errorf("%w: %s", ErrRecorded, rec.Serial)
	case err != nil:
		return fmt.Errorf("recording %s: %w", rec.Serial, err)
	}
	return nil
}

// signerOf returns the issuing CA that signed a certificate, found by its key and checked by its signature.
func (a *Authority) signerOf(cert *x509.Certificate) (*issuing, error) {
	for _, i := range a.issuers.Load().all {
		if !cert.IsCA && bytes.Equal(cert.AuthorityKeyId, i.cert.SubjectKeyId) && cert.CheckSignatureFrom(i.cert) == nil {
			return i, nil
		}
	}
	return nil, fmt.Errorf("%w: none that is known here signed it", ErrIssuer)
}

// shardIn returns the number of the issuer's CRL that a certificate names.
func (i *Issuer) shardIn(points []string) (uint32, error) {
	if i.Whole {
		return 0, nil
	}
	for _, url := range points {
		if n, ok := i.ShardAt(url); ok {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w: the certificate names no CRL of %s: urls.status has another value than when it was issued", ErrIssuer, i.ID())
}

// ShardAt returns the shard whose CRL is published at url, as CRLURLOf gives it.
func (i *Issuer) ShardAt(url string) (uint32, bool) {
	if url == i.CRLURL {
		return 0, true
	}
	front, back, _ := strings.Cut(i.CRLTemplate(), "{shard}")
	text, ok := strings.CutPrefix(url, front)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(text, back), 10, 32)
	return uint32(n), err == nil && url == i.CRLURLOf(uint32(n))
}

// issuedAt is the instant that the serial number was drawn at, to the millisecond, for a certificate that is valid from
// notBefore on: a little before. A serial number of another program tells no instant, and then it is notBefore.
func (s Serial) issuedAt(notBefore time.Time) time.Time {
	if t := s.time(); !t.Before(notBefore) && t.Sub(notBefore) <= 2*backdate {
		return t
	}
	return notBefore
}

// time is what the first six octets say.
func (s Serial) time() time.Time {
	var ms int64
	for _, o := range s[:6] {
		ms = ms<<8 | int64(o)
	}
	return time.UnixMilli(ms).UTC()
}

// Lost makes a record of a certificate of which nothing is known but its serial number and that a CRL of shard listed
// it as revoked. It lasts as long as the issuing CA, since nobody knows until when the certificate would have been good,
// and keeps the certificate on every CRL until then.
func (i *Issuer) Lost(serial Serial, shard uint32) *Record {
	cert := i.Signer.Certificate()
	at := cert.NotBefore.UTC() // of a serial number that tells no instant
	if !i.Whole {
		at = serial.time()
	}
	return &Record{
		Serial: serial, Issuer: i.ID(), Shard: shard, ClientID: UnknownClient, Thumbprint: thumbprint.OfDER(nil),
		NotBefore: at.Truncate(time.Second), NotAfter: cert.NotAfter.UTC(), IssuedAt: at,
	}
}

// RevokeAgain revokes a certificate for the reason and at the time that a CRL or an audit log from before a restore
// tells, and reports whether that changed anything. One that is revoked stays so as it is; one on hold is revoked.
func (a *Authority) RevokeAgain(ctx context.Context, serial Serial, r Revocation) (changed bool, err error) {
	return a.revokeAgain(ctx, serial, r, "restore")
}

func (a *Authority) revokeAgain(ctx context.Context, serial Serial, r Revocation, why string) (changed bool, err error) {
	rec, err := a.store.Decide(ctx, serial, func(rec *Record) (*Revocation, audit.Event, error) {
		if rec.Revocation != nil && (rec.Revocation.Reason != CertificateHold || r.Reason == CertificateHold) {
			return nil, audit.Event{}, errUnchanged
		}
		ev := audit.Event{Time: a.clock(), Actor: audit.From(ctx), Action: audit.Revoke, Subject: serial.String(), Detail: map[string]string{
			"client": rec.ClientID, "reason": r.Reason.String(), "at": r.At.UTC().Format(time.RFC3339), "why": why,
		}}
		if r.Reason == CertificateHold {
			ev.Action = audit.Hold
		}
		return &Revocation{Reason: r.Reason, At: r.At.UTC().Truncate(time.Millisecond)}, ev, nil
	})
	if errors.Is(err, errUnchanged) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("revoking %s again: %w", serial, err)
	}
	a.changed(rec.Issuer, rec.Shard)
	return true, nil
}

var errUnchanged = errors.New("nothing to change")
