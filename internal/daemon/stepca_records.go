package daemon

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/stepimport"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// importers is how many records are written at once: the stores put what waits into one transaction.
const importers = 64

// Why a certificate is not taken over.
const (
	skipUnreadable = "not readable as certificates"
	skipCA         = "of CAs"
	skipExpired    = "expired longer ago than pkid keeps them (retention.certificates)"
	skipForeign    = "by another CA than this intermediate"
	skipSerial     = "with a serial number of 0, below, or of more than 128 bits"
	skipUsage      = "for neither clients nor servers"
)

// importCounts is what the importers share.
type importCounts struct {
	mu sync.Mutex // guards Imported and enrolled while they are at work
}

// recently remembers ids, a bounded number of them.
type recently map[string]bool

func (r *recently) seen(id string) bool {
	if *r == nil || len(*r) >= 100_000 {
		*r = recently{}
	}
	before := (*r)[id]
	(*r)[id] = true
	return before
}

// inParallel has do called with each of what all yields, by several goroutines. The first error ends it.
func inParallel[T any](ctx context.Context, all iter.Seq2[T, error], do func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan T)
	var workers sync.WaitGroup
	for range importers {
		workers.Go(func() {
			for one := range work {
				if err := do(ctx, one); err != nil {
					cancel(err)
				}
			}
		})
	}
	for one, err := range all {
		if err != nil {
			cancel(err)
			break
		}
		select {
		case work <- one:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
	}
	close(work)
	workers.Wait()
	return context.Cause(ctx)
}

func (im *stepImport) certificates(ctx context.Context) error {
	return inParallel(ctx, im.db.Certificates(), func(ctx context.Context, der []byte) error {
		im.count(func() { im.Found++ })
		ad, skip := im.adoption(der)
		if skip == "" {
			var err error
			if skip, err = im.certificate(ctx, ad); err != nil {
				return err
			}
		}
		if skip != "" {
			im.count(func() { im.Skipped[skip]++ })
		}
		return nil
	})
}

func (im *stepImport) count(f func()) {
	im.mu.Lock()
	defer im.mu.Unlock()
	f()
}

// adoption says as what a certificate is taken over, or why it is not.
func (im *stepImport) adoption(der []byte) (ad ca.Adoption, skip string) {
	cert, err := x509.ParseCertificate(der)
	switch {
	case err != nil:
		return ad, skipUnreadable
	case cert.IsCA:
		return ad, skipCA
	case im.keep > 0 && time.Since(cert.NotAfter) > im.keep:
		return ad, skipExpired
	}
	ad = ca.Adoption{Certificate: cert, ClientID: clientIDOf(cert), Profile: profileOf(cert)}
	if ad.Profile == "" {
		return ad, skipUsage
	}
	return ad, ""
}

// certificate takes one certificate over, with its revocation, and makes sure that its client exists.
func (im *stepImport) certificate(ctx context.Context, ad ca.Adoption) (skip string, err error) {
	cert := ad.Certificate
	found, err := im.db.Revocation(cert.SerialNumber)
	if err != nil {
		return "", err
	}
	var r *ca.Revocation
	if found != nil {
		r = revocationOf(found)
	}
	switch err := im.authority.Import(ctx, ad, r); {
	case errors.Is(err, ca.ErrIssuer):
		return skipForeign, nil
	case errors.Is(err, ca.ErrSerial):
		return skipSerial, nil
	case err != nil:
		return "", err
	}
	im.count(func() {
		im.Certificates++
		if r != nil {
			im.Revoked++
		}
	})
	if r != nil || time.Now().After(cert.NotAfter) {
		return "", nil
	}
	im.judge(ad)
	return "", im.enrol(ctx, ad)
}

// judge notes what an operator should know of a certificate that is in use.
func (im *stepImport) judge(ad ca.Adoption) {
	cert := ad.Certificate
	refused := im.authority.CheckGrant(ad.Profile, ca.NamesOf(cert), 0)
	if _, err := ca.KeyTypeOf(cert.PublicKey); refused == nil {
		refused = err
	}
	im.count(func() {
		if refused != nil {
			im.Unrenewable.add("%s: %v", subjectOf(cert), refused)
		}
		if ad.ClientID != cert.Subject.CommonName {
			im.Derived.add("%s for %s", ad.ClientID, subjectOf(cert))
		}
	})
}

// enrol registers the certificate's client with the token endpoint, by a name that a renewed certificate has too.
func (im *stepImport) enrol(ctx context.Context, ad ca.Adoption) error {
	if !im.authority.ClientAuth(ad.Profile) {
		return nil
	}
	known := false
	im.count(func() { known = im.enrolled.seen(ad.ClientID) })
	if known {
		return nil
	}
	kind, subject := identifying(ad.Certificate)
	_, _, err := im.clients.Add(ctx, authserver.Client{ID: ad.ClientID, Auth: authserver.TLSClientAuth, SubjectKind: kind, Subject: subject})
	if errors.Is(err, authserver.ErrConflict) {
		return nil
	}
	if errors.Is(err, authserver.ErrClientMetadata) {
		im.count(func() { im.Unregistered.add("%s: %v", subjectOf(ad.Certificate), err) })
		return nil
	}
	return err
}

