package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// openProxies makes the proxies that the configuration names; nil if it names none.
func (d *Daemon) openProxies() (*tokenbind.Proxies, error) {
	p := d.cfg.Proxies
	if !p.Named() {
		return nil, nil
	}
	c := tokenbind.ProxiesConfig{Form: tokenbind.CertificateForm(p.Form), Header: p.Header, Original: tokenbind.OriginalForm(p.Original), Find: d.findCertificate}
	if len(p.Clients) > 0 {
		c.Certificate = d.isProxy
	}
	var err error
	if c.Addresses, err = p.Prefixes(); err != nil {
		return nil, err
	}
	return tokenbind.NewProxies(c)
}

// isProxy reports whether a certificate that was proved on a connection is a proxy's. The records are asked each time, so
// that a revocation counts at once.
func (d *Daemon) isProxy(ctx context.Context, peer []*x509.Certificate) (bool, error) {
	rec, err := d.authority.Lookup(ctx, peer[0])
	switch {
	case errors.Is(err, ca.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case !slices.Contains(d.cfg.Proxies.Clients, rec.ClientID), rec.Profile == config.ProfileOperator, rec.Status(time.Now()) != ca.Active:
		return false, nil
	}
	err = d.clients.CheckEnabled(ctx, rec.ClientID)
	if errors.Is(err, authserver.ErrDisabled) {
		return false, nil
	}
	return err == nil, err
}

// findCertificate returns the certificate of which a proxy told the hash, or nil.
func (d *Daemon) findCertificate(ctx context.Context, t thumbprint.Cert) (*x509.Certificate, error) {
	page, err := d.store.List(ctx, ca.Query{Thumbprint: t, Limit: 1})
	if err != nil || len(page.Records) == 0 {
		return nil, err
	}
	return x509.ParseCertificate(page.Records[0].DER)
}
