package web

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/tokenbind"
)

// admit decides whether a request may go on to its handler, and attaches who makes it. OAuth routes decide
// for themselves: the authorization server knows its trusted proxies, and its clients may be other sites.
func (s *Server) admit(r *http.Request, a Access) (*http.Request, error) {
	if a == OAuthClient {
		return r, nil
	}
	// Nothing before these routes may speak for a client certificate (invariant 9). A header that tries is
	// refused aloud rather than ignored: someone believes that it works.
	if name, found := tokenbind.ForwardedCertificate(r.Header); found {
		return nil, refuse(forwarded, "%s is not accepted here: connect to %s directly, with the certificate", name, s.c.URLs.MTLS)
	}
	// A browser that holds an operator's certificate presents it to whatever page sends it here.
	if err := new(http.CrossOriginProtection).Check(r); err != nil {
		return nil, refuse(crossOrigin, "%v", err)
	}
	switch a {
	case Certificate:
		return r, s.needCertificate(r)
	case Operator:
		return s.operator(r)
	default:
		return r, nil
	}
}

// needCertificate tells where to go if the TLS connection carries no client certificate.
func (s *Server) needCertificate(r *http.Request) error {
	switch _, _, ok := ca.ProvePeer(r.TLS); {
	case ok:
		return nil
	case callOf(r.Context()).listener == MTLS:
		return refuse(certificateNeeded, "present the client certificate on this connection, such as with curl --cert and --key")
	default:
		return refuse(certificateNeeded, "this listener asks for no client certificate: use %s%s with yours", s.c.URLs.MTLS, r.URL.EscapedPath())
	}
}

// operator accepts a connection that was authenticated with an active certificate of the operator profile.
// The certificate is looked up by its thumbprint in the CA's own records, which know of its revocation at
// once; that the caller holds its key, the handshake proved.
func (s *Server) operator(r *http.Request) (*http.Request, error) {
	if err := s.needCertificate(r); err != nil {
		return nil, err
	}
	leaf, _, _ := ca.ProvePeer(r.TLS)
	rec, err := s.lookup(r, leaf)
	if err != nil {
		return nil, err
	}
	c := callOf(r.Context())
	c.client = rec.ClientID
	if status := rec.Status(s.now()); status != ca.Active {
		return nil, refuse(certificateBad, "certificate %s is %s", rec.Serial, status)
	}
	if rec.Profile != enroll.OperatorProfile {
		return nil, refuse(operatorNeeded, "certificate %s is of profile %q; use an operator's", rec.Serial, rec.Profile)
	}
	c.operator = true
	actor := audit.From(r.Context())
	actor.Name = rec.ClientID
	return r.WithContext(audit.WithActor(r.Context(), actor)), nil
}

func (s *Server) lookup(r *http.Request, leaf *x509.Certificate) (*ca.Record, error) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	rec, err := s.c.Authority.Lookup(ctx, leaf)
	if errors.Is(err, ca.ErrNotFound) {
		return nil, refuse(certificateBad, "the certificate was not issued by this CA")
	}
	return rec, err
}