// revocations takes over those of certificates that are not there: step-ca revokes by serial number.
func (im *stepImport) revocations(ctx context.Context) error {
	return inParallel(ctx, im.db.Revocations(), func(ctx context.Context, r *stepimport.Revocation) error {
		if r.Serial.Sign() <= 0 || r.Serial.BitLen() > 8*len(ca.Serial{}) {
			im.count(func() { im.Skipped["revocations: "+skipSerial]++ })
			return nil
		}
		serial, err := ca.SerialOf(r.Serial)
		if err != nil {
			return fmt.Errorf("revocation of %s: %w", r.Serial, err)
		}
		der, err := im.db.Certificate(r.Serial)
		if err != nil {
			return err
		}
		if der != nil {
			switch _, skip := im.adoption(der); skip {
			case "":
				return im.revokeKnown(ctx, serial, r)
			case skipUsage:
			default:
				return nil // of a certificate that was not taken over either
			}
		}
		if im.keep > 0 && !r.Expires.IsZero() && time.Since(r.Expires) > im.keep {
			im.count(func() { im.Skipped["revocations: "+skipExpired]++ })
			return nil
		}
		if err := im.authority.ImportRevocation(ctx, im.issuer.ID(), serial, *revocationOf(r), r.Expires); err != nil {
			return fmt.Errorf("revocation of %s: %w", serial, err)
		}
		im.count(func() { im.Revoked++; im.Lost++ })
		return nil
	})
}

// revokeKnown makes sure of a revocation that came with its certificate already, unless step-ca wrote the serial number
// in another way than its own look-ups.
func (im *stepImport) revokeKnown(ctx context.Context, serial ca.Serial, r *stepimport.Revocation) error {
	changed, err := im.authority.RevokeImported(ctx, serial, *revocationOf(r))
	if changed {
		im.count(func() { im.Revoked++ })
	}
	if errors.Is(err, ca.ErrNotFound) {
		return nil // another CA's certificate
	}
	return err
}

// revocationOf reads a revocation. step-ca takes any number for a reason, and never gives a certificate back.
func revocationOf(r *stepimport.Revocation) *ca.Revocation {
	reason := ca.Reason(r.Reason)
	if _, err := ca.ParseReason(reason.String()); err != nil || reason == ca.RemoveFromCRL {
		reason = ca.Unspecified
	}
	return &ca.Revocation{Reason: reason, At: r.At}
}

// profileOf chooses the profile that a certificate is renewed by: one for the same uses. It is empty if there is none.
func profileOf(cert *x509.Certificate) string {
	client := slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	server := slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	switch {
	case client && server, slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny), len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) == 0:
		return profileImported
	case client:
		return config.ProfileClient
	case server:
		return config.ProfileServer
	default:
		return ""
	}
}

// clientIDOf is the common name, if that can be a client's id, as in certificates that pkid issues. Otherwise it is made
// from all names, by a hash, so that no two holders come to have one id.
func clientIDOf(cert *x509.Certificate) string {
	if enroll.CheckClientID(cert.Subject.CommonName) == nil {
		return cert.Subject.CommonName
	}
	sum := sha256.Sum256([]byte(strings.Join(ca.NamesOf(cert).Text(), "\x00")))
	return "step-" + hex.EncodeToString(sum[:10])
}

// identifying returns what the token endpoint knows a client by (RFC 8705 section 2.1.2): the common name where that is
// the whole subject, since a renewed certificate has no more of it, and otherwise a SAN.
func identifying(cert *x509.Certificate) (authserver.SubjectKind, string) {
	switch {
	case len(cert.Subject.Names) == 1 && cert.Subject.CommonName != "":
		return authserver.SubjectDN, cert.Subject.String()
	case len(cert.DNSNames) > 0:
		return authserver.SANDNS, cert.DNSNames[0]
	case len(cert.URIs) > 0:
		return authserver.SANURI, cert.URIs[0].String()
	case len(cert.EmailAddresses) > 0:
		return authserver.SANEmail, cert.EmailAddresses[0]
	case len(cert.IPAddresses) > 0:
		return authserver.SANIP, cert.IPAddresses[0].String()
	default:
		return authserver.SubjectDN, cert.Subject.String()
	}
}

func subjectOf(cert *x509.Certificate) string {
	if cert.Subject.CommonName != "" {
		return fmt.Sprintf("%q", cert.Subject.CommonName)
	}
	return fmt.Sprintf("%q", strings.Join(ca.NamesOf(cert).Text()[1:], " "))
}
