package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// certificates tells the authorization server what the CA knows of a certificate.
type certificates struct{ authority *ca.Authority }

func (c certificates) Certificate(ctx context.Context, cert *x509.Certificate) (*authserver.CertificateStatus, error) {
	rec, err := c.authority.Lookup(ctx, cert)
	if errors.Is(err, ca.ErrNotFound) {
		return nil, authserver.ErrNoCertificate
	}
	if err != nil {
		return nil, fmt.Errorf("looking up certificate: %w", err)
	}
	return &authserver.CertificateStatus{
		Serial: rec.Serial.String(), ClientID: rec.ClientID, Operator: rec.Profile == config.ProfileOperator,
		Revoked: rec.Revocation != nil, Held: rec.Status(time.Now()) == ca.Held,
	}, nil
}

func (c certificates) Revoked(ctx context.Context, t thumbprint.Cert) (bool, error) {
	return c.authority.Revoked(ctx, t)
}

// Check is tokenbind.Revocation, for a verifier in this process. A certificate of another CA is never revoked here.
func (c certificates) Check(ctx context.Context, cert *x509.Certificate) error {
	revoked, err := c.Revoked(ctx, thumbprint.OfCertificate(cert))
	switch {
	case err != nil:
		return fmt.Errorf("%w: looking up certificate: %w", tokenbind.ErrUnavailable, err)
	case revoked:
		return errors.New("the certificate is revoked or held")
	}
	return nil
}
