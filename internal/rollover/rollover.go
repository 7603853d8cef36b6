// Package rollover brings new keys into service and takes old ones out of it: issuing CAs and token signing keys. They
// are in the ring of the store, so that every node has the same ones; what each is used for follows from the clock.
//
// An issuing CA passes through these states, of which the last three need nobody to act:
//
//	requested ── a key and its CSR are in the ring
//	installed ── so is its certificate; its CRL is published, its certificate can be fetched
//	waiting   ── the instant is set from which on it signs
//	active    ── it signs certificates
//	retiring  ── another one does; this one signs its CRLs, for those that it issued
//	ended     ── they have all expired, and so has its last CRL; its key is destroyed
package rollover

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/stepca"
)

var (
	// ErrRefused: what was asked for cannot be done with that key. The text says why and what to do.
	ErrRefused = errors.New("refused")
	// ErrState: the key is not in the state for that.
	ErrState = errors.New("not now")
)

// State is what an issuing CA does at an instant.
type State string

// The states, as in the package comment.
const (
	Requested State = "requested"
	Installed State = "installed"
	Waiting   State = "waiting"
	Active    State = "active"
	Retiring  State = "retiring"
	Ended     State = "ended"
)

// Issuer is an issuing CA, as it is at an instant.
type Issuer struct {
	*ca.Issuer             // nil while it is requested
	Key        keyring.Key // zero for the first one, whose key is not in the ring
	State      State
	Since      time.Time // when it became active, or will; zero for the first one and while that is not set
	Until      time.Time // when another one took over, or will; zero if none is there to do so
	LastExpiry time.Time // of the certificates that it issued; zero if it issued none
	Issued     uint64
	End        time.Time // when it ends, by what is known now; zero while it is not to be retired
}

// ID names the issuing CA.
func (i *Issuer) ID() string {
	if i.Issuer != nil {
		return i.Issuer.ID()
	}
	return i.Key.ID
}

// Store is what issuing CAs are kept in.
type Store interface {
	keyring.Store
	Shards(ctx context.Context, issuer string) ([]ca.ShardCount, error)
}

// IssuersConfig is what Issuers need. All of it is required but OCSPURL, InDevice, Devices, Lead, Check, Follow and Now.
type IssuersConfig struct {
	Store      Store
	First      *ca.Issuer // the one that the configuration names
	InDevice   bool       // the first one's key is, and the next one's is not to be less guarded by mistake
	Devices    []string   // URIs of the configured keys: another one may be where they are
	Passphrase []byte     // of the keys; it is kept, since keys come into the ring while the daemon runs
	Name       string     // of the CA, for subjects
	// URLs returns where an issuing CA's CRL and certificate are published.
	URLs    func(id string) (crl, aia string)
	OCSPURL string // where certificates can be asked about, whoever issued them; empty: nowhere
	// ListLifetime is that of a CRL.
	ListLifetime time.Duration
	// Lead is the least time between an issuing CA's installation and its first certificate, in which all nodes come to
	// know of it. Zero, if there are no others.
	Lead time.Duration
	// Check finds what would keep certificates below a chain of CAs, the issuing one's first and the trust anchor's last,
	// from being accepted, beside the signatures and the dates.
	Check func(way []*x509.Certificate) error
	// Follow is called after this node has changed an issuing CA. It returns nil when that one's certificate can be
	// fetched, and so can its CRL.
	Follow func(ctx context.Context, id string) error
	Now    func() time.Time // time.Now if nil
}

// Issuers are the issuing CAs of a store. All methods may be called at once.
type Issuers struct {
	c IssuersConfig

	mu     sync.Mutex            // held while the ring is read; guards what follows
	opened map[string]*ca.Issuer // by id: those of the ring whose key could be opened
}

// NewIssuers returns the issuing CAs of a store. It reads nothing yet.
func NewIssuers(c IssuersConfig) *Issuers {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Check == nil {
		c.Check = func([]*x509.Certificate) error { return nil }
	}
	if c.Follow == nil {
		c.Follow = func(context.Context, string) error { return nil }
	}
	return &Issuers{c: c, opened: map[string]*ca.Issuer{}}
}

// never is the instant from which on an issuing CA signs that nobody has set an instant for. It is as far away as JSON
// and certificates can tell.
var never = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// All returns every issuing CA, in the order in which they sign. Where one's key cannot be opened, it is there all the
// same and signs nothing here, and the error says so beside the list.
func (r *Issuers) All(ctx context.Context) ([]Issuer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys, err := r.c.Store.Keys(ctx, keyring.Issuing)
	if err != nil {
		return nil, fmt.Errorf("reading the ring of issuing keys: %w", err)
	}
	all := []Issuer{{Issuer: r.c.First}}
	var unusable []error
	for _, k := range keys {
		i := Issuer{Key: k, Since: k.ActiveFrom}
		if len(k.Certificate) > 0 {
			if i.Issuer, err = r.open(ctx, k); err != nil {
				unusable = append(unusable, fmt.Errorf("issuing CA %s: %w", k.ID, err))
			}
		}
		if i.Issuer == nil && len(k.Certificate) > 0 {
			continue // damaged
		}
		all = append(all, i)
	}
	slices.SortStableFunc(all[1:], func(x, y Issuer) int { return x.from().Compare(y.from()) })
	for n := range all {
		if err := r.describe(ctx, all, n); err != nil {
			return nil, err
		}
	}
	return all, errors.Join(unusable...)
}

func (i *Issuer) from() time.Time {
	if i.Since.IsZero() {
		return never
	}
	return i.Since
}

