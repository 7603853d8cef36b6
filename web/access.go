package web

import (
	"crypto/x509"
	"errors"
	"net/http"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
)

// admit decides whether a request may go on to its handler, and attaches who makes it. OAuth routes decide
// for themselves: the authorization server knows its trusted proxies, and its clients may be other sites. So does what
// proxies ask: the headers of a sub-request are the client's, and mean nothing here.
func (s *Server) admit(r *http.Request, c *call, a Access) (*http.Request, error) {
	if a == OAuthClient || a == TrustedProxy {
		return r, nil
	}
	// A browser that holds an operator's certificate presents it to whatever page sends it here.
	if err := crossOrigins.Check(r); err != nil {
		return r, refuse(crossOrigin, "%v", err)
	}
	switch a {
	case Certificate:
		_, err := s.peer(r, c)
		return r, err
	case EnrolmentToken: // that there is one; what it is worth is found out when there is room for that
		_, err := bearerText(r)
		return r, err
	case Operator:
		return s.operator(r, c)
	default:
		return r, nil
	}
}

var crossOrigins http.CrossOriginProtection // trusts no other origin

// peer returns the certificate of the TLS connection, or an error that tells where to go without one.
func (s *Server) peer(r *http.Request, c *call) (*x509.Certificate, error) {
	switch leaf, _, ok := ca.ProvePeer(r.TLS); {
	case ok:
		return leaf, nil
	case c.proxy != nil:
		return nil, refuse(certificateNeeded, "the proxy handed on no client certificate: present yours to it, or connect to pkid directly")
	case c.listener == MTLS:
		return nil, refuse(certificateNeeded, "present the client certificate on this connection, such as with curl --cert and --key")
	default:
		return nil, refuse(certificateNeeded, "this listener asks for no client certificate: use %s%s with yours", s.c.URLs.MTLS, r.URL.EscapedPath())
	}
}

// operator accepts a connection that was authenticated with an active certificate of the operator profile.
// The certificate is looked up in the CA's own records, which know of its revocation at once; that the caller holds
// its key, the handshake proved.
func (s *Server) operator(r *http.Request, c *call) (*http.Request, error) {
	if c.proxy != nil {
		return r, refuse(certificateNeeded, "no proxy speaks for an operator: connect to pkid's mtls listener directly, from an address that is no proxy's")
	}
	leaf, err := s.peer(r, c)
	if err != nil {
		return r, err
	}
	rec, err := s.c.Authority.Lookup(r.Context(), leaf)
	if errors.Is(err, ca.ErrNotFound) {
		return r, refuse(certificateBad, "the certificate was not issued by this CA")
	}
	if err != nil {
		return r, err
	}
	c.client = rec.ClientID
	if status := rec.Status(s.now()); status != ca.Active {
		return r, refuse(certificateBad, "certificate %s is %s", rec.Serial, status)
	}
	if rec.Profile != enroll.OperatorProfile {
		return r, refuse(operatorNeeded, "certificate %s is of profile %q; use an operator's", rec.Serial, rec.Profile)
	}
	c.operator = true
	actor := audit.From(r.Context())
	actor.Name = rec.ClientID
	return r.WithContext(audit.WithActor(r.Context(), actor)), nil
}
