package rollover

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/stepca"
)

const (
	// maxIssuers bounds the issuing CAs that have not ended: each costs a CRL, and clients read all of them.
	maxIssuers = 16
	// maxChain bounds what clients get beside an issuing CA's certificate.
	maxChain = 6
	// maxLead bounds how far ahead an issuing CA can be made active.
	maxLead = 365 * 24 * time.Hour
	// minLife is what an issuing CA must have left to live when it is installed.
	minLife = 24 * time.Hour
)

// Request says what kind of key a new issuing CA is to have. The zero value is one like the first's.
type Request struct {
	KeyType ca.KeyType
	// KeyURI names a key in a device, which is made if it is not there, instead of one that is sealed with the passphrase.
	KeyURI string
}

// Request makes an issuing CA's key, or takes one that is in a device, and the CSR that its certificate is to be made
// from. Nothing uses it before Install.
//
// The subject has the key's id in it, so that no two issuing CAs bear the same name: servers that look for the issuer
// of a certificate or CRL by name alone find one. (RFC 5280 section 4.2.1.1 wants the key identifier for CAs with
// several keys; both are there.)
func (r *Issuers) Request(ctx context.Context, in Request) (*Issuer, error) {
	all, err := r.All(ctx)
	if all == nil {
		return nil, err
	}
	alive := slices.DeleteFunc(all, func(i Issuer) bool { return i.State == Ended })
	if len(alive) >= maxIssuers {
		return nil, fmt.Errorf("%w: there are %d issuing CAs already; drop one that is not in service, or wait until one has ended", ErrState, len(alive))
	}
	k := keyring.Key{Use: keyring.Issuing, CreatedAt: r.now()}
	key, err := r.newKey(ctx, in, &k)
	if err != nil {
		return nil, err
	}
	if sameKey(key.Public(), r.c.First) {
		return nil, fmt.Errorf("%w: that is the key of the issuing CA which the configuration names", ErrRefused)
	}
	if k.ID, err = ca.KeyIssuerID(key.Public()); err != nil {
		return nil, err
	}
	if k.Request, err = stepca.CreateIssuerRequest(fmt.Sprintf("%s Issuing CA %s", r.c.Name, k.ID[:8]), key); err != nil {
		return nil, err
	}
	k, err = r.c.Store.PutKey(ctx, k, r.event(ctx, audit.KeyAdd, k, nil))
	if errors.Is(err, keyring.ErrConflict) {
		return nil, fmt.Errorf("%w: that key is in the ring already", ErrState)
	}
	if err != nil {
		return nil, fmt.Errorf("keeping the new issuing key: %w", err)
	}
	return &Issuer{Key: k, State: Requested}, nil
}

func (r *Issuers) newKey(ctx context.Context, in Request, k *keyring.Key) (crypto.Signer, error) {
	kind := in.KeyType
	if kind == "" {
		var err error
		if kind, err = ca.KeyTypeOf(r.c.First.Signer.Certificate().PublicKey); err != nil {
			return nil, err
		}
	}
	if !slices.Contains(ca.KeyTypes, kind) {
		return nil, fmt.Errorf("%w: key type %q: want one of %v", ErrRefused, kind, ca.KeyTypes)
	}
	if in.KeyURI != "" {
		if !stepca.IsDevice(in.KeyURI) {
			return nil, fmt.Errorf("%w: a key of the ring is in a device that every node reaches, such as pkcs11:..., or is made and sealed by pkid", ErrRefused)
		}
		if err := stepca.CheckDevice(in.KeyURI, r.c.Devices); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return r.deviceKey(ctx, in.KeyURI, kind, k)
	}
	if r.c.InDevice && in.KeyType == "" {
		return nil, fmt.Errorf("%w: the issuing key is in a device: say where in it the next one is to be with --key, or with --key-type that one in the store will do", ErrRefused)
	}
	key, err := stepca.GenerateKey(kind)
	if err != nil {
		return nil, err
	}
	k.Algorithm = string(kind)
	k.Sealed, err = stepca.SealKey(key, r.c.Passphrase)
	return key, err
}

