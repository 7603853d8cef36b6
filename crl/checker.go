package crl

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Sentinels that Check returns, wrapped.
var (
	// ErrStale: the newest list that could be had is past its nextUpdate.
	ErrStale = errors.New("revocation status unknown: the CRL is stale")
	// ErrUnavailable: no list could be had at all.
	ErrUnavailable = errors.New("revocation status unknown: no CRL")
	// ErrUnknownIssuer: none of CheckerConfig.Issuers signed the certificate.
	ErrUnknownIssuer = errors.New("revocation status unknown: the certificate is by an issuer that is not checked here")
	// ErrRollback: a list was offered that is older than the one at hand. It is ignored.
	ErrRollback = errors.New("CRL refused: a newer one is known")
)

// RevokedError reports a certificate that is on its issuer's list, revoked or held.
type RevokedError struct {
	Serial    *big.Int
	Reason    int // CRLReason (RFC 5280 section 5.3.1)
	At        time.Time
	CRLNumber uint64
}

func (e *RevokedError) Error() string {
	return fmt.Sprintf("certificate %s was revoked at %s (%s, CRL %d)", hex.EncodeToString(e.Serial.Bytes()), e.At.Format(time.RFC3339), ReasonName(e.Reason), e.CRLNumber)
}

const (
	defaultInterval = 500 * time.Millisecond
	defaultFetch    = 10 * time.Second
	defaultMaxSize  = 256 << 20
	maxResolved     = 10_000 // certificates whose issuer is remembered
)

// CheckerConfig is what a Checker needs. Only Issuers is required.
type CheckerConfig struct {
	// Issuers are the CAs whose certificates are checked, and whose keys sign the lists.
	Issuers []*x509.Certificate
	// Learn, if set, is asked for the issuers again, every minute by Run and when a certificate is by none of those that
	// are known, at most once in a few seconds: the CA may have a new one. client.API.Issuers is such a function. What it
	// returns is believed.
	Learn func(context.Context) ([]*x509.Certificate, error)
	// Points are distribution points that are known beforehand. Run and Refresh fetch their lists before the
	// first certificate is checked; all others are learned from the certificates.
	Points []Point
	// Interval is how often Run asks for a newer list; 500 ms if zero, give or take a tenth. An answer of 304
	// costs the CA next to nothing.
	Interval time.Duration
	// Timeout bounds one fetch; 10 s if zero.
	Timeout time.Duration
	// MaxSize bounds one list, in octets; 256 MiB if zero.
	MaxSize int64
	// InsecureAllowStale goes on believing a list past its nextUpdate until Run or Refresh gets a newer one:
	// whoever can cut the server off from the CA can then use a revoked certificate for as long.
	InsecureAllowStale bool
	// Dir, if set, is a directory (made if missing) where the newest lists are kept, and the newest deltas to them, so
	// that a restart neither needs the CA nor goes back to an older list. It must not be writable by others.
	Dir string
	// HTTPClient fetches the lists. By default, and if it has no CheckRedirect, redirects are refused: a
	// signed list may come from anywhere, but a server should not be sent around its own network. A client of your
	// own should keep as many connections to a host as it has lists, or bound how many there are.
	HTTPClient *http.Client

	OnUpdate func(Info)       // told of every newer list, once it is in use. It must not block.
	Now      func() time.Time // time.Now if nil
	Logger   *slog.Logger     // slog.Default() if nil
}

// Point is a CRL distribution point of an issuer.
type Point struct {
	Issuer *x509.Certificate // one of CheckerConfig.Issuers
	// URL is as it stands in the certificates and in the list. If it is empty, every certificate of Issuer is checked
	// against the list that From has, whatever it names, and that must be a list without IssuingDistributionPoint: one
	// that speaks of all of them. A CA that pkid took over has such a list (PublishedShard.Whole).
	URL  string
	From string // where to fetch the list, if not at URL: a mirror, another name of the same host
	// DeltaFrom is where to fetch the delta list. If it is empty, that is where the full list says, on the host of From;
	// but a list that names another host than its own, URL's, has no delta here.
	DeltaFrom string
}

