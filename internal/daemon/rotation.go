package daemon

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/rollover"
	"github.com/pkid/pkid/internal/stepca"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind/authserver"
)

const (
	// ringEvery is how often a node looks for what the others changed in the ring of keys.
	ringEvery = 5 * time.Second
	// ringAgain is how soon it looks again after it could not: until then /readyz calls the node ill.
	ringAgain = time.Second
	// nodesLead is how long before its first certificate every node of a shared store must have come to know of an
	// issuing CA: it looks several times meanwhile.
	nodesLead = time.Minute
	// ringTimeout bounds one look.
	ringTimeout = 30 * time.Second
)

// rotation is what changes as keys come and go.
type rotation struct {
	issuers *rollover.Issuers
	tokens  *rollover.Tokens
	oauth   *authserver.Server

	anchors  atomic.Pointer[x509.CertPool]          // of clients' certificates
	rootCRLs atomic.Pointer[[]*x509.RevocationList] // the newest that are known
	known    atomic.Pointer[[]rollover.Issuer]
	keys     atomic.Pointer[[]rollover.TokenKey]
	failed   atomic.Pointer[error] // of the last look at the ring
	noKey    error                 // why the first issuing CA's key is not here

	following sync.Mutex // from reading the ring until this node is in line with what was read
}

// loadFirst opens the issuing CA that the configuration names. To it the store belongs for ever, but its key may be taken
// away once it has ended.
func (d *Daemon) loadFirst(ctx context.Context, passphrase []byte) (err error) {
	d.issuer, err = loadIssuer(ctx, d.cfg, passphrase)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	chain, failed := loadChain(d.cfg.Path(d.cfg.Issuer.Certificate), d.cfg.Path(d.cfg.Issuer.Root))
	if failed != nil {
		return err
	}
	d.noKey = err
	cert := chain.certs[0]
	d.issuer = &ca.Issuer{
		Signer: rollover.Keyless{Cert: cert}, Root: chain.root, Intermediates: chain.certs[1:], Whole: d.cfg.Issuer.WholeCRL,
		CRLURL: crlURL(d.cfg.URLs.Status, ca.IssuerID(cert)), AIAURL: aiaURL(d.cfg.URLs.Status, ca.IssuerID(cert)), OCSPURL: ocspURL(d.cfg),
	}
	return nil
}

// openIssuers reads the ring and makes its issuing CAs known. A key that cannot be opened keeps its issuing CA from
// signing here, and nothing else: /readyz says so.
func (d *Daemon) openIssuers(ctx context.Context, passphrase []byte) ([]rollover.Issuer, error) {
	c := rollover.IssuersConfig{
		Store: d.store, First: d.issuer, InDevice: stepca.IsDevice(d.cfg.Issuer.Key), Passphrase: passphrase, Name: d.cfg.Name, ListLifetime: d.cfg.CRL.Lifetime,
		URLs:    func(id string) (crl, aia string) { return crlURL(d.cfg.URLs.Status, id), aiaURL(d.cfg.URLs.Status, id) },
		OCSPURL: ocspURL(d.cfg),
		Check:   func(way []*x509.Certificate) error { return rehearse(way, d.cfg) },
		Follow:  d.followIssuers,
	}
	c.Devices = append(c.Devices, d.cfg.Issuer.Key)
	for _, k := range d.cfg.Tokens.Keys {
		c.Devices = append(c.Devices, k.Key)
	}
	if d.cfg.StoreIsShared() {
		c.Lead = nodesLead
	}
	d.issuers = rollover.NewIssuers(c)
	all, err := d.issuers.All(ctx)
	if all == nil {
		return nil, err
	}
	if d.noKey != nil && all[0].State != rollover.Ended {
		return nil, fmt.Errorf("%w; it is needed until %s has ended", d.noKey, all[0].ID())
	}
	d.noteRing(err)
	return all, d.setIssuers(all)
}