// deviceKey takes a key that is in a device, or makes one there.
func (r *Issuers) deviceKey(ctx context.Context, uri string, kind ca.KeyType, k *keyring.Key) (crypto.Signer, error) {
	key, err := stepca.OpenKey(ctx, uri, r.c.Passphrase)
	if err != nil {
		made, failed := stepca.CreateKey(ctx, uri, kind, r.c.Passphrase)
		if failed != nil {
			return nil, fmt.Errorf("%w: it cannot be used: %w; nor can another be made there: %w", ErrRefused, err, failed)
		}
		key = made
	}
	kind, err = ca.KeyTypeOf(key.Public())
	k.URI, k.Algorithm = uri, string(kind)
	return key, err
}

// Installation is the certificate that somebody signed for a request, and what belongs to it.
type Installation struct {
	Certificate *x509.Certificate
	Root        *x509.Certificate   // nil: that of the issuing CA that is active now
	Chain       []*x509.Certificate // between the two, and what leads to the root of now if Root is another one
	RootCRL     []byte              // DER: of who signed Certificate; nil if none is to be published here
}

// Install brings a requested issuing CA into service: it keeps its certificate, has its CRL published, and only then
// sets the instant from which on it signs, which is lead from now, or later if the nodes need longer. What was done by
// a call that failed in between is not done again by the next one.
func (r *Issuers) Install(ctx context.Context, id string, in Installation, lead time.Duration) (*Issuer, error) {
	if lead < 0 || lead > maxLead {
		return nil, fmt.Errorf("%w: %s ahead: want 0 to %s", ErrRefused, lead, maxLead)
	}
	if _, err := r.install(ctx, id, in); err != nil {
		return nil, err
	}
	if err := r.c.Follow(ctx, id); err != nil {
		return nil, fmt.Errorf("issuing CA %s has its certificate, and does not sign yet, since its CRL could not be published; install it again: %w", id, err)
	}
	i, err := r.activate(ctx, id, lead)
	if err != nil {
		return nil, err
	}
	return i, r.c.Follow(ctx, id)
}

// install keeps the certificate. To install the same one again changes nothing.
func (r *Issuers) install(ctx context.Context, id string, in Installation) (*Issuer, error) {
	i, active, err := r.find(ctx, id)
	if err != nil {
		return nil, err
	}
	if !i.Key.EndsAt.IsZero() && i.Since.IsZero() {
		return nil, fmt.Errorf("%w: issuing CA %s is being dropped; drop it again, and ask for another", ErrState, id)
	}
	if i.Issuer != nil {
		if bytes.Equal(i.Key.Certificate, in.Certificate.Raw) {
			return i, nil
		}
		return nil, fmt.Errorf("%w: issuing CA %s has another certificate", ErrState, id)
	}
	if in.Root == nil {
		in.Root = active.Root
		if len(in.Chain) == 0 && in.Certificate.CheckSignatureFrom(active.Root) != nil {
			in.Chain = active.Intermediates
		}
	}
	k := i.Key
	k.Certificate, k.Root, k.RootCRL = in.Certificate.Raw, in.Root.Raw, in.RootCRL
	for _, c := range in.Chain {
		k.Chain = append(k.Chain, c.Raw)
	}
	if err := r.check(ctx, k, in, active); err != nil {
		return nil, err
	}
	detail := map[string]string{"subject": in.Certificate.Subject.String(), "root": in.Root.Subject.String(), "not_after": in.Certificate.NotAfter.UTC().Format(time.RFC3339)}
	if _, err := r.c.Store.PutKey(ctx, k, r.event(ctx, audit.KeyChange, k, detail)); err != nil {
		return nil, fmt.Errorf("installing the certificate of issuing CA %s: %w", id, err)
	}
	i, _, err = r.find(ctx, id)
	return i, err
}

