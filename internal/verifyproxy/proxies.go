package verifyproxy

import (
	"context"
	"crypto/x509"
	"errors"

	"github.com/pkid/pkid/tokenbind"
)

// newProxies makes those who may ask of a valid configuration. A certificate makes a proxy only while it is known not to be
// revoked, which the CA's own status says.
func newProxies(p Proxies, status tokenbind.Revocation, roots ...*x509.Certificate) (*tokenbind.Proxies, error) {
	prefixes, err := p.Prefixes()
	if err != nil {
		return nil, err
	}
	c := tokenbind.ProxiesConfig{
		Addresses: prefixes, Form: tokenbind.CertificateForm(p.Form), Header: p.Header, Original: tokenbind.OriginalForm(p.Original),
	}
	if len(p.Names) > 0 {
		c.Certificate = notRevoked(tokenbind.CertificateFrom(poolOf(roots), p.Names...), status)
	}
	return tokenbind.NewProxies(c)
}

// notRevoked adds to what says whose a certificate is that it must not be revoked. While that cannot be known, nor can be
// whose it is.
func notRevoked(is func(context.Context, []*x509.Certificate) (bool, error), status tokenbind.Revocation) func(context.Context, []*x509.Certificate) (bool, error) {
	return func(ctx context.Context, peer []*x509.Certificate) (bool, error) {
		if proxy, err := is(ctx, peer); err != nil || !proxy {
			return false, err
		}
		err := status.Check(ctx, peer[0])
		if errors.Is(err, tokenbind.ErrUnavailable) {
			return false, err
		}
		return err == nil, nil
	}
}

func poolOf(certs []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool
}
