// Package revocation follows pkid's stream of revocations, so that a resource server refuses what was revoked within a
// fraction of a second: certificates, clients that were disabled, and tokens.
//
// A Follower is both parts that tokenbind.Config asks for: its Revocation, in front of a crl.Checker, and its Tokens. The
// stream only ever adds to what the CRL says. While it is away the CRL is polled as without it, and a certificate that
// the stream told of stays refused. The package also has the notation of the stream, for the server that writes it.
package revocation

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

// Errors that Check and CheckToken return, wrapped in tokenbind.ErrUnavailable.
var (
	// ErrNotReady: the stream was never heard yet, so nothing is known of tokens.
	ErrNotReady = errors.New("the revocation stream was not heard yet")
	// ErrStale: the stream was not heard for longer than Config.MaxStale.
	ErrStale = errors.New("the revocation stream has been away for too long")
)

// RevokedError is what Check and CheckToken return of what was revoked, as the stream told.
type RevokedError struct {
	What string // for people
}

func (e *RevokedError) Error() string { return e.What }

const (
	defaultMaxStale        = time.Hour // the longest that a token lives
	defaultMaxCertificates = 100_000
	defaultMaxTokens       = 1_000_000

	answerWithin = 10 * time.Second // to a request for the stream
	firstWait    = 100 * time.Millisecond
	mostWait     = 5 * time.Second
	mostEvery    = 20 * time.Second // between two heartbeats
	heartbeats   = 3                // that are missed until the stream is dead

	easy  = 5 * time.Second // between two polls for the CRL while the stream is heard
	alert = 5 * time.Second // for how long they are as fast as without it, after a certificate's event
)

// Config is what a Follower needs. Issuer is required, and Checker wherever clients have certificates.
type Config struct {
	// Issuer is pkid's public URL, which is also the issuer of its tokens. The stream is at Path below it.
	Issuer string
	// HTTPClient asks for the stream; it must trust the issuer's certificate. Its Timeout is not used, since the answer
	// never ends, and redirects are refused. Nil: one with the system's roots.
	HTTPClient *http.Client
	// InsecureIssuerHTTP allows an issuer with an http URL: whoever is on the network then decides what was revoked.
	InsecureIssuerHTTP bool
	// Checker knows the CRLs; its Run must run. The Follower paces it: while the stream is heard it polls every 5 s, and as
	// it was told otherwise. Nil: Check refuses every certificate, since nobody knows what was revoked before.
	Checker *crl.Checker
	// MaxStale is how long tokens are still taken while the stream is away; one hour if zero, which is as long as a token
	// lives: up to then nothing is taken that was not known to be good, or issued after the stream went away. Certificates
	// go by the CRL's nextUpdate.
	MaxStale time.Duration
	// InsecureAllowStale takes tokens however long the stream has been away, also if it was never heard: one that was
	// revoked is then taken until it expires.
	InsecureAllowStale bool
	// MaxCertificates bounds the revoked certificates that are remembered until a CRL at hand has them, at some 200 octets
	// each; 100,000 if zero. Beyond it the CRL alone tells of the oldest.
	MaxCertificates int
	// MaxTokens bounds the revoked tokens and disabled clients that are remembered until their tokens have expired, at
	// some 100 octets each; 1,000,000 if zero. Beyond it all tokens from before are refused in their place, and clients
	// get new ones.
	MaxTokens int

	Now    func() time.Time // time.Now if nil
	Logger *slog.Logger     // slog.Default() if nil
}

// Follower follows an issuer's revocations. It meets tokenbind.Revocation and tokenbind.TokenStatus. All methods may be
// called at once.
type Follower struct {
	url     string
	client  *http.Client
	checker *crl.Checker
	c       Config
	now     func() time.Time
	log     *slog.Logger
	ready   chan struct{} // closed once the stream was heard to its present end

	mu           sync.RWMutex // guards what follows
	certificates certificates
	tokens       *tokens
	last         string    // the id to go on from; empty: none
	heard        time.Time // the newest heartbeat
	connected    bool      // and heard since
	alertUntil   time.Time
	err          error // why it is not connected
	counts       counts
}

type counts struct{ events, connects, resets uint64 }

