// Package daemon wires the rooms together: it opens what a configuration names, serves the four listeners
// and stops in order. cmd/pkid runs it, and internal/pkitest runs the same in tests.
package daemon

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/feed"
	"github.com/pkid/pkid/internal/rollover"
	"github.com/pkid/pkid/internal/stepca"
	"github.com/pkid/pkid/tokenbind"
	"github.com/pkid/pkid/tokenbind/authserver"
	"github.com/pkid/pkid/web"
)

// Daemon is a configured CA that is ready to serve.
type Daemon struct {
	cfg        *config.Config
	log        *slog.Logger
	store      store
	proofs     proofs
	restored   time.Time // when the store was brought back from a backup; zero if it never was
	clients    *authserver.Registry
	issuer     *ca.Issuer
	tokenKeys  []crypto.Signer
	authority  *ca.Authority
	publisher  *crl.Publisher
	cert       *serverCert
	responders *responders // nil: no OCSP
	limits     *web.Limits
	proxies    *tokenbind.Proxies // nil: none is trusted
	verify     http.Handler       // of what proxies ask
	feed       *feed.Feed         // of revocations, to resource servers
	web        *web.Server
	follower   *auditFollower // nil if nothing of the audit log is written outside of the store
	pruned     pruned
	rotation
	servers atomic.Pointer[[]*server] // once they are bound
}

// Load reads the configuration of a data directory. A directory that is not one is an error that says how
// to make one.
func Load(dir string) (*config.Config, error) {
	if !Exists(dir) {
		if _, err := os.Stat(dir); err != nil {
			return nil, fmt.Errorf("%s: no such data directory: make one with `pkid init --data %s` or `pkid quickstart`", dir, dir)
		}
		if half, _ := filepath.Glob(filepath.Join(dir, unfinished+"*")); len(half) > 0 {
			return nil, fmt.Errorf("%s: not a pkid data directory: init or restore was interrupted in it; remove what it holds and start over", dir)
		}
		return nil, fmt.Errorf("%s: not a pkid data directory: it has no %s", dir, config.File)
	}
	return config.Load(filepath.Join(dir, config.File))
}

// New opens the store and the keys and checks that they fit together. Close releases what it opened, unless
// Serve does.
func New(ctx context.Context, cfg *config.Config, log *slog.Logger) (_ *Daemon, err error) {
	d := &Daemon{cfg: cfg, log: log, limits: web.NewLimits(requests(cfg.Limits))}
	passphrase, err := cfg.ReadPassphrase()
	if err != nil {
		return nil, err
	}
	if err := d.loadFirst(ctx, passphrase); err != nil {
		return nil, err
	}
	if d.store, d.proofs, err = openStore(ctx, cfg, d.issuer, log); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.store.Close())
		}
	}()
	if err := d.openCA(ctx, passphrase); err != nil {
		return nil, err
	}
	if err := d.openAudit(ctx, passphrase); err != nil {
		return nil, err
	}
	if d.restored, err = d.store.Restored(ctx); err != nil {
		return nil, err
	}
	if d.restored.After(d.proofs.since) {
		d.proofs.since = d.restored // those that were used after the backup are not in it
	}
	oauth, err := d.openOAuth(ctx, passphrase)
	if err != nil {
		return nil, err
	}
	return d, d.openWeb(oauth)
}

// openCA makes the issuing CA's authority, its CRL publisher and the daemon's own certificate.
func (d *Daemon) openCA(ctx context.Context, passphrase []byte) (err error) {
	cfg := d.cfg
	profiles, err := Profiles(cfg.Profiles)
	if err != nil {
		return err
	}
	d.authority, err = ca.New(ca.Config{
		Issuer: d.issuer, Store: d.store, Profiles: profiles,
		Changed:   func(issuer string, shard uint32) { d.publisher.Changed(crl.Shard{Issuer: issuer, Number: shard}) },
		ShardSize: uint64(cfg.CRL.ShardSize), OpenShard: d.openShard,
	})
	if err != nil {
		return err
	}
	if err := d.checkClock(ctx); err != nil {
		return err
	}
	issuers, err := d.openIssuers(ctx, passphrase)
	if err != nil {
		return err
	}
	if err := d.openPublisher(ctx, issuers); err != nil {
		return err
	}
	known := func() []rollover.Issuer { return *d.known.Load() }
	if d.responders, err = newResponders(cfg.OCSP, d.authority, known, d.log, time.Now); err != nil {
		return err
	}
	d.cert, err = newServerCert(d.authority, cfg.Hosts, d.responders, d.log)
	return err
}

func (d *Daemon) checkClock(ctx context.Context) error {
	if d.cfg.InsecureAcceptClock {
		d.log.Warn("the clock is not compared with the newest audit entry: insecure_accept_clock is set")
		return nil
	}
	head, err := d.store.AuditHead(ctx)
	if err != nil || head.Seq == 0 {
		return err
	}
	newest, err := d.store.Audit(ctx, head.Seq-1, 1)
	if err != nil || len(newest) == 0 {
		return err
	}
	err = d.authority.CheckClock(newest[0].Time)
	if errors.Is(err, ca.ErrClock) {
		return fmt.Errorf("%w; if it was ahead before and is right now, set insecure_accept_clock in %s", err, config.File)
	}
	return err
}

