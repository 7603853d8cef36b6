package authserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	keysFresh    = 5 * time.Minute // how long a fetched set is used without another look
	keysStale    = time.Hour       // how long it is used while its URL does not answer
	refetchAfter = 5 * time.Second // the least time between two fetches of one URL
	maxSets      = 10_000
)

// anyKey reports whether one of the client's registered keys will do. With a jwks_uri, a key that is not
// among those known is looked for once more at its source, so that clients rotate keys on their own.
func (s *Server) anyKey(ctx context.Context, client *Client, will func(jose.JSONWebKey) bool) (bool, error) {
	if client.JWKSURI == "" {
		keys, err := parseKeySet(client.JWKS, nil)
		if err != nil {
			return false, fmt.Errorf("reading the keys of client %q: %w", client.ID, err)
		}
		return slices.ContainsFunc(keys, will), nil
	}
	for _, atMost := range []time.Duration{keysFresh, 0} {
		keys, err := s.remote.keys(ctx, client.JWKSURI, atMost)
		if err != nil {
			return false, refused(http.StatusServiceUnavailable, "temporarily_unavailable", "the client's jwks_uri could not be read; "+
				"make sure that it answers over https, without redirects, with a JWK set of at most %d octets", maxJWKS).because(err)
		}
		if slices.ContainsFunc(keys, will) {
			return true, nil
		}
	}
	return false, nil
}

// remoteKeys fetches and remembers what clients publish at their jwks_uri.
type remoteKeys struct {
	http *http.Client
	now  func() time.Time
	log  *slog.Logger

	mu   sync.Mutex // guards sets
	sets map[string]*remoteSet
}

// remoteSet is what one URL said.
type remoteSet struct {
	mu      sync.Mutex // held while fetching, so that there is one fetch at a time; guards the rest
	keys    []jose.JSONWebKey
	fetched time.Time // when keys came
	tried   time.Time
	err     error // of the last try
}

// newRemoteKeys copies the client: a redirect could point into the operator's own network, where a client's
// URL has no business, so none is followed.
func newRemoteKeys(c *http.Client, now func() time.Time, log *slog.Logger) *remoteKeys {
	own := *c
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return errors.New("a redirect, which is not followed") }
	own.Timeout = fetchTimeout
	return &remoteKeys{http: &own, now: now, log: log, sets: map[string]*remoteSet{}}
}

// keys returns the keys published at url, as of atMost ago if they may be fetched anew. The slice is not to
// be changed.
func (r *remoteKeys) keys(ctx context.Context, url string, atMost time.Duration) ([]jose.JSONWebKey, error) {
	set := r.set(url)
	set.mu.Lock()
	defer set.mu.Unlock()
	now := r.now()
	due := set.keys == nil || now.Sub(set.fetched) >= atMost
	if due && (set.tried.IsZero() || now.Sub(set.tried).Abs() >= refetchAfter) {
		set.tried = now
		// Others wait for this answer too, so it does not end with the request that happened to ask.
		keys, err := r.fetch(context.WithoutCancel(ctx), url)
		if set.err = err; err == nil {
			set.keys, set.fetched = keys, now
		}
	}
	if set.keys == nil || now.Sub(set.fetched) > keysStale {
		return nil, fmt.Errorf("reading %s: %w", url, set.err)
	}
	return set.keys, nil
}

func (r *remoteKeys) set(url string) *remoteSet {
	r.mu.Lock()
	defer r.mu.Unlock()
	set, ok := r.sets[url]
	if !ok {
		for other := range r.sets { // any one goes; it will be fetched again
			if len(r.sets) < maxSets {
				break
			}
			delete(r.sets, other)
		}
		set = &remoteSet{}
		r.sets[url] = set
	}
	return set
}

func (r *remoteKeys) fetch(ctx context.Context, url string) ([]jose.JSONWebKey, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	res, err := r.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxJWKS+1))
	if err != nil {
		return nil, err
	}
	// One key that cannot be used must not take the others with it (RFC 7517 section 5).
	return parseKeySet(body, func(err error) {
		r.log.LogAttrs(ctx, slog.LevelInfo, "key of a client skipped", slog.String("jwks_uri", url), slog.String("cause", err.Error()))
	})
}
