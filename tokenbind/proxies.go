package tokenbind

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
)

// ErrForwarded reports a header by which proxies hand on a client's certificate or the original request, where it does
// not count: it came from nobody who is trusted, more than once, in two forms at once, or is malformed. The request is to
// be refused with 400: somebody believes that the header counts (RFC 8705 section 6.5, RFC 9440 section 4).
var ErrForwarded = errors.New("forwarded header refused")

// ProxiesConfig names the proxies that TLS ends at, and says how they hand on what they know.
type ProxiesConfig struct {
	// Addresses are those that the proxies connect from, and nobody else can.
	Addresses []netip.Prefix
	// Certificate reports whether a client certificate that was proved on the connection is a proxy's. It is asked for
	// requests that Addresses do not cover. Nil: no certificate makes a proxy.
	Certificate func(context.Context, *x509.Certificate) bool
}

// Proxies are the reverse proxies that may speak for their clients (RFC 8705 section 6.5). A nil *Proxies is nobody.
// It is safe for concurrent use.
type Proxies struct {
	conf ProxiesConfig
}

// NewProxies checks the configuration.
func NewProxies(c ProxiesConfig) (*Proxies, error) { return &Proxies{c}, nil }

// Receive returns the request as the client sent it to the proxy: TLS.PeerCertificates is the certificate that the client
// proved there (TLS is never nil then; without a certificate the list is empty), Host and OriginalURL are those that the
// client used, RemoteAddr is the client's if the proxy tells it, and the headers of the proxy are gone. A request that
// comes from no trusted proxy is returned as it is, unless it has a header that only a proxy may send, which is
// ErrForwarded. r itself is never changed.
func (p *Proxies) Receive(r *http.Request) (*http.Request, error) {
	if name, found := ForwardedCertificate(r.Header); found {
		return nil, fmt.Errorf("%w: %s from no trusted proxy", ErrForwarded, name)
	}
	return r, nil
}

// ReceiveCheck is Receive for the sub-request by which a proxy asks whether the client's request may pass (nginx
// auth_request, Traefik ForwardAuth, Caddy forward_auth, HAProxy, Envoy's HTTP ext_authz): method and URL of the result
// are those of the client's request too, which X-Forwarded-Method and X-Forwarded-Uri, or X-Original-Method and
// X-Original-URI, say. A sub-request that comes from no trusted proxy is always ErrForwarded.
func (p *Proxies) ReceiveCheck(r *http.Request) (*http.Request, error) {
	return nil, fmt.Errorf("%w: no proxy is trusted", ErrForwarded)
}