// Checker tells a server whether a client's certificate was revoked, from lists that it fetches, verifies
// and remembers. It meets tokenbind.Revocation. All methods may be called at once.
//
// It checks revocation and nothing else: that the chain, the names and the validity are right is for TLS to
// say. Nor does it ask whether the issuing CA's own certificate was revoked.
//
// It knows of at most 1024 distribution points, which it learns from certificates that one of the issuers signed, and
// takes 32 octets of memory for each entry of their lists. Run asks for each of them at every Interval.
type Checker struct {
	learn      func(context.Context) ([]*x509.Certificate, error)
	asking     chan struct{} // held by whoever asks it
	asked      time.Time     // last; guarded by asking
	interval   time.Duration
	timeout    time.Duration
	maxSize    int64
	allowStale bool
	dir        string
	client     *http.Client
	onUpdate   func(Info)
	now        func() time.Time
	log        *slog.Logger

	pace  atomic.Int64  // what Pace was told
	paced chan struct{} // one token: it became shorter

	mu       sync.RWMutex        // guards what follows
	issuers  []*x509.Certificate // grows at its end only
	sources  map[sourceKey]*source
	resolved map[string]*source // by the DER of certificates, which costs less to compare than to hash for good
}

// NewChecker validates c. It fetches nothing yet.
func NewChecker(c CheckerConfig) (*Checker, error) {
	if len(c.Issuers) == 0 {
		return nil, errors.New("crl: Issuers are required")
	}
	k := &Checker{
		issuers: slices.Clone(c.Issuers), interval: cmp.Or(c.Interval, defaultInterval), timeout: cmp.Or(c.Timeout, defaultFetch),
		maxSize: cmp.Or(c.MaxSize, defaultMaxSize), allowStale: c.InsecureAllowStale, dir: c.Dir, client: fetchClient(c.HTTPClient),
		onUpdate: c.OnUpdate, now: c.Now, log: cmp.Or(c.Logger, slog.Default()),
		learn: c.Learn, asking: make(chan struct{}, 1), paced: make(chan struct{}, 1), sources: map[sourceKey]*source{}, resolved: map[string]*source{},
	}
	if k.now == nil {
		k.now = time.Now
	}
	if k.interval < 0 || k.timeout < 0 || k.maxSize < 0 {
		return nil, errors.New("crl: Interval, Timeout and MaxSize must not be negative")
	}
	if slices.ContainsFunc(c.Issuers, notIssuer) {
		return nil, errors.New("crl: every issuer must be a CA certificate with a subject key identifier")
	}
	if err := prepareDir(c.Dir); err != nil {
		return nil, err
	}
	for _, p := range c.Points {
		i := slices.IndexFunc(c.Issuers, func(cert *x509.Certificate) bool { return p.Issuer != nil && cert.Equal(p.Issuer) })
		if i < 0 {
			return nil, fmt.Errorf("crl: distribution point %s: its issuer is not among Issuers", p.URL)
		}
		at := cmp.Or(p.URL, p.From)
		for _, u := range []string{at, cmp.Or(p.From, at), cmp.Or(p.DeltaFrom, at)} {
			if err := checkURL(u); err != nil {
				return nil, fmt.Errorf("crl: distribution point: %w", err)
			}
		}
		s, err := k.source(sourceKey{i, p.URL}, p.From)
		if err != nil {
			return nil, err
		}
		s.deltaFrom, s.pinned = p.DeltaFrom, true
	}
	return k, nil
}

// Check returns nil if the certificate is not on its issuer's list as far as can be known now, and otherwise
// an error, which always means: refuse. It is a *RevokedError, or wraps ErrStale, ErrUnavailable or
// ErrUnknownIssuer. Without a list that is still good, Check fetches one, bounded by ctx and Timeout; many
// callers share one fetch. Without Run, a list is used until its nextUpdate.
func (k *Checker) Check(ctx context.Context, cert *x509.Certificate) error {
	s, err := k.sourceOf(cert)
	if errors.Is(err, ErrUnknownIssuer) && k.learnIssuers(ctx) {
		s, err = k.sourceOf(cert)
	}
	if err != nil {
		return err
	}
	now := k.now()
	s.use(now)
	list := s.list.Load()
	var fetching error
	if list == nil || (list.Stale(now) && !k.allowStale) {
		fetching = k.await(ctx, s)
		list = s.list.Load()
	}
	if list == nil {
		return fmt.Errorf("%w from %s: %w", ErrUnavailable, s.from, fetching)
	}
	if e, ok := list.find(cert.SerialNumber); ok {
		return &RevokedError{Serial: cert.SerialNumber, Reason: int(e.reason), At: time.Unix(e.at, 0).UTC(), CRLNumber: list.Number}
	}
	if list.Stale(k.now()) && !k.allowStale {
		err := fmt.Errorf("%w since %s (CRL %d from %s)", ErrStale, list.NextUpdate.Format(time.RFC3339), list.Number, s.from)
		if fetching != nil {
			err = fmt.Errorf("%w: %w", err, fetching)
		}
		return err
	}
	return nil
}

