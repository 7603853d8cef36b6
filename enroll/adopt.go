package enroll

import (
	"context"
	"crypto/x509"
	"fmt"

	"github.com/pkid/pkid/ca"
)

// Adopt records a certificate that the store does not know since it was restored from an older backup, and makes sure
// that its client exists. An empty clientID is the certificate's common name, which is where invitations put it, and an
// empty profile DefaultProfile.
func (s *Service) Adopt(ctx context.Context, cert *x509.Certificate, clientID, profile string) (*ca.Issued, error) {
	if clientID == "" {
		clientID = cert.Subject.CommonName
	}
	if profile == "" {
		profile = DefaultProfile
	}
	if err := CheckClientID(clientID); err != nil {
		return nil, err
	}
	issued, err := s.ca.Adopt(ctx, ca.Adoption{Certificate: cert, ClientID: clientID, Profile: profile})
	if err != nil {
		return nil, err
	}
	if profile == OperatorProfile || !s.ca.ClientAuth(profile) {
		return issued, nil // no client of the token endpoint
	}
	if err := s.clients.Enrol(ctx, clientID, nil, nil); err != nil {
		return nil, fmt.Errorf("the certificate is adopted, its client is not registered: %w", err)
	}
	return issued, nil
}