// check refuses a certificate that the issuing CA could not serve with, or whose chain some client could not verify:
// those that know only the root of now, and those that know the new one.
func (r *Issuers) check(ctx context.Context, k keyring.Key, in Installation, active *Issuer) error {
	cert, now := in.Certificate, r.now()
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrRefused}, args...)...)
	}
	if len(in.Chain) > maxChain {
		return refuse("a chain of %d certificates: want at most %d", len(in.Chain), maxChain)
	}
	if now.Before(cert.NotBefore) || cert.NotAfter.Before(now.Add(minLife)) {
		return refuse("the certificate is valid from %s to %s: look at the clock of who signed it",
			cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339))
	}
	for _, c := range slices.Concat(in.Chain, []*x509.Certificate{in.Root}) {
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			return refuse("%q of its chain is valid from %s to %s, and not now", c.Subject,
				c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	if _, err := r.signer(ctx, k, cert); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	next, err := r.issuer(k)
	if err != nil {
		return refuse("%w", err)
	}
	for _, anchor := range []*x509.Certificate{in.Root, active.Root} {
		if err := r.checkWays(next, anchor); err != nil {
			return refuse("%w: give the certificates between them with the chain; a new root needs one by the root before it (cross-signed)", err)
		}
	}
	if !in.Root.Equal(active.Root) && !slices.ContainsFunc(in.Chain, func(c *x509.Certificate) bool { return vouches(c, in.Root, active.Root) }) {
		return refuse("nothing in the chain has the name and the key of the root %q and is signed by the root before it (cross-signed) without limits: clients would not take it over", in.Root.Subject)
	}
	if bytes.Equal(cert.RawSubject, active.Signer.Certificate().RawSubject) && bytes.Equal(cert.SubjectKeyId, active.Signer.Certificate().SubjectKeyId) {
		return refuse("the certificate has the name and the key identifier of the issuing CA that is active now")
	}
	if in.RootCRL == nil {
		return nil
	}
	list, err := x509.ParseRevocationList(in.RootCRL)
	if err == nil {
		err = list.CheckSignatureFrom(next.Above())
	}
	if err != nil {
		return refuse("the CRL of %q: %w", next.Above().Subject, err)
	}
	if list.Number == nil || !now.Before(list.NextUpdate) {
		return refuse("the CRL of %q has no number, or is past its nextUpdate", next.Above().Subject)
	}
	return nil
}

// checkWays refuses an issuing CA from which no way leads to the anchor that certificates below it can go.
func (r *Issuers) checkWays(i *ca.Issuer, anchor *x509.Certificate) error {
	ways, err := i.WaysTo(anchor)
	for _, way := range ways {
		if err = r.c.Check(way); err == nil {
			return nil
		}
	}
	return err
}

// vouches reports whether a certificate is one for the next root by the root before it, which is what clients look for.
func vouches(cross, next, before *x509.Certificate) bool {
	return bytes.Equal(cross.RawSubject, next.RawSubject) && bytes.Equal(cross.RawSubjectPublicKeyInfo, next.RawSubjectPublicKeyInfo) &&
		cross.IsCA && cross.MaxPathLen != 0 && len(cross.ExtKeyUsage)+len(cross.UnknownExtKeyUsage) == 0 && !slices.ContainsFunc(cross.Extensions, isNameConstraints) &&
		cross.CheckSignatureFrom(before) == nil && next.CheckSignatureFrom(next) == nil
}

// isNameConstraints: RFC 5280 section 4.2.1.10.
func isNameConstraints(e pkix.Extension) bool { return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 30}) }

