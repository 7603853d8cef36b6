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
	"sync/atomic"
	"time"

	"github.com/pkid/pkid/internal/recent"
)

const (
	keysFresh     = 5 * time.Minute // how long a fetched set is used without another look
	keysStale     = time.Hour       // how long a key counts that was not seen at its source since
	refetchAfter  = 5 * time.Second // the least time from the end of a fetch to the next one of the same URL
	maxSets       = 10_000
	maxRegistered = 1000
	maxWaiting    = 16 // for one URL, so that one that hangs does not take the room of all clients
)

// anyKey reports whether one of the client's registered keys will do.
func (s *Server) anyKey(ctx context.Context, client *Client, will func(clientKey) bool) (bool, error) {
	if client.JWKSURI != "" {
		found, err := s.remote.any(ctx, client.JWKSURI, will)
		if err != nil {
			return false, refused(http.StatusServiceUnavailable, "temporarily_unavailable", "the client's jwks_uri could not be read; "+
				"make sure that it answers over https, without redirects, with a JWK set of at most %d octets", maxJWKS).because(err)
		}
		return found, nil
	}
	keys, err := s.registered.keys(client)
	if err != nil {
		return false, fmt.Errorf("reading the keys of client %q: %w", client.ID, err)
	}
	return slices.ContainsFunc(keys, will), nil
}

// registeredKeys remembers what the jwks of clients' records parse to. A record is read from the store for every request,
// and its version grows with each change, also by another node: an older version's keys are never used for it.
type registeredKeys struct {
	sets *recent.Cache[string, registeredSet] // by client id
}

func newRegisteredKeys() *registeredKeys {
	return &registeredKeys{recent.New[string, registeredSet](maxRegistered)}
}

type registeredSet struct {
	version uint64 // of the record; it grows with each change
	keys    []clientKey
}

// keys returns the client's keys, which are not to be changed.
func (r *registeredKeys) keys(client *Client) ([]clientKey, error) {
	if set, known := r.sets.Get(client.ID); known && set.version == client.Version {
		return set.keys, nil
	}
	keys, err := parseKeySet(client.JWKS, nil)
	if err != nil {
		return nil, err
	}
	r.sets.Put(client.ID, registeredSet{client.Version, keys})
	return keys, nil
}

// makeRoom forgets any entry of a full cache.
func makeRoom[K comparable, V any](cache map[K]V, most int) {
	for k := range cache {
		if len(cache) < most {
			return
		}
		delete(cache, k)
	}
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
	waiting atomic.Int32 // requests, for the fetch under way

	mu      sync.Mutex // guards the rest; never held while fetching
	keys    []clientKey
	fetched time.Time     // when keys came
	tried   time.Time     // the end of the last fetch
	err     error         // of the last fetch
	pending chan struct{} // closed at the end of the fetch under way; nil: none is
}

// newRemoteKeys copies the client: a redirect could point into the operator's own network, where a client's
// URL has no business, so none is followed.
func newRemoteKeys(c *http.Client, now func() time.Time, log *slog.Logger) *remoteKeys {
	own := *c
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return errors.New("a redirect, which is not followed") }
	own.Timeout = fetchTimeout
	return &remoteKeys{http: &own, now: now, log: log, sets: map[string]*remoteSet{}}
}

// any reports whether one of the keys published at url will do. A key that is known is an answer at once, and
// the set is read anew beside it when it is no longer fresh; so one that was withdrawn may be taken once more
// within keysStale. Only who has none of the known keys waits, because it may be a new one: for one fetch at the
// most, which all share, and which strangers cannot cause more often than once per refetchAfter.
func (r *remoteKeys) any(ctx context.Context, url string, will func(clientKey) bool) (bool, error) {
	set := r.set(url)
	keys, fetched, _ := set.known(r.now())
	found := slices.ContainsFunc(keys, will)
	if found && r.now().Sub(fetched).Abs() < keysFresh {
		return true, nil
	}
	pending := r.refresh(set, url)
	if found {
		return true, nil
	}
	if pending != nil {
		if set.waiting.Add(1) > maxWaiting {
			set.waiting.Add(-1)
			return false, fmt.Errorf("reading %s: it takes long, and %d requests wait for it already", url, maxWaiting)
		}
		defer set.waiting.Add(-1)
		select {
		case <-pending:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	keys, again, err := set.known(r.now())
	switch {
	case err != nil:
		return false, fmt.Errorf("reading %s: %w", url, err)
	case again.Equal(fetched): // nothing new
		return false, nil
	}
	return slices.ContainsFunc(keys, will), nil
}

// known returns the keys that count now, which are not to be changed, and when they came; without any, why.
func (s *remoteSet) known(now time.Time) ([]clientKey, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil || now.Sub(s.fetched).Abs() > keysStale {
		return nil, time.Time{}, s.err
	}
	return s.keys, s.fetched, nil
}

// refresh begins a fetch, unless one is under way or ended a moment ago, and returns what is closed at its
// end, or nil. It ends by itself, by its timeout at the latest, and not with the request that began it.
func (r *remoteKeys) refresh(set *remoteSet, url string) <-chan struct{} {
	set.mu.Lock()
	defer set.mu.Unlock()
	began := r.now()
	if set.pending != nil || !set.tried.IsZero() && began.Sub(set.tried).Abs() < refetchAfter {
		return set.pending
	}
	done := make(chan struct{})
	set.pending = done
	go func() {
		keys, err := r.fetch(url)
		set.mu.Lock()
		defer set.mu.Unlock()
		if set.tried, set.err, set.pending = r.now(), err, nil; err == nil {
			set.keys, set.fetched = keys, began
		}
		close(done)
	}()
	return done
}

func (r *remoteKeys) set(url string) *remoteSet {
	r.mu.Lock()
	defer r.mu.Unlock()
	set, ok := r.sets[url]
	if !ok {
		makeRoom(r.sets, maxSets) // what goes will be fetched again
		set = &remoteSet{}
		r.sets[url] = set
	}
	return set
}

func (r *remoteKeys) fetch(url string) ([]clientKey, error) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
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
