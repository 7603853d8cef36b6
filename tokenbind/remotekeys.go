package tokenbind

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkid/pkid/internal/jws"
)

const (
	fetchTimeout  = 10 * time.Second
	patience      = 750 * time.Millisecond // of one request with a fetch, the first fetch of all excepted
	maxDocument   = 256 << 10              // octets of metadata and of a JWK set
	minRefetch    = 5 * time.Second        // between the end of a fetch and the next, whatever kids strangers invent
	minMaxAge     = time.Minute            // bounds and default of how long keys count as fresh
	maxMaxAge     = time.Hour
	defaultMaxAge = 10 * time.Minute
)

// remoteKeys are the keys that an issuer publishes. They are fetched when they are first needed, when they are
// stale and when a kid is not known. A key that is known is an answer at once; the fetch goes on beside it.
// While the issuer is away, the keys that were fetched last are kept.
type remoteKeys struct {
	issuer   string
	metadata string
	insecure bool
	http     *http.Client
	logger   *slog.Logger
	now      func() time.Time

	set atomic.Pointer[keySet] // that was fetched last; nil: none yet

	mu      sync.Mutex    // guards writing to set, and all below
	tried   time.Time     // the end of the last fetch
	err     error         // of the last fetch
	away    bool          // the last fetch failed, or somebody waited for this one in vain
	pending chan struct{} // closed at the end of the fetch under way; nil: none is
}

// keySet is what one fetch brought. It does not change.
type keySet struct {
	keys    StaticKeys
	fetched time.Time
	maxAge  time.Duration
}

// find returns the keys for a kid, and how old they are. A clock that went back makes them old.
func (s *keySet) find(ctx context.Context, kid string, now time.Time) (found []VerificationKey, age time.Duration) {
	if s == nil {
		return nil, 0
	}
	found, _ = s.keys.Keys(ctx, kid) // has no errors
	return found, now.Sub(s.fetched).Abs()
}

// adopt takes over those of the keys before that are here again, so that sameKey knows them by their pointers.
func (s StaticKeys) adopt(before []VerificationKey) {
	for i := range s {
		for _, k := range before {
			if sameKey(k.Key, s[i].Key) {
				s[i].Key = k.Key
			}
		}
	}
}

// NewIssuerKeys returns the keys that c.Issuer publishes, as a Verifier with this Config and no Keys finds them: for
// several verifiers of one issuer, and for those who want to know whether they are there. Of c, only Issuer, HTTPClient,
// InsecureIssuerHTTP, Logger and Now are looked at.
func NewIssuerKeys(c Config) (KeySource, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	k, err := newRemoteKeys(c)
	if err != nil {
		return nil, err
	}
	return k, nil
}

func newRemoteKeys(c Config) (*remoteKeys, error) {
	metadata, err := metadataURL(c.Issuer, c.InsecureIssuerHTTP)
	if err != nil {
		return nil, err
	}
	var client http.Client
	if c.HTTPClient != nil {
		client = *c.HTTPClient
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &remoteKeys{issuer: c.Issuer, metadata: metadata, insecure: c.InsecureIssuerHTTP, http: &client, logger: c.Logger, now: c.Now}, nil
}

// metadataURL is where an issuer publishes its metadata: the well-known part goes between host and path
// (RFC 8414 section 3).
func metadataURL(issuer string, insecure bool) (string, error) {
	u, err := url.Parse(issuer)
	if err != nil {
		return "", fmt.Errorf("issuer %q: %w", issuer, err)
	}
	if err := secure(u, insecure); err != nil {
		return "", fmt.Errorf("issuer %q: %w", issuer, err)
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", fmt.Errorf("issuer %q: no query or fragment may stand in it", issuer)
	}
	return u.Scheme + "://" + u.Host + "/.well-known/oauth-authorization-server" + strings.TrimSuffix(u.EscapedPath(), "/"), nil
}

func secure(u *url.URL, insecure bool) error {
	if u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !insecure) {
		return errors.New("not an https URL")
	}
	return nil
}