// Run polls for newer lists until ctx ends, and returns nil. While the CA is away, the lists at hand stay in
// use.
func (k *Checker) Run(ctx context.Context) error {
	var polls sync.WaitGroup
	defer polls.Wait()
	if k.learn != nil {
		polls.Go(func() { k.keepLearning(ctx) })
	}
	for ctx.Err() == nil {
		k.forget(k.now())
		for _, s := range k.known() {
			polls.Go(func() { k.poll(ctx, s) })
		}
		k.rest(ctx)
	}
	return nil
}

// Refresh asks once for a newer list from every distribution point that is known so far. The error joins
// those of the single ones.
func (k *Checker) Refresh(ctx context.Context) error {
	var mu sync.Mutex
	var errs []error
	var fetches sync.WaitGroup
	for _, s := range k.known() {
		fetches.Go(func() {
			if err := k.refresh(ctx, s); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%s: %w", s.from, err))
			}
		})
	}
	fetches.Wait()
	return errors.Join(errs...)
}

// Info is the state of one list.
type Info struct {
	Issuer     string // the issuing CA's subject
	URL        string // the distribution point
	Number     uint64 // zero: no list yet
	ThisUpdate time.Time
	NextUpdate time.Time
	Entries    int
	Heard      time.Time // when the CA was last heard to say that this is the newest list
	Err        error     // of the last attempt to get a newer one
}

// Status returns the state of every list, sorted by URL.
func (k *Checker) Status() []Info {
	var all []Info
	for _, s := range k.known() {
		all = append(all, s.info())
	}
	slices.SortFunc(all, func(a, b Info) int { return cmp.Or(strings.Compare(a.URL, b.URL), strings.Compare(a.Issuer, b.Issuer)) })
	return all
}

// sourceOf returns where the list for a certificate comes from. The issuer is told by its signature: another
// CA may bear the same name, and copy the key identifier. Since that costs more than all the rest, the
// answer is remembered.
func (k *Checker) sourceOf(cert *x509.Certificate) (*source, error) {
	k.mu.RLock()
	s := k.resolved[string(cert.Raw)] // without a copy
	issuers := k.issuers
	k.mu.RUnlock()
	if s != nil {
		return s, nil
	}
	issuer := slices.IndexFunc(issuers, func(ca *x509.Certificate) bool {
		return bytes.Equal(cert.RawIssuer, ca.RawSubject) && cert.CheckSignatureFrom(ca) == nil
	})
	if issuer < 0 {
		return nil, fmt.Errorf("%w: %q", ErrUnknownIssuer, cert.Issuer)
	}
	if cert.SerialNumber.Sign() <= 0 || cert.SerialNumber.BitLen() > 8*maxSerial {
		return nil, fmt.Errorf("%w: no list can hold its serial number", ErrUnavailable)
	}
	key := sourceKey{issuer, ""} // the list of all its certificates, if there is one
	k.mu.RLock()
	s = k.sources[key]
	k.mu.RUnlock()
	if s == nil {
		i := slices.IndexFunc(cert.CRLDistributionPoints, func(u string) bool { return checkURL(u) == nil })
		if i < 0 {
			return nil, fmt.Errorf("%w: the certificate names no http distribution point", ErrUnavailable)
		}
		key.url = cert.CRLDistributionPoints[i]
		var err error
		if s, err = k.source(key, ""); err != nil {
			return nil, err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.resolved) >= maxResolved {
		clear(k.resolved)
	}
	if k.sources[key] == s { // or it was dropped in between, and nobody polls it
		k.resolved[string(cert.Raw)] = s
	}
	return s, nil
}