// describe says of the n-th what it does now, from the instants of the others and from what it issued.
func (r *Issuers) describe(ctx context.Context, all []Issuer, n int) error {
	i, now := &all[n], r.c.Now()
	if i.Issuer == nil {
		i.State = Requested
		return nil
	}
	counts, err := r.c.Store.Shards(ctx, i.ID())
	if err != nil {
		return fmt.Errorf("reading what issuing CA %s has issued: %w", i.ID(), err)
	}
	for _, c := range counts {
		i.Issued += c.Certificates
		if c.NotAfter.After(i.LastExpiry) {
			i.LastExpiry = c.NotAfter
		}
	}
	if n+1 < len(all) && all[n+1].from() != never {
		i.Until = all[n+1].Since
		i.End = i.endsAt(r.c.ListLifetime)
	}
	first := n == 0
	switch {
	case !first && i.Since.IsZero():
		i.State = Installed
	case !first && now.Before(i.Since):
		i.State = Waiting
	case i.Until.IsZero() || now.Before(i.Until):
		i.State = Active
	case !i.Key.EndsAt.IsZero() || !now.Before(i.End):
		i.State = Ended
	default:
		i.State = Retiring
	}
	return nil
}

// endsAt is when nobody may ask any more for a CRL of an issuing CA that another one followed: the list that is signed
// after the last certificate's expiry is good for one lifetime, and one that was signed just before for another.
func (i *Issuer) endsAt(list time.Duration) time.Time {
	last := i.Until
	if i.LastExpiry.After(last) {
		last = i.LastExpiry
	}
	return last.Add(2 * list)
}

// open makes an issuer of a key of the ring. If only its key is missing, it returns one that signs nothing, and the
// error.
func (r *Issuers) open(ctx context.Context, k keyring.Key) (*ca.Issuer, error) {
	before := r.opened[k.ID]
	if before != nil && !bytes.Equal(before.Signer.Certificate().Raw, k.Certificate) { // dropped, and asked for again
		before = nil
	}
	if before != nil && (before.From.Equal(k.ActiveFrom) || k.ActiveFrom.IsZero() && before.From.Equal(never)) {
		return before, nil
	}
	i, err := r.issuer(k)
	if err != nil {
		return nil, err
	}
	if before != nil {
		i.Signer = before.Signer
		r.opened[k.ID] = i
		return i, nil
	}
	cert := i.Signer.Certificate()
	if !k.EndsAt.IsZero() {
		return i, nil
	}
	signer, err := r.signer(ctx, k, cert)
	if err != nil {
		return i, err
	}
	i.Signer = signer
	r.opened[k.ID] = i
	return i, nil
}

func (r *Issuers) signer(ctx context.Context, k keyring.Key, cert *x509.Certificate) (ca.Signer, error) {
	key, err := r.openKey(ctx, k)
	if err != nil {
		return nil, err
	}
	return stepca.NewSigner(cert, key)
}

func (r *Issuers) openKey(ctx context.Context, k keyring.Key) (crypto.Signer, error) {
	return openKey(ctx, k, r.c.Passphrase)
}

// openKey opens a key of the ring.
func openKey(ctx context.Context, k keyring.Key, passphrase []byte) (crypto.Signer, error) {
	if k.URI != "" {
		return stepca.OpenKey(ctx, k.URI, passphrase)
	}
	return stepca.OpenSealed(k.Sealed, passphrase)
}

// issuer reads the certificates of a key. What it returns signs nothing yet.
func (r *Issuers) issuer(k keyring.Key) (*ca.Issuer, error) {
	cert, err := x509.ParseCertificate(k.Certificate)
	if err != nil {
		return nil, fmt.Errorf("its certificate: %w", err)
	}
	root, err := x509.ParseCertificate(k.Root)
	if err != nil {
		return nil, fmt.Errorf("its root: %w", err)
	}
	i := &ca.Issuer{Signer: Keyless{cert}, Root: root, Name: k.ID, From: k.ActiveFrom}
	if k.ActiveFrom.IsZero() {
		i.From = never
	}
	i.CRLURL, i.AIAURL = r.c.URLs(k.ID)
	i.OCSPURL = r.c.OCSPURL
	var above []*x509.Certificate
	for _, der := range k.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("its chain: %w", err)
		}
		above = append(above, c)
	}
	i.Intermediates, i.Cross = splitChain(cert, root, above)
	return i, nil
}

// splitChain tells the certificates between an issuing CA and its root from those that lead elsewhere. A certificate
// that the root signed needs none between.
func splitChain(cert, root *x509.Certificate, chain []*x509.Certificate) (between, cross []*x509.Certificate) {
	rest := slices.Clone(chain)
	for cert.CheckSignatureFrom(root) != nil {
		n := slices.IndexFunc(rest, func(c *x509.Certificate) bool { return cert.CheckSignatureFrom(c) == nil })
		if n < 0 {
			return nil, chain // no way to the root, which ca.Authority refuses
		}
		cert = rest[n]
		between = append(between, cert)
		rest = slices.Delete(rest, n, n+1)
	}
	return between, rest
}

// Keyless is the signer of an issuing CA whose key is not here: it has ended, or its device is away.
type Keyless struct{ Cert *x509.Certificate }

// Certificate returns the issuing CA's certificate.
func (k Keyless) Certificate() *x509.Certificate { return k.Cert }

// SignCertificate refuses.
func (k Keyless) SignCertificate(context.Context, ca.TBSCertificate) ([]byte, error) {
	return nil, k.refuse()
}

// SignCRL refuses.
func (k Keyless) SignCRL(context.Context, ca.TBSCertList) ([]byte, error) { return nil, k.refuse() }

func (k Keyless) refuse() error {
	return fmt.Errorf("%w: the key of %q is not here", ca.ErrSignerAway, k.Cert.Subject)
}