// setIssuers makes issuing CAs known to the authority and to whoever checks what they signed.
func (d *Daemon) setIssuers(all []rollover.Issuer) error {
	var known []*ca.Issuer
	for _, i := range all {
		if i.Issuer != nil {
			known = append(known, i.Issuer)
		}
	}
	if err := d.authority.SetIssuers(known...); err != nil {
		return err
	}
	d.setAnchors(all)
	d.known.Store(&all)
	return d.setRootCRLs(all)
}

// setAnchors says below which issuing CAs a client's certificate is to be. The same ones are left as they are: the token
// endpoint looks at every chain again that it knew below other anchors.
func (d *Daemon) setAnchors(all []rollover.Issuer) {
	anchors := x509.NewCertPool()
	for _, i := range all {
		if i.Issuer != nil && i.State != rollover.Ended {
			anchors.AddCert(i.Signer.Certificate())
		}
	}
	if now := d.anchors.Load(); now == nil || !now.Equal(anchors) {
		d.anchors.Store(anchors)
	}
}

// setRootCRLs reads the CRL file again, which `pkid root-crl` may have replaced, and those that came with the
// certificates of issuing CAs. Of each CA the newest list is kept, whatever becomes of the file: it may be half written,
// another CA's, or one from before a revocation.
func (d *Daemon) setRootCRLs(all []rollover.Issuer) error {
	var newest []*x509.RevocationList
	if known := d.rootCRLs.Load(); known != nil {
		newest = slices.Clone(*known)
	}
	add := func(list *x509.RevocationList) {
		n := slices.IndexFunc(newest, func(l *x509.RevocationList) bool {
			return bytes.Equal(l.RawIssuer, list.RawIssuer) && bytes.Equal(l.AuthorityKeyId, list.AuthorityKeyId)
		})
		switch {
		case n < 0:
			newest = append(newest, list)
		case list.Number.Cmp(newest[n].Number) > 0:
			newest[n] = list
		}
	}
	var errs []error
	if der, err := loadRootCRL(d.cfg, d.issuer); err != nil {
		errs = append(errs, err)
	} else if len(der) > 0 {
		list, err := parseRootCRL(der)
		if err == nil {
			err = signedAbove(list, all, d.issuer)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("the root's CRL, %s: %w", d.cfg.Path(d.cfg.Issuer.RootCRL), err))
		} else {
			add(list)
		}
	}
	for _, i := range all { // rollover.Issuers has checked their signatures
		if len(i.Key.RootCRL) == 0 {
			continue
		}
		list, err := parseRootCRL(i.Key.RootCRL)
		if err != nil {
			errs = append(errs, fmt.Errorf("the CRL that came with issuing CA %s: %w", i.ID(), err))
			continue
		}
		add(list)
	}
	d.rootCRLs.Store(&newest)
	return errors.Join(errs...)
}

// signedAbove refuses a CRL that neither a root nor an intermediate of an issuing CA signed.
func signedAbove(list *x509.RevocationList, all []rollover.Issuer, first *ca.Issuer) error {
	err := list.CheckSignatureFrom(first.Above())
	for _, i := range all {
		if i.Issuer != nil && (list.CheckSignatureFrom(i.Root) == nil || list.CheckSignatureFrom(i.Above()) == nil) {
			return nil
		}
	}
	return err
}

func parseRootCRL(der []byte) (*x509.RevocationList, error) {
	list, err := x509.ParseRevocationList(der)
	if err == nil && list.Number == nil {
		err = errors.New("it has no number (RFC 5280 section 5.2.3)")
	}
	return list, err
}

// followIssuers is rollover.IssuersConfig.Follow.
func (d *Daemon) followIssuers(ctx context.Context, id string) error {
	err := d.followRing(ctx)
	if _, served := d.publisher.Current(crl.Shard{Issuer: id, Number: d.authority.Shard(id)}); served {
		if err != nil {
			d.log.Error("following the ring of keys", "err", err)
		}
		return nil
	}
	return cmp.Or(err, errNotServed)
}