func (d *Daemon) openOAuth(ctx context.Context, passphrase []byte) (*authserver.Server, error) {
	cfg := d.cfg
	dataKey, err := stepca.OpenDataKey(cfg.Path(cfg.Tokens.DataKey), passphrase)
	if err != nil {
		return nil, fmt.Errorf("data key: %w", err)
	}
	d.clients, err = authserver.NewRegistry(authserver.RegistryConfig{Store: d.store, DataKey: dataKey, Profile: authserver.Profile(cfg.Profile)})
	if err != nil {
		return nil, err
	}
	var keys []authserver.SigningKey
	for _, k := range cfg.Tokens.Keys {
		signer, err := stepca.OpenKey(ctx, cfg.KeyURI(k.Key), passphrase)
		if err != nil {
			return nil, fmt.Errorf("token signing key: %w", err)
		}
		if sameKey(signer, d.issuer) {
			return nil, fmt.Errorf("token signing key %s: it is the issuing CA's; a key for both could sign a certificate as a token", k.Key)
		}
		keys = append(keys, authserver.SigningKey{Key: signer, Algorithm: k.Algorithm})
		d.tokenKeys = append(d.tokenKeys, signer)
	}
	if keys, err = d.openTokens(ctx, keys, passphrase); err != nil {
		return nil, err
	}
	d.oauth, err = authserver.New(authserver.Config{
		Issuer: cfg.URLs.Public, MTLSBase: cfg.URLs.MTLS,
		Registry: d.clients, Certificates: certificates{d.authority},
		Anchors: d.anchors.Load,
		Replay:  d.proofs.Replay, ProofsSince: d.proofs.since, Assertions: d.store, Restored: d.restored, Revoked: d.store, Keys: keys,
		TokenLifetime: cfg.Tokens.Lifetime, RequireNonce: cfg.Tokens.RequireDPoPNonce, NonceKey: dataKey, Profile: authserver.Profile(cfg.Profile),
		Tolerance: *cfg.Tokens.ClockTolerance, Limits: d.limits, Logger: d.log,
	})
	if err != nil {
		return nil, err
	}
	if d.proxies, err = d.openProxies(); err != nil {
		return nil, err
	}
	d.verify, err = d.openVerify(d.proxies, dataKey)
	return d.oauth, err
}

func (d *Daemon) openWeb(oauth *authserver.Server) error {
	enrolment, err := enroll.New(enroll.Config{Authority: d.authority, Store: d.store, Clients: d.clients, Restored: d.restored, Allow: d.limits.Certificate})
	if err != nil {
		return err
	}
	rootCRL, err := loadRootCRL(d.cfg, d.issuer)
	if err != nil {
		return err
	}
	d.feed = d.newFeed()
	d.web, err = web.New(web.Config{
		Authority: d.authority, Enroll: enrolment, OAuth: oauth, Clients: d.clients, CRL: d.publisher, Audit: archive{d.store, d.follower},
		RootCRL: rootCRL, RootCRLs: func() []*x509.RevocationList { return *d.rootCRLs.Load() }, Issuers: d.issuers, TokenKeys: d.tokens,
		Explain: d.explain, Verify: d.verify, Snapshot: d.snapshot(), URLs: d.URLs(), Name: d.cfg.Name, Logger: d.log,
		Proxies: d.proxies, Limits: d.limits, Feed: d.feed, OCSP: d.responders.responder(), Metrics: d.metrics(), Checks: d.checks(),
	})
	return err
}

func (d *Daemon) metrics() []func(io.Writer) {
	all := []func(io.Writer){d.writeConnectionMetrics, d.pruned.writeMetrics, d.writeAuditMetrics, d.feed.WriteMetrics}
	if d.responders != nil {
		all = append(all, d.responders.writeMetrics)
	}
	return all
}

// checks are those of /readyz.
func (d *Daemon) checks() []web.Check {
	all := []web.Check{
		{Name: "store writes", Run: d.store.Writable},
		{Name: "crl publication", Run: d.checkPublication},
		{Name: "audit log", Run: d.checkAudit},
		{Name: "ring of keys", Run: d.checkRing},
	}
	if d.responders != nil {
		all = append(all, web.Check{Name: "ocsp responder", Run: d.responders.check})
	}
	return append(all, d.keyChecks()...)
}

// checkPublication fails while a CRL is missing for far longer than publishing takes.
func (d *Daemon) checkPublication(context.Context) error {
	for _, s := range d.publisher.Status() {
		if since := s.Late(time.Now()); !since.IsZero() {
			return fmt.Errorf("CRL %s should have been published at %s, and servers do not know of what was revoked since: %w",
				s.Shard, since.UTC().Format(time.RFC3339), cmp.Or(s.Err, errPublishing))
		}
	}
	return nil
}

var errPublishing = errors.New("it is being published")

// URLs are where the daemon answers.
func (d *Daemon) URLs() client.URLs { return urlsOf(d.cfg) }

func urlsOf(cfg *config.Config) client.URLs {
	return client.URLs{Public: cfg.URLs.Public, MTLS: cfg.URLs.MTLS, Status: cfg.URLs.Status}
}

// Close releases a daemon that was not served.
func (d *Daemon) Close() error { return d.store.Close() }
