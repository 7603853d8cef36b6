package tokenbind

import (
	"crypto/x509"
	"errors"
	"net/http"
	"time"

	"github.com/pkid/pkid/thumbprint"
)

// ForwardedCertificate reports whether a request carries a header by which proxies hand on a client's certificate, and
// which. Where no proxy is trusted, such a request is to be refused: somebody believes that the header counts (RFC 8705
// section 6.5, RFC 9440 section 4). Proxies.Receive takes away those that count.
func ForwardedCertificate(h http.Header) (name string, found bool) {
	return (*Proxies)(nil).certificateHeader(h, FormNone)
}

// clientCertificate is the certificate whose key the client proved to have on this connection, or on the one
// whose TLS session was resumed (RFC 8446 section 2.2).
func clientCertificate(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

// judgeForwarded puts the request in order that a trusted proxy handed on, and refuses what only such a one may send.
func (q *request) judgeForwarded() finding {
	r, err := q.v.conf.Proxies.Receive(q.r)
	if errors.Is(err, ErrUnavailable) {
		return fail("", "who sent the request").because("whether it comes from a trusted proxy cannot be told at the moment").from(err).as(codeUnavailable)
	}
	if err != nil {
		return fail(err.Error(), "nothing that only a trusted proxy may send").as(CodeInvalidRequest)
	}
	q.r, q.proxied = r, r != q.r
	return pass("")
}

func (q *request) judgeCertificate() finding {
	wanted := q.claims.Confirmation.Cert
	if wanted.IsZero() {
		return notApplicable("the token is not bound to a certificate")
	}
	q.cert = clientCertificate(q.r)
	if q.cert == nil {
		return fail("no client certificate", "x5t#S256 "+wanted.String()).
			because("the token is bound to a certificate: connect with it (mutual TLS)")
	}
	if q.known() && q.seen.cert.Value() == q.cert {
		return pass("") // the very certificate that passed before: its thumbprint is computed once
	}
	if seen := thumbprint.OfCertificate(q.cert); !seen.Equal(wanted) {
		return fail("x5t#S256 "+seen.String(), wanted.String()).
			because(causeOfCertificate(q.cert, &q.claims))
	}
	return q.t.pass(func() string { return "x5t#S256 " + wanted.String() })
}

// judgeValidity looks at the clock on every request, because a connection or a TLS session may outlive the
// certificate. The chain is not looked at: RFC 8705 section 6.2 needs proof of possession only.
func (q *request) judgeValidity() finding {
	switch {
	case q.cert == nil:
		return notApplicable("no certificate to check")
	case q.now.After(q.cert.NotAfter):
		return fail("expired at "+q.cert.NotAfter.UTC().Format(time.RFC3339), "a valid certificate").because("renew it and get a new token")
	case q.now.Add(q.v.tolerance).Before(q.cert.NotBefore):
		return fail("valid from "+q.cert.NotBefore.UTC().Format(time.RFC3339), "a valid certificate").because("or a clock is wrong")
	}
	return q.t.pass(func() string { return "until " + q.cert.NotAfter.UTC().Format(time.RFC3339) })
}

func (q *request) judgeTokenStatus() finding {
	if q.v.conf.Tokens == nil {
		return notApplicable("whether the token was revoked is not checked here")
	}
	if err := q.v.conf.Tokens.CheckToken(q.ctx, &q.claims); errors.Is(err, ErrUnavailable) {
		return unknownStatus(err)
	} else if err != nil {
		q.forget()
		return fail(err.Error(), "a token that still stands").because("get a new one, if the client still may").from(err)
	}
	return pass("not revoked")
}

// unknownStatus refuses what may be revoked, as far as is known.
func unknownStatus(err error) finding {
	return fail("", "to know whether it was revoked").because("that cannot be found out at the moment").from(err).as(codeUnavailable)
}

func (q *request) judgeRevocation() finding {
	if q.cert == nil || q.v.conf.Revocation == nil {
		return notApplicable("certificate revocation is not checked here")
	}
	if err := q.v.conf.Revocation.Check(q.ctx, q.cert); errors.Is(err, ErrUnavailable) {
		return unknownStatus(err)
	} else if err != nil {
		q.forget()
		return fail(err.Error(), "a certificate that is not revoked").from(err)
	}
	return pass("not revoked")
}
