// Package ca decides what may be signed, has it signed, records it, renews and revokes it.
//
// An act runs through the same steps each time: decide (names from the grant, bounds from the profile), sign,
// compare what was signed with what was decided, make the record and its audit entry durable in one
// transaction, and only then return. Package ca knows no HTTP and no store engine; it declares what it needs
// as Signer, Store and NamePolicy.
package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
)

// Config is what an Authority needs. Issuer, Store and Profiles are required.
type Config struct {
	Issuer   *Issuer // the first one; SetIssuers names others
	Store    Store
	Profiles []*Profile
	// Changed is told which CRL is out of date, after a revocation or release became durable. It must not block.
	Changed func(issuer string, shard uint32)
	// ShardSize is how many certificates share one CRL; then the next shard is opened. Zero: no shard is ever full.
	ShardSize uint64
	// OpenShard returns nil when that shard's first CRL is durable and served, so that certificates may name it. It is
	// required with ShardSize. An error of its own it tells the operator: here it only means that certificates go on
	// into the shard before it.
	OpenShard func(ctx context.Context, issuer string, shard uint32) error
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Authority issues, renews and revokes certificates of its issuing CAs. All methods may be called at once.
type Authority struct {
	issuers   atomic.Pointer[issuers]
	store     Store
	profiles  map[string]*Profile
	changed   func(issuer string, shard uint32)
	shardSize uint64
	openShard func(ctx context.Context, issuer string, shard uint32) error
	clock     func() time.Time
	latest    atomic.Int64 // the highest clock reading so far, Unix ms
	setting   sync.Mutex   // held by SetIssuers
}

// New validates c.
func New(c Config) (*Authority, error) {
	if c.Store == nil || len(c.Profiles) == 0 {
		return nil, errors.New("ca: Store and Profiles are required")
	}
	if c.ShardSize > 0 && c.OpenShard == nil {
		return nil, errors.New("ca: OpenShard is required with ShardSize: a certificate must not name a CRL that is not published")
	}
	a := &Authority{
		store: c.Store, profiles: map[string]*Profile{}, changed: c.Changed, clock: c.Now,
		shardSize: c.ShardSize, openShard: c.OpenShard,
	}
	if a.clock == nil {
		a.clock = time.Now
	}
	if a.changed == nil {
		a.changed = func(string, uint32) {}
	}
	for _, p := range c.Profiles {
		if p == nil || a.profiles[p.Name()] != nil || p.Name() == ResponderProfile {
			return nil, errors.New("ca: a profile is nil or its name is taken")
		}
		a.profiles[p.Name()] = p
	}
	return a, a.SetIssuers(c.Issuer)
}

// Request asks for a first certificate. Its members come from a grant, and Key from the requester.
type Request struct {
	Profile  string
	ClientID string
	Names    Names
	Key      ProvenKey
	Lifetime time.Duration // zero: the profile's
	Spend    *Spend        // the right that this certificate uses up, if any
}

// Renewal asks for a certificate like Current, for the same or another key.
type Renewal struct {
	Current *x509.Certificate
	Record  *Record // as Lookup returned it for Current
	Key     ProvenKey
}

// Issued is a certificate that is recorded and may leave the process. It is read-only.
type Issued struct {
	Record *Record
	Chain  []*x509.Certificate // what a client sends after its own certificate
	Root   *x509.Certificate
}

// Issue signs a certificate for a grant. A retry, the same Spend with the same Use, returns the certificate
// of the first time; another Use is a *SpentError.
func (a *Authority) Issue(ctx context.Context, r Request) (*Issued, error) {
	d, err := a.decide(ctx, r.Profile, r.ClientID, r.Names, r.Key, r.Lifetime)
	if err != nil {
		return nil, err
	}
	issued, err := a.sign(ctx, d, audit.Issue, r.Spend)
	var spent *SpentError
	if errors.As(err, &spent) && r.Spend != nil && spent.Use == r.Spend.Use {
		return a.Issued(ctx, spent.Serial)
	}
	return issued, err
}

// Renew signs a successor for an active certificate: same client, profile, names and length of life. It
// takes all of these from its own record, never from what the requester sent; the names are in the certificate, which
// is read from r.Current, since that is the very one that was recorded.
//
// The record may be out of date by the time that it is used: dropOrphan looks again.
func (a *Authority) Renew(ctx context.Context, r Renewal) (*Issued, error) {
	old := r.Record
	if !old.Thumbprint.Equal(thumbprint.OfCertificate(r.Current)) {
		return nil, fmt.Errorf("certificate to renew: %w: %s is another certificate", ErrNotFound, old.Serial)
	}
	now, err := a.now()
	if err != nil {
		return nil, err
	}
	if status := old.Status(now); status != Active {
		return nil, fmt.Errorf("%w: %s is %s; ask the operator for an invitation and enrol again", ErrNotActive, old.Serial, status)
	}
	// Shorter than asked for if the issuing CA was about to expire.
	lifetime := max(old.NotAfter.Sub(old.NotBefore)-backdate, MinLifetime)
	if p := a.profiles[old.Profile]; p != nil {
		lifetime = min(lifetime, p.c.MaxLifetime) // the profile may have been tightened since
	}
	d, err := a.decide(ctx, old.Profile, old.ClientID, NamesOf(r.Current), r.Key, lifetime)
	if err != nil {
		return nil, err
	}
	d.parent = old.Serial
	issued, err := a.sign(ctx, d, audit.Renew, nil)
	if err != nil {
		return nil, err
	}
	if err := a.dropOrphan(ctx, issued.Record); err != nil {
		return nil, err
	}
	return issued, nil
}

// dropOrphan revokes a successor whose parent was revoked between the look at it and the successor's record,
// so that who stole a key cannot outrun its revocation. Nobody has the successor yet. A revocation that comes
// after this look came after the renewal.
func (a *Authority) dropOrphan(ctx context.Context, rec *Record) error {
	parent, err := a.store.Certificate(ctx, rec.Parent)
	if err != nil {
		return fmt.Errorf("certificate to renew: %w", err)
	}
	if parent.Revocation == nil {
		return nil
	}
	_, err = a.revoke(ctx, rec.Serial, parent.Revocation.Reason, parent.Serial)
	if _, already := errors.AsType[*AlreadyRevokedError](err); err != nil && !already { // the lineage's revocation was faster
		return err
	}
	return fmt.Errorf("%w: %s was revoked in the meantime", ErrNotActive, parent.Serial)
}

// ClientAuth reports whether certificates of a profile authenticate clients (clientAuth). A profile that does
// not exist has none.
func (a *Authority) ClientAuth(profile string) bool {
	p := a.profiles[profile]
	return p != nil && slices.Contains(p.c.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
}

// CheckGrant reports whether the profile would allow a certificate of these names and this lifetime (zero:
// the profile's own), so that an invitation that cannot be redeemed is never made.
func (a *Authority) CheckGrant(profile string, names Names, lifetime time.Duration) error {
	_, _, err := a.checkGrant(profile, names, lifetime)
	return err
}

// Certificate returns a certificate's record, or ErrNotFound.
func (a *Authority) Certificate(ctx context.Context, s Serial) (*Record, error) {
	return a.store.Certificate(ctx, s)
}

// Lookup returns the record of this very certificate, or ErrNotFound: another one with its serial number is not
// this CA's.
func (a *Authority) Lookup(ctx context.Context, cert *x509.Certificate) (*Record, error) {
	serial, err := SerialOf(cert.SerialNumber)
	if err != nil {
		return nil, fmt.Errorf("%w: no certificate of this CA has such a serial number", ErrNotFound)
	}
	rec, err := a.store.Certificate(ctx, serial)
	if err != nil {
		return nil, err
	}
	if !rec.Thumbprint.Equal(thumbprint.OfCertificate(cert)) {
		return nil, fmt.Errorf("%w: %s is another certificate", ErrNotFound, serial)
	}
	return rec, nil
}

// Revoked reports whether this CA's certificate with that thumbprint is revoked or held. It is false for a
// certificate that is not this CA's.
func (a *Authority) Revoked(ctx context.Context, t thumbprint.Cert) (bool, error) {
	return a.store.RevokedThumbprint(ctx, t)
}

// Issued returns a certificate with its chain. Errors: ErrNotFound, ErrIssuer.
func (a *Authority) Issued(ctx context.Context, s Serial) (*Issued, error) {
	rec, err := a.store.Certificate(ctx, s)
	if err != nil {
		return nil, err
	}
	issuer, err := a.issuerOf(rec)
	if err != nil {
		return nil, err
	}
	return issuer.issued(rec), nil
}

// List returns records that match q, newest first.
func (a *Authority) List(ctx context.Context, q Query) (*Page, error) {
	q.Now = a.clock()
	q.Limit = min(max(q.Limit, 1), 1000)
	return a.store.List(ctx, q)
}

func (i *issuing) issued(rec *Record) *Issued {
	return &Issued{Record: rec, Chain: i.chain, Root: i.Root}
}