// activate sets the instant from which on an installed issuing CA signs. One that has its instant keeps it.
func (r *Issuers) activate(ctx context.Context, id string, lead time.Duration) (*Issuer, error) {
	i, _, err := r.find(ctx, id)
	if err != nil {
		return nil, err
	}
	switch {
	case i.Issuer == nil:
		return nil, fmt.Errorf("%w: issuing CA %s has no certificate yet", ErrState, id)
	case !i.Since.IsZero():
		return i, nil
	case !i.Key.EndsAt.IsZero():
		return nil, fmt.Errorf("%w: issuing CA %s is being dropped", ErrState, id)
	}
	k := i.Key
	k.ActiveFrom = r.now().Add(max(lead, r.c.Lead))
	for _, c := range append(i.Chain(), i.Root) {
		if !k.ActiveFrom.Before(c.NotAfter) {
			return nil, fmt.Errorf("%w: %q of the chain of issuing CA %s expires before %s", ErrRefused, c.Subject, id, k.ActiveFrom.Format(time.RFC3339))
		}
	}
	detail := map[string]string{"active_from": k.ActiveFrom.Format(time.RFC3339)}
	if _, err := r.c.Store.PutKey(ctx, k, r.event(ctx, audit.KeyChange, k, detail)); err != nil {
		return nil, fmt.Errorf("activating issuing CA %s: %w", id, err)
	}
	i, _, err = r.find(ctx, id)
	return i, err
}

// Drop takes an issuing CA out of the ring that has issued nothing and is not about to.
func (r *Issuers) Drop(ctx context.Context, id string) error {
	i, _, err := r.find(ctx, id)
	if err != nil {
		return err
	}
	if !i.Since.IsZero() {
		return fmt.Errorf("%w: issuing CA %s is %s; only one without an instant to become active at can be dropped", ErrState, id, i.State)
	}
	// Its end comes first: whoever was about to activate it finds that it was changed.
	k := i.Key
	k.EndsAt = r.now()
	_, err = r.c.Store.PutKey(ctx, k, r.event(ctx, audit.KeyChange, k, map[string]string{"ended_at": k.EndsAt.Format(time.RFC3339)}))
	if err == nil {
		err = r.c.Store.DropKey(ctx, id, r.event(ctx, audit.KeyDrop, k, nil))
	}
	if err != nil {
		return fmt.Errorf("dropping issuing CA %s: %w", id, err)
	}
	return nil
}

// Bury destroys the keys of issuing CAs that have ended. Their certificates stay, to show what was issued with.
func (r *Issuers) Bury(ctx context.Context, all []Issuer) error {
	var errs []error
	for _, i := range all {
		if i.State != Ended || i.Key.ID == "" || !i.Key.EndsAt.IsZero() {
			continue
		}
		k := i.Key
		k.EndsAt, k.Sealed = r.now(), nil
		detail := map[string]string{"ended_at": k.EndsAt.Format(time.RFC3339)}
		_, err := r.c.Store.PutKey(ctx, k, r.event(ctx, audit.KeyChange, k, detail))
		if err != nil && !errors.Is(err, keyring.ErrConflict) { // by another node
			errs = append(errs, fmt.Errorf("ending issuing CA %s: %w", k.ID, err))
		}
	}
	return errors.Join(errs...)
}

// find returns an issuing CA of the ring, and the one that is active now.
func (r *Issuers) find(ctx context.Context, id string) (found, active *Issuer, err error) {
	all, err := r.All(ctx)
	if all == nil {
		return nil, nil, err
	}
	for n := range all {
		if all[n].State == Active {
			active = &all[n]
		}
		if all[n].Key.ID == id {
			found = &all[n]
		}
	}
	if found == nil || id == "" {
		return nil, nil, fmt.Errorf("issuing CA %.40q: %w", id, keyring.ErrNotFound)
	}
	return found, active, nil
}

func (r *Issuers) now() time.Time { return r.c.Now().UTC().Truncate(time.Millisecond) }

func (r *Issuers) event(ctx context.Context, action string, k keyring.Key, detail map[string]string) audit.Event {
	return event(ctx, r.now(), action, k, detail)
}

// event is the audit entry of a change to the ring.
func event(ctx context.Context, now time.Time, action string, k keyring.Key, detail map[string]string) audit.Event {
	all := map[string]string{"use": string(k.Use), "algorithm": k.Algorithm}
	maps.Copy(all, detail)
	return audit.Event{Time: now, Actor: audit.From(ctx), Action: action, Subject: k.ID, Detail: all}
}

func sameKey(pub crypto.PublicKey, i *ca.Issuer) bool {
	key, ok := pub.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(i.Signer.Certificate().PublicKey)
}
