package tokenbind

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/pkid/pkid/internal/recent"
	"github.com/pkid/pkid/thumbprint"
)

// ErrForwarded reports a header by which proxies hand on a client's certificate or the original request, where it does
// not count: it came from nobody who is trusted, more than once, in two forms at once, or is malformed. The request is to
// be refused with 400: somebody believes that the header counts (RFC 8705 section 6.5, RFC 9440 section 4).
var ErrForwarded = errors.New("forwarded header refused")

// ProxiesConfig names the proxies that TLS ends at, and says how they hand on what they know.
type ProxiesConfig struct {
	// Addresses are those that the proxies connect from, and nobody else can.
	Addresses []netip.Prefix
	// Certificate reports whether a client certificate that was proved on the connection is a proxy's: the first of what the
	// peer sent, and those after it are for a chain. It is asked for requests that Addresses do not cover. An error means that
	// it cannot tell, and ends the request. Nil: no certificate makes a proxy. CertificateFrom makes one.
	Certificate func(ctx context.Context, peer []*x509.Certificate) (bool, error)

	// Form is how the proxies write the client's certificate. Empty: they write none, and such a header is an error from
	// them too. There is one form and no guessing: a proxy replaces the header that it writes, and lets those pass that a
	// client has sent in another form.
	Form CertificateForm
	// Header is the name that the certificate stands under, for the forms that leave it to the proxy's configuration:
	// FormNginx, FormHAProxy and FormApache. Empty: X-SSL-Client-Cert.
	Header string
	// Find returns the certificate with a thumbprint, or nil if there is none, for FormEnvoy where it tells nothing but the
	// certificate's hash. Nil: such a request is refused, since neither validity nor revocation could be judged.
	Find func(context.Context, thumbprint.Cert) (*x509.Certificate, error)

	// Original is by which headers the proxies tell scheme, host and sender of the client's request. Empty:
	// OriginalXForwarded. The proxies must replace what a client sends of them; a list of addresses they may extend.
	Original OriginalForm
}

// Proxies are the reverse proxies that may speak for their clients (RFC 8705 section 6.5). A nil *Proxies is nobody.
// It is safe for concurrent use.
type Proxies struct {
	conf   ProxiesConfig
	header string                                                // with the certificate; empty: none is taken
	parsed *recent.Cache[[sha256.Size]byte, []*x509.Certificate] // by the hash of what stood in the headers
}

// maxParsed is how many clients' certificates are kept as they were parsed, so that each costs its parsing once.
const maxParsed = 1024

// NewProxies checks the configuration.
func NewProxies(c ProxiesConfig) (*Proxies, error) {
	p := &Proxies{conf: c, header: forms[c.Form].header, parsed: recent.New[[sha256.Size]byte, []*x509.Certificate](maxParsed)}
	p.conf.Addresses = slices.Clone(c.Addresses)
	p.conf.Original = cmp.Or(c.Original, OriginalXForwarded)
	if len(c.Addresses) == 0 && c.Certificate == nil {
		return nil, errors.New("setting up proxies: neither an address nor a certificate names one")
	}
	for _, prefix := range c.Addresses {
		switch {
		case !prefix.IsValid():
			return nil, errors.New("setting up proxies: an address prefix that is not valid")
		case prefix.Bits() == 0:
			return nil, fmt.Errorf("setting up proxies: %s would make everybody a proxy, and let them speak for any client", prefix)
		case prefix.Addr().Is4In6():
			return nil, fmt.Errorf("setting up proxies: write %s as an IPv4 prefix", prefix)
		}
	}
	if _, known := forms[c.Form]; !known {
		return nil, fmt.Errorf("setting up proxies: certificate form %q is none of %s", c.Form, strings.Join(CertificateForms(), ", "))
	}
	if !slices.Contains([]OriginalForm{OriginalXForwarded, OriginalForwarded, OriginalNone}, p.conf.Original) {
		return nil, fmt.Errorf("setting up proxies: original request form %q is none of x-forwarded, forwarded, none", c.Original)
	}
	if c.Header != "" {
		if !forms[c.Form].named {
			return nil, fmt.Errorf("setting up proxies: form %q has a header of its own, and takes no other", c.Form)
		}
		if p.header = http.CanonicalHeaderKey(c.Header); !token(c.Header) || notForCertificates(p.header) {
			return nil, fmt.Errorf("setting up proxies: %q cannot be the header of a certificate; use one such as X-SSL-Client-Cert", c.Header)
		}
	}
	return p, nil
}