var errNotServed = errors.New("its CRL is not served yet")

// openTokens returns the keys that sign tokens now.
func (d *Daemon) openTokens(ctx context.Context, configured []authserver.SigningKey, passphrase []byte) ([]authserver.SigningKey, error) {
	c := rollover.TokensConfig{
		Store: d.store, Passphrase: passphrase, Born: d.issuer.Signer.Certificate().NotBefore,
		Every: *d.cfg.Tokens.RotateEvery, Follow: d.followRing,
	}
	for n, k := range configured {
		kid, err := thumbprint.OfKey(k.Key.Public())
		if err != nil {
			return nil, err
		}
		c.Configured = append(c.Configured, rollover.TokenKey{ID: kid.String(), Algorithm: k.Algorithm, Key: k.Key})
		c.InDevice = c.InDevice || stepca.IsDevice(d.cfg.Tokens.Keys[n].Key)
	}
	var err error
	if d.tokens, err = rollover.NewTokens(c); err != nil {
		return nil, err
	}
	all, err := d.tokens.All(ctx)
	if err != nil {
		return nil, err
	}
	d.keys.Store(&all)
	return signingKeys(all), nil
}

func signingKeys(all []rollover.TokenKey) []authserver.SigningKey {
	var keys []authserver.SigningKey
	for _, k := range rollover.Current(all, time.Now()) {
		keys = append(keys, authserver.SigningKey{Key: k.Key, Algorithm: k.Algorithm})
	}
	return keys
}

// setTokenKeys has the token endpoint sign with the key whose time it is.
func (d *Daemon) setTokenKeys(all []rollover.TokenKey) error {
	d.keys.Store(&all)
	return d.oauth.SetKeys(signingKeys(all))
}

// keepRing follows the ring while the daemon serves: what other nodes changed, and what the clock does.
func (d *Daemon) keepRing(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(d.untilNext(time.Now())):
		}
		before := d.checkRing(ctx)
		switch err := d.followRing(ctx); {
		case ctx.Err() != nil:
		case err != nil && before == nil: // once; /readyz goes on saying so
			d.log.Error("following the ring of keys", "err", err)
		case err == nil && before != nil:
			d.log.Info("the ring of keys is followed again")
		}
	}
}

// untilNext is for how long nothing will change by itself, ringEvery at the most.
func (d *Daemon) untilNext(now time.Time) time.Duration {
	wait := ringEvery
	if *d.failed.Load() != nil {
		wait = ringAgain
	}
	next := func(at time.Time) {
		if left := at.Sub(now); left > 0 && left < wait {
			wait = left
		}
	}
	for _, i := range *d.known.Load() {
		next(i.Since)
	}
	for _, k := range *d.keys.Load() {
		next(k.Since)
		next(k.End)
	}
	return wait
}

// followRing brings everything in line with the ring as it is now. While the store is away, the keys are those that are
// known, and the clock goes on saying which one signs.
func (d *Daemon) followRing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ringTimeout)
	defer cancel()
	d.following.Lock()
	defer d.following.Unlock()
	all, err := d.issuers.All(ctx)
	if all != nil {
		err = errors.Join(err, d.setIssuers(all), d.followShards(ctx, all, time.Now()), d.issuers.Bury(ctx, all))
	}
	d.responders.follow()
	d.cert.follow()
	_, kept := d.tokens.Keep(ctx)
	keys, read := d.tokens.All(ctx)
	if read != nil {
		keys = *d.keys.Load()
	}
	err = errors.Join(err, kept, read, d.setTokenKeys(keys))
	d.noteRing(err)
	return err
}

func (d *Daemon) noteRing(err error) { d.failed.Store(&err) }

// checkRing fails while a key of the ring cannot be used here.
func (d *Daemon) checkRing(context.Context) error { return *d.failed.Load() }
