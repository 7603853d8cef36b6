package web

import (
	"net/http"

	"github.com/pkid/pkid/internal/admission"
)

// receive makes of what a trusted proxy sent the request that its client sent, and notes where it came from. What comes
// from nobody trusted and speaks for a client certificate is refused aloud rather than ignored (invariant 9): someone
// believes that it works. A sub-request by which a proxy asks is left as it is, for its handler to take apart.
func (s *Server) receive(r *http.Request, c *call, route *Route) *http.Request {
	c.remote = remoteHost(r)
	if route != nil && route.Access == TrustedProxy {
		if trusted, err := s.c.Proxies.Trusts(r); trusted && err == nil { // the handler finds out for itself
			c.proxy = r
		}
		return r
	}
	got, err := s.c.Proxies.Receive(r)
	switch {
	case err != nil:
		c.forwarded = err
	case got != r:
		c.proxy, c.remote = r, remoteHost(got)
		if len(got.TLS.PeerCertificates) == 0 && route != nil && route.Name == "certificates.renew" {
			got.TLS = r.TLS // perhaps a proxy renews its own certificate: it proves by a request that it has the key
		}
		return got
	}
	return r
}

// bounds are the limits that hold for a request. Those of one address are not for a proxy that does not tell whose request
// it is.
func (s *Server) bounds(c *call) LimitsConfig {
	l := s.c.Limits.c
	if c.proxy != nil && admission.AddressOf(c.remote) == admission.AddressOf(remoteHost(c.proxy)) {
		l.UnderWayPerAddress = 0
	}
	return l
}