// CertificateFrom makes a ProxiesConfig.Certificate. A proxy's certificate is one for client authentication, that a
// chain to roots verifies now, with one of the names as a DNS name or URI among its SANs. The proxy sends the CAs between
// the two. Whether its certificate was revoked is not looked at.
func CertificateFrom(roots *x509.CertPool, names ...string) func(context.Context, []*x509.Certificate) (bool, error) {
	return func(_ context.Context, peer []*x509.Certificate) (bool, error) {
		if len(peer) == 0 || len(peer) > maxChain || roots == nil || !named(peer[0], names) {
			return false, nil
		}
		between := x509.NewCertPool()
		for _, c := range peer[1:] {
			between.AddCert(c)
		}
		_, err := peer[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		return err == nil, nil
	}
}

// named reports whether one of the names is among a certificate's SANs.
func named(c *x509.Certificate, names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return slices.ContainsFunc(c.DNSNames, func(n string) bool { return strings.EqualFold(n, name) }) ||
			slices.ContainsFunc(c.URIs, func(u *url.URL) bool { return u.String() == name })
	})
}

// TrustsAddress reports whether an address is one of Addresses.
func (p *Proxies) TrustsAddress(a netip.Addr) bool {
	if p == nil {
		return false
	}
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(p.conf.Addresses, func(prefix netip.Prefix) bool { return prefix.Contains(a) })
}

// Trusts reports whether a request comes from a trusted proxy. Its error is that of ProxiesConfig.Certificate: then it is
// neither to be believed about others, nor to be taken for a request of the certificate's own holder.
func (p *Proxies) Trusts(r *http.Request) (bool, error) {
	if p == nil {
		return false, nil
	}
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && p.TrustsAddress(from.Addr()) {
		return true, nil
	}
	if p.conf.Certificate == nil || r.TLS == nil || !r.TLS.HandshakeComplete || len(r.TLS.PeerCertificates) == 0 {
		return false, nil
	}
	trusted, err := p.conf.Certificate(r.Context(), r.TLS.PeerCertificates)
	if err != nil {
		return false, fmt.Errorf("%w: whether a proxy sends the request: %w", ErrUnavailable, err)
	}
	return trusted, nil
}

// Receive returns the request as the client sent it to the proxy: TLS.PeerCertificates is the certificate that the client
// proved there (TLS is never nil then; without a certificate the list is empty, whatever certificate the proxy itself
// has), Host, URL.Scheme and URL.Host are those that the client used, RemoteAddr is the client's if the proxy tells it,
// and the headers of the proxy are gone. A request that comes from no trusted proxy is returned as it is, the same
// pointer, unless it has a header that only a proxy may send, which is ErrForwarded. X-Forwarded-* and Forwarded are then
// not looked at: any browser or forward proxy may send them. r itself is never changed. Errors are ErrForwarded or
// ErrUnavailable.
func (p *Proxies) Receive(r *http.Request) (*http.Request, error) {
	switch trusted, err := p.Trusts(r); {
	case err != nil:
		return nil, err
	case trusted:
		return p.receive(r, original{})
	}
	if name, found := p.certificateHeader(r.Header, ""); found {
		return nil, fmt.Errorf("%w: %s from no trusted proxy: connect directly, or have the operator of this server trust the proxy", ErrForwarded, name)
	}
	return r, nil
}