// New validates c. It does no I/O; Run does.
func New(c Config) (*Follower, error) {
	u, err := url.Parse(c.Issuer)
	scheme := "https"
	if c.InsecureIssuerHTTP && err == nil && u.Scheme == "http" {
		scheme = u.Scheme
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("revocation: Issuer: %w", err)
	case u.Scheme != scheme, u.Host == "", u.RawQuery != "", u.Fragment != "", u.User != nil:
		return nil, fmt.Errorf("revocation: Issuer: want an https URL such as https://pki.example.com:8443, not %q", u.Redacted())
	case c.MaxStale < 0, c.MaxCertificates < 0, c.MaxTokens < 0:
		return nil, errors.New("revocation: MaxStale, MaxCertificates and MaxTokens must not be negative")
	}
	c.MaxStale = cmp.Or(c.MaxStale, defaultMaxStale)
	f := &Follower{
		url: strings.TrimSuffix(c.Issuer, "/") + Path, client: streamClient(c.HTTPClient), checker: c.Checker, c: c,
		now: c.Now, log: cmp.Or(c.Logger, slog.Default()), ready: make(chan struct{}),
		certificates: certificates{most: cmp.Or(c.MaxCertificates, defaultMaxCertificates)},
		tokens:       newTokens(cmp.Or(c.MaxTokens, defaultMaxTokens)),
	}
	if f.now == nil {
		f.now = time.Now
	}
	return f, nil
}

// streamClient returns a client for an answer that does not end. It asks by HTTP/1.1 unless c says otherwise: then a
// connection that is dead is let go with its request.
func streamClient(c *http.Client) *http.Client {
	var client http.Client
	if c != nil {
		client = *c
	} else {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetHTTP1(true)
		client.Transport = transport
	}
	client.Timeout = 0
	client.CheckRedirect = func(*http.Request, []*http.Request) error {
		return errors.New("the revocation stream must not redirect")
	}
	return &client
}

// Ready is closed once the stream was heard to its present end for the first time. Until then CheckToken refuses.
func (f *Follower) Ready() <-chan struct{} { return f.ready }

// Check implements tokenbind.Revocation. It refuses what the stream told of, and then asks the Checker.
func (f *Follower) Check(ctx context.Context, cert *x509.Certificate) error {
	if err := f.checkThumbprint(thumbprint.OfCertificate(cert)); err != nil {
		return err
	}
	if f.checker == nil {
		return fmt.Errorf("%w: no CRL is checked here", tokenbind.ErrUnavailable)
	}
	err := f.checker.Check(ctx, cert)
	if errors.Is(err, crl.ErrStale) || errors.Is(err, crl.ErrUnavailable) {
		return fmt.Errorf("%w: %w", tokenbind.ErrUnavailable, err)
	}
	return err
}

func (f *Follower) checkThumbprint(t thumbprint.Cert) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if status := f.certificates.status(t); status != "" {
		return &RevokedError{"the certificate was " + status}
	}
	return nil
}

// CheckToken implements tokenbind.TokenStatus.
func (f *Follower) CheckToken(_ context.Context, claims *tokenbind.Claims) error {
	if t := claims.Confirmation.Cert; !t.IsZero() {
		if err := f.checkThumbprint(t); err != nil {
			return err
		}
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if err := f.tokens.check(claims); err != nil {
		return err
	}
	return f.stale()
}

// stale says why nothing is known of tokens. The caller holds f.mu.
func (f *Follower) stale() error {
	switch {
	case f.c.InsecureAllowStale:
		return nil
	case f.heard.IsZero():
		return fmt.Errorf("%w: %w", tokenbind.ErrUnavailable, ErrNotReady)
	case f.now().Sub(f.heard) > f.c.MaxStale:
		return fmt.Errorf("%w: %w: since %s", tokenbind.ErrUnavailable, ErrStale, f.heard.UTC().Format(time.RFC3339))
	}
	return nil
}

// Run follows the stream until ctx ends, and returns nil. A stream that ends, or is silent for three heartbeats, is asked
// for again from where it was.
func (f *Follower) Run(ctx context.Context) error {
	for try := 0; ctx.Err() == nil; try++ {
		heard, err := f.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		if heard {
			try = 0
		}
		f.lost(err, heard || try == 0)
		wait := min(firstWait<<min(try, 10), mostWait)
		if answer, ok := errors.AsType[*answerError](err); ok {
			wait = max(wait, min(answer.retryAfter, mostEvery))
			if answer.anew {
				f.begin()
			}
		}
		select { // at another moment than all the others, which lost it together
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
		}
	}
	f.lost(context.Canceled, false)
	return nil //nolint:nilerr // the error is that of the stream, which the end of ctx has ended
}

// begin has the next attempt ask for everything.
func (f *Follower) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = ""
}

// lost goes back to the CRL's own pace.
func (f *Follower) lost(err error, tell bool) {
	f.client.CloseIdleConnections() // the next attempt must not be made on a connection that is dead
	f.mu.Lock()
	f.connected, f.err = false, err
	f.mu.Unlock()
	f.pace(0)
	if tell {
		f.log.Warn("the revocation stream is away; certificates are checked by the CRL alone", "url", f.url, "error", err)
	}
}

func (f *Follower) pace(interval time.Duration) {
	if f.checker != nil {
		f.checker.Pace(interval)
	}
}
