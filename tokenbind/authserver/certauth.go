package authserver

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pkid/pkid/thumbprint"
)

// checkCertificate authenticates a client by the certificate of its connection (RFC 8705 section 2). It is
// done for every request, so that a resumed or long-lived connection ends with its certificate.
func (s *Server) checkCertificate(c *call, client *Client) error {
	status, err := s.standing(c, client.ID, invalidClient)
	switch {
	case err != nil:
		return err
	case client.Auth == SelfSignedTLSClientAuth:
		return s.checkSelfSigned(c, client)
	case client.Auth != TLSClientAuth:
		return failed("registered method %q, and a certificate was presented", client.Auth)
	case status == nil:
		return failed("this CA has no record of the certificate presented")
	}
	return s.vet(c, client)
}

// vetted says of a certificate that its chain and its name were found good. Each node remembers for itself: it is only
// what follows from the certificate, the anchors and the client's record as it was read for this request. What another
// node may change, a revocation or the client's standing, is read from the store for every request and never kept.
type vetted struct {
	against     standards
	from, until time.Time // while every certificate of the chain is valid
}

// standards are all that a certificate's chain and name are held against, beside the time. Pools only grow, so what
// was good of the same ones still is.
type standards struct {
	roots, intermediates *x509.CertPool
	kind                 SubjectKind
	subject              string
}

// maxVetted is how many certificates are remembered with their chain and name.
const maxVetted = 16 << 10

// vet checks the chain and the name of a certificate that is the client's own, so that its holder may know what is
// wrong. What was found good of this very certificate is not checked again while it cannot have changed.
func (s *Server) vet(c *call, client *Client) error {
	against := standards{s.c.Anchors(), s.c.Intermediates(), client.SubjectKind, client.Subject}
	known, found := s.vetted.Get(c.x5t)
	if found && known.against == against && !c.now.Before(known.from) && !c.now.After(known.until) {
		return nil
	}
	chain, err := s.checkChain(c.cert, c.now)
	if err != nil {
		return invalidClient("the certificate presented is not one for TLS clients that a trusted CA issued").because(err)
	}
	if !subjectMatches(client, c.cert) {
		return invalidClient("the certificate presented does not have the %s that the client is registered with", client.SubjectKind)
	}
	from, until := validity(chain)
	s.vetted.Put(c.x5t, vetted{against, from, until})
	return nil
}

// standing says what this CA knows of the certificate presented; nil if the CA did not issue it. What speaks
// against the certificate itself, whoever the client is, is an error made with refuse: its validity period, a
// revocation, that it makes an operator, or that it was issued to another than the client of this id.
func (s *Server) standing(c *call, clientID string, refuse func(string, ...any) *refusal) (*CertificateStatus, error) {
	switch {
	case c.now.Before(c.cert.NotBefore):
		return nil, refuse("the client certificate is not valid before %s", stamp(c.cert.NotBefore))
	case c.now.After(c.cert.NotAfter):
		return nil, refuse("the client certificate expired at %s; renew it, or enrol again", stamp(c.cert.NotAfter))
	}
	status, err := s.status(c.http.Context(), c.cert)
	switch {
	case err != nil:
		return nil, err
	case status == nil:
		return nil, nil
	case status.Held:
		return nil, refuse("the client certificate is on hold; ask the operator to release it")
	case status.Revoked:
		return nil, refuse("the client certificate was revoked; enrol again")
	case status.Operator:
		return nil, refuse("an operator's certificate is no client's; enrol the client and use its own")
	case status.ClientID != clientID:
		return nil, refuse("the certificate presented was issued to another client than %q", clientID).
			because(fmt.Errorf("certificate %s belongs to %q", status.Serial, status.ClientID))
	}
	return status, nil
}

// status returns what this CA knows of a certificate, or nil if it did not issue it.
func (s *Server) status(ctx context.Context, cert *x509.Certificate) (*CertificateStatus, error) {
	status, err := s.c.Certificates.Certificate(ctx, cert)
	if errors.Is(err, ErrNoCertificate) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking up the client certificate: %w", err)
	}
	return status, nil
}

// checkChain validates the path to an anchor with crypto/x509: signatures, basic constraints, validity,
// extended key usage and critical extensions (RFC 8705 section 7.5). Key usage is left to the caller there.
func (s *Server) checkChain(cert *x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	if cert.IsCA || cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, errors.New("its key is not for signatures in TLS")
	}
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots:         s.c.Anchors(),
		Intermediates: s.c.Intermediates(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, err
	}
	return chains[0], nil
}

// validity is when every certificate of a chain is valid.
func validity(chain []*x509.Certificate) (from, until time.Time) {
	from, until = chain[0].NotBefore, chain[0].NotAfter
	for _, cert := range chain[1:] {
		if cert.NotBefore.After(from) {
			from = cert.NotBefore
		}
		if cert.NotAfter.Before(until) {
			until = cert.NotAfter
		}
	}
	return from, until
}

// subjectMatches compares the one registered name (RFC 8705 section 2.1.2). A wildcard in a certificate is
// an ordinary character here, and none can be registered.
func subjectMatches(client *Client, cert *x509.Certificate) bool {
	want := client.Subject
	switch client.SubjectKind {
	case SubjectDN:
		registered, err := parseDN(want)
		if err != nil {
			return false
		}
		presented, err := decodeDN(cert.RawSubject)
		return err == nil && registered.matches(presented)
	case SANDNS:
		return slices.ContainsFunc(cert.DNSNames, func(name string) bool { return strings.EqualFold(name, want) })
	case SANURI:
		for _, u := range cert.URIs {
			if u.String() == want {
				return true
			}
		}
	case SANIP:
		registered, err := netip.ParseAddr(want)
		if err != nil {
			return false
		}
		for _, ip := range cert.IPAddresses { // binary, whatever the spelling
			if presented, ok := netip.AddrFromSlice(ip); ok && presented.Unmap() == registered.Unmap() {
				return true
			}
		}
	case SANEmail:
		return slices.Contains(cert.EmailAddresses, want)
	}
	return false
}

// checkSelfSigned looks for the certificate among those that the client registered (RFC 8705 section 2.2).
// Its chain is not validated: it is trusted because it was registered.
func (s *Server) checkSelfSigned(c *call, client *Client) error {
	found, err := s.anyKey(c.http.Context(), client, func(k clientKey) bool {
		return k.cert != nil && thumbprint.OfCertificate(k.cert).Equal(c.x5t)
	})
	if err != nil {
		return err
	}
	if !found {
		return failed("the certificate presented is not in the client's jwks or jwks_uri, as x5c")
	}
	return nil
}