// ReceiveCheck is Receive for the sub-request by which a proxy asks whether the client's request may pass (nginx
// auth_request, Traefik ForwardAuth, Caddy forward_auth, HAProxy): method and URL of the result are those of the client's
// request too, which X-Forwarded-Method and X-Forwarded-Uri, or X-Original-Method and X-Original-URI (or X-Original-URL),
// say. The proxies must set all of one kind; something of the other is the client's, and an error. A sub-request that
// comes from no trusted proxy is always ErrForwarded.
func (p *Proxies) ReceiveCheck(r *http.Request) (*http.Request, error) {
	if trusted, err := p.Trusts(r); err != nil {
		return nil, err
	} else if !trusted {
		return nil, fmt.Errorf("%w: %s is no trusted proxy, and only one may ask for another's request", ErrForwarded, r.RemoteAddr)
	}
	a, err := readAsked(r.Header)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForwarded, err)
	}
	out, err := p.receive(r, a.original)
	if err != nil {
		return nil, err
	}
	a.apply(out)
	return out, nil
}

// receive makes the client's request of a trusted proxy's. What else was told of it must agree.
func (p *Proxies) receive(r *http.Request, told original) (*http.Request, error) {
	chain, err := p.readCertificates(r)
	if errors.Is(err, ErrUnavailable) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForwarded, err)
	}
	o, err := p.readOriginal(r.Header)
	if err == nil {
		o, err = o.and(told)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForwarded, err)
	}
	out := r.WithContext(r.Context())
	out.Header = r.Header.Clone()
	for name := range out.Header {
		if reserved(name) || name == p.header {
			out.Header.Del(name)
		}
	}
	out.TLS = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: chain}
	u := *r.URL
	u.Scheme = "http"
	if r.TLS != nil {
		u.Scheme = "https"
	}
	if o.proto != "" {
		u.Scheme = o.proto
	}
	if o.host != "" {
		out.Host = o.host
	}
	u.Host = out.Host
	out.URL = &u
	if o.from.IsValid() {
		out.RemoteAddr = net.JoinHostPort(o.from.String(), "0") // the port is nobody's business, and often not told
	}
	return out, nil
}

// readCertificates returns the certificate that the client proved to the proxy, and its chain if that was sent.
func (p *Proxies) readCertificates(r *http.Request) ([]*x509.Certificate, error) {
	if name, found := p.certificateHeader(r.Header, p.conf.Form); found {
		return nil, fmt.Errorf("%s is not the header in which the proxy hands on certificates: the client has sent it, or the proxy is not "+
			"configured as this server is (form %q, header %q)", name, p.conf.Form, p.header)
	}
	if p.conf.Form == FormNone {
		return nil, nil
	}
	value, err := single(r.Header, p.header)
	if err != nil {
		return nil, err
	}
	var more string
	if p.conf.Form == FormRFC9440 {
		if more, err = single(r.Header, chainHeader); err != nil {
			return nil, err
		}
	}
	if len(value) > maxForwarded || len(more) > maxForwarded {
		return nil, fmt.Errorf("%s has more than %d octets", p.header, maxForwarded)
	}
	key := sha256.Sum256([]byte(value + "\n" + more))
	if chain, known := p.parsed.Get(key); known {
		return chain, nil
	}
	c, err := forms[p.conf.Form].parse(value, more)
	if err == nil && c.hash != nil && len(c.chain) == 0 {
		return p.find(r.Context(), *c.hash)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.header, err)
	}
	if len(c.chain) > 0 {
		p.parsed.Put(key, c.chain)
	}
	return c.chain, nil
}

func (p *Proxies) find(ctx context.Context, hash thumbprint.Cert) ([]*x509.Certificate, error) {
	if p.conf.Find == nil {
		return nil, fmt.Errorf("%s has the hash of a certificate only, which cannot be judged here: let the proxy send the certificate "+
			"(in Envoy, set_current_client_cert_details with cert: true)", p.header)
	}
	cert, err := p.conf.Find(ctx, hash)
	if err != nil {
		return nil, fmt.Errorf("%w: finding the certificate with x5t#S256 %s: %w", ErrUnavailable, hash, err)
	}
	if cert == nil || !thumbprint.OfCertificate(cert).Equal(hash) {
		return nil, fmt.Errorf("no certificate with x5t#S256 %s is known here", hash)
	}
	return []*x509.Certificate{cert}, nil
}