// Keys is that of KeySource. It waits for a fetch only where it has no key to answer with, and where the keys
// are so old that they may have been withdrawn; for the latter not while the issuer is known to be away.
func (k *remoteKeys) Keys(ctx context.Context, kid string) ([]VerificationKey, error) {
	set := k.set.Load()
	found, age := set.find(ctx, kid, k.now())
	if len(found) > 0 && age <= set.maxAge {
		return found, nil
	}
	k.mu.Lock()
	pending := k.refresh()
	if wait := len(found) == 0 || age > 2*set.maxAge && !k.away; !wait {
		pending = nil
	}
	limit := patience
	if set == nil && !k.away { // the very first; nobody can be answered without it
		limit = fetchTimeout
	}
	k.mu.Unlock()

	if pending != nil {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		select {
		case <-pending:
		case <-timer.C:
			k.setAway()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return k.answer(ctx, kid)
}

func (k *remoteKeys) setAway() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.away = k.pending != nil
}

// answer returns the keys for a kid. That there are none is certain only after a fetch that succeeded.
func (k *remoteKeys) answer(ctx context.Context, kid string) ([]VerificationKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	found, _ := k.set.Load().find(ctx, kid, k.now())
	switch {
	case len(found) > 0:
		return found, nil
	case k.pending != nil:
		return nil, fmt.Errorf("%s has not answered yet", k.issuer)
	default:
		return nil, k.err
	}
}

// refresh begins a fetch, unless one is under way or ended a moment ago, and returns what is closed at its
// end, or nil. The caller holds the mutex. The fetch ends by itself, by its timeout at the latest.
func (k *remoteKeys) refresh() chan struct{} {
	began := k.now()
	if k.pending != nil || began.Sub(k.tried).Abs() < minRefetch {
		return k.pending
	}
	done := make(chan struct{})
	k.pending = done
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
		defer cancel()
		keys, maxAge, err := k.fetch(ctx)

		k.mu.Lock()
		defer k.mu.Unlock()
		k.tried, k.pending, k.err, k.away = k.now(), nil, err, err != nil
		before, _ := k.set.Load().find(ctx, "", began)
		if err == nil {
			keys.adopt(before)
			k.set.Store(&keySet{keys, began, maxAge})
		} else {
			k.logger.Error("the issuer's keys cannot be had", "issuer", k.issuer, "cause", err, "kept", len(before))
		}
		close(done)
	}()
	return done
}

func (k *remoteKeys) fetch(ctx context.Context) (StaticKeys, time.Duration, error) {
	body, _, err := k.get(ctx, k.metadata)
	if err != nil {
		return nil, 0, err
	}
	metadata, err := jws.DecodeObject(body)
	if err != nil {
		return nil, 0, fmt.Errorf("reading %s: %w", k.metadata, err)
	}
	if metadata["issuer"] != k.issuer { // RFC 8414 section 3.3
		return nil, 0, fmt.Errorf("%s is the metadata of issuer %s, not of %q", k.metadata, jws.Show(metadata["issuer"]), k.issuer)
	}
	uri, _ := metadata["jwks_uri"].(string)
	u, err := url.Parse(uri)
	if err == nil {
		err = secure(u, k.insecure)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("jwks_uri %q of %s: %w", jws.Short(uri), k.metadata, err)
	}
	body, header, err := k.get(ctx, uri)
	if err != nil {
		return nil, 0, err
	}
	keys, err := ParseJWKS(body)
	return keys, freshFor(header), err
}

func (k *remoteKeys) get(ctx context.Context, uri string) ([]byte, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := k.http.Do(req)
	if err != nil {
		return nil, nil, unfetched(uri, err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or given up
	if resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%s answers %s", uri, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", uri, err)
	}
	if len(body) > maxDocument {
		return nil, nil, fmt.Errorf("reading %s: more than %d octets", uri, maxDocument)
	}
	return body, resp.Header, nil
}

// unfetched says what to do about the commonest cause: a private CA's root that this machine does not know.
func unfetched(uri string, err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // without the method and the URL
	}
	err = fmt.Errorf("fetching %s: %w", uri, err)
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		err = fmt.Errorf("%w: set Config.HTTPClient to one that trusts pkid's root (client.Identity.HTTPClient)", err)
	}
	return err
}

// freshFor reads max-age (RFC 9111 section 5.2.2.1), within bounds.
func freshFor(h http.Header) time.Duration {
	for directive := range strings.SplitSeq(h.Get("Cache-Control"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if strings.EqualFold(name, "max-age") {
			if s, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
				return min(max(time.Duration(s)*time.Second, minMaxAge), maxMaxAge)
			}
		}
	}
	return defaultMaxAge
}
