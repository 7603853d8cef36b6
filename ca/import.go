package ca

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

// imported is the reason that the audit log gives for what came from another CA program.
const imported = "import"

// Import records a certificate that another program issued in the name of one of the issuing CAs, and the revocation of
// which r tells, if it is not nil. It may have expired, and its profile need not exist: then it is not renewed. The
// errors are ErrIssuer, ErrSerial and ErrRecorded.
func (a *Authority) Import(ctx context.Context, ad Adoption, r *Revocation) error {
	cert := ad.Certificate
	serial, err := SerialOf(cert.SerialNumber)
	if err != nil {
		return err
	}
	issuer, err := a.signerOf(cert)
	if err != nil {
		return err
	}
	number, err := issuer.shardIn(cert.CRLDistributionPoints)
	if err != nil {
		return err
	}
	if err := a.keep(ctx, ad.record(serial, issuer.id, number), audit.Import, a.clock()); err != nil || r == nil {
		return err
	}
	_, err = a.RevokeImported(ctx, serial, *r)
	return err
}

// RevokeImported revokes a certificate as another program did, and reports whether that changed anything. ErrNotFound if
// it is not recorded.
func (a *Authority) RevokeImported(ctx context.Context, serial Serial, r Revocation) (changed bool, err error) {
	return a.revokeAgain(ctx, serial, r, imported)
}

// ImportRevocation records the revocation of a certificate of which another program kept nothing else, and when it
// expires, if that is known.
func (a *Authority) ImportRevocation(ctx context.Context, issuer string, serial Serial, r Revocation, expires time.Time) error {
	i, ok := a.FindIssuer(issuer)
	if !ok {
		return fmt.Errorf("%w: %s", ErrIssuer, issuer)
	}
	if !i.Whole {
		return errors.New("ca: which of its CRLs the certificate names is not known")
	}
	lost := i.Lost(serial, 0)
	if !expires.IsZero() && expires.Before(lost.NotAfter) {
		lost.NotAfter = expires.UTC().Truncate(time.Second)
	}
	if err := a.keep(ctx, lost, audit.Import, a.clock()); err != nil {
		return err
	}
	_, err := a.RevokeImported(ctx, serial, r)
	return err
}
