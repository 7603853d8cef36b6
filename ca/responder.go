package ca

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

// ResponderProfile is the name of the profile of OCSP responders' certificates. It is nobody's to configure or to ask for:
// such a certificate says in the issuing CA's name which others are good (RFC 6960 section 4.2.2.2), so only
// IssueResponder knows it. It cannot be renewed either, since Renew does not know it.
const ResponderProfile = "ocsp"

// responderLifetime is that of a responder's certificate. It asks not to be checked for revocation, so it is short; and it
// is long enough that what keeps it from being replaced at half of it is noticed and mended.
const responderLifetime = 7 * 24 * time.Hour

var responderProfile = func() *Profile {
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	return &Profile{
		c:     ProfileConfig{Name: ResponderProfile, Lifetime: responderLifetime, MaxLifetime: responderLifetime, KeyTypes: []KeyType{P256}, ExtKeyUsage: usages},
		usage: usageExtensions(usages),
	}
}()

// ResponderRequest asks for the certificate of an OCSP responder, over a key that this process holds.
type ResponderRequest struct {
	Issuer   string // the id of the issuing CA whose certificates it is to answer for; it need not be the one that signs now
	ClientID string
	Key      ProvenKey
	Until    time.Time // not to be good for longer; zero: as long as the profile says
}

// IssueResponder signs the certificate of an OCSP responder, and records it as any other.
func (a *Authority) IssueResponder(ctx context.Context, r ResponderRequest) (*Issued, error) {
	d, err := a.decideResponder(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("OCSP responder: %w", err)
	}
	return a.sign(ctx, d, audit.Issue, nil)
}

func (a *Authority) decideResponder(ctx context.Context, r ResponderRequest) (*decision, error) {
	issuer := a.issuers.Load().find(r.Issuer)
	if issuer == nil {
		return nil, fmt.Errorf("%w: %s", ErrIssuer, r.Issuer)
	}
	if err := responderProfile.checkKey(r.Key); err != nil {
		return nil, err
	}
	now, err := a.now()
	if err != nil {
		return nil, err
	}
	notAfter, err := issuer.until(now, responderLifetime)
	if err != nil {
		return nil, err
	}
	if !r.Until.IsZero() {
		notAfter = earlier(notAfter, r.Until.UTC().Truncate(time.Second))
	}
	if !now.Before(notAfter) {
		return nil, fmt.Errorf("%w: nothing is left of it", ErrLifetime)
	}
	return &decision{
		issuer: issuer, profile: responderProfile, clientID: r.ClientID, key: r.Key.pub,
		names: Names{CommonName: "OCSP responder " + issuer.id}, // nodes have one each, and their keys tell them apart
		now:   now.UTC().Truncate(time.Millisecond), notBefore: now.UTC().Add(-backdate).Truncate(time.Second), notAfter: notAfter,
		shard: issuer.shards.assign(ctx),
	}, nil
}

// crlURL and ocspURL are where the certificate says that its status is. A responder's says that nobody is to look
// (id-pkix-ocsp-nocheck), and so names neither; if it is revoked it stands on the CRL all the same.
func (d *decision) crlURL() string {
	if d.profile == responderProfile {
		return ""
	}
	return d.shard.url
}

func (d *decision) ocspURL() string {
	if d.profile == responderProfile {
		return ""
	}
	return d.issuer.OCSPURL
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
