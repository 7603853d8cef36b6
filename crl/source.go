package crl

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// source is one distribution point and the newest list from it.
type source struct {
	issuer *x509.Certificate
	url    string // as in certificates and in the list
	from   string // where it is fetched
	list   atomic.Pointer[List]

	pinned    bool         // by the configuration: it is never forgotten
	used      atomic.Int64 // Unix seconds of the last check against it
	deltaFrom string       // where its delta is fetched; empty: where the list says, on the host of from

	// turn is held by whoever fetches: one at a time, and whoever waits for it shares the outcome. It guards
	// what follows.
	turn        chan struct{}
	loaded      bool       // from disk, or tried to
	full, delta validators // of what was fetched last
	renew       time.Time  // when the full list is fetched again though deltas do
	noDelta     string     // why the delta did not do; empty if it did

	mu    sync.Mutex // guards what follows
	done  uint64     // attempts that ran to their end
	ended time.Time  // when the last of them did; with a monotonic reading
	heard time.Time
	err   error
}

func newSource(issuer *x509.Certificate, url, from string) *source {
	return &source{issuer: issuer, url: url, from: from, turn: make(chan struct{}, 1)}
}

func (s *source) info() Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := Info{Issuer: s.issuer.Subject.String(), URL: s.url, Heard: s.heard, Err: s.err}
	if l := s.list.Load(); l != nil {
		i.Number, i.ThisUpdate, i.NextUpdate, i.Entries = l.Number, l.ThisUpdate, l.NextUpdate, l.Len()
	}
	return i
}

func (s *source) outcome() (done uint64, ended time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done, s.ended, s.err
}

// poll makes one attempt, unless one is under way.
func (k *Checker) poll(ctx context.Context, s *source) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
		k.load(s)
		_ = k.attempt(ctx, s) // logged, and in Info
	default:
	}
}

// refresh makes one attempt, after the one that is under way.
func (k *Checker) refresh(ctx context.Context, s *source) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
		k.load(s)
		return k.attempt(ctx, s)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// await gets a list that is good now: from disk if there is one, or else by an attempt of its own or another
// caller's. An attempt that failed less than Interval ago is not repeated.
func (k *Checker) await(ctx context.Context, s *source) error {
	before, _, _ := s.outcome()
	fromDisk := false
	select {
	case s.turn <- struct{}{}:
		defer func() {
			<-s.turn
			if fromDisk { // Run did not know of it yet: a newer one is not to wait for the next poll, which takes its turn
				k.wake()
			}
		}()
	case <-ctx.Done():
		return ctx.Err()
	}
	k.load(s)
	if l := s.list.Load(); l != nil && !l.Stale(k.now()) {
		fromDisk = true
		return nil
	}
	if done, ended, err := s.outcome(); done > before || (err != nil && time.Since(ended) < k.interval) {
		return err
	}
	return k.attempt(ctx, s)
}

// attempt fetches once and records how it went, except that a caller who gave up says nothing about the CA.
// The caller holds s.turn.
func (k *Checker) attempt(ctx context.Context, s *source) error {
	err := k.fetch(ctx, s)
	if err != nil && ctx.Err() != nil {
		return err
	}
	s.mu.Lock()
	was := s.err
	s.done, s.ended, s.err = s.done+1, time.Now(), err
	if err == nil {
		s.heard = k.now()
	}
	s.mu.Unlock()
	switch {
	case err != nil && (was == nil || was.Error() != err.Error()):
		k.log.Warn("no newer CRL; the one at hand stays in use", "url", s.from, "error", err)
	case err == nil && was != nil:
		k.log.Info("the CRL can be had again", "url", s.from)
	}
	return err
}

// fetch asks for the delta where the list at hand names one, and for the full list where there is none or it does not
// fit.
func (k *Checker) fetch(ctx context.Context, s *source) error {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	if k.followDelta(ctx, s) {
		return nil
	}
	return k.fetchFull(ctx, s)
}

func (k *Checker) fetchFull(ctx context.Context, s *source) error {
	held := s.list.Load()
	der, seen, err := k.get(ctx, s.from, s.full, held != nil)
	switch {
	case err != nil:
		return err
	case der == nil && held.overlay != nil:
		return fmt.Errorf("%w: number %d after %d", ErrRollback, held.full().Number, held.Number)
	case der == nil:
		return nil
	}
	if err := k.adopt(s, der); err != nil {
		return err
	}
	s.full = seen
	return nil
}

// validators tell one answer from the next.
type validators struct{ etag, lastModified string }

// get fetches a list. If the one that the validators are of is at hand, and is still the newest, there is no DER.
func (k *Checker) get(ctx context.Context, from string, have validators, atHand bool) (der []byte, seen validators, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, seen, fmt.Errorf("fetching: %w", err)
	}
	req.Header.Set("Accept", "application/pkix-crl")
	// Not compressed: a new list is wanted at once, and the compressed form comes later. Without this header, a
	// http.Transport asks for it by itself.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("Cache-Control", "no-cache") // a cache on the way may keep a list until its nextUpdate
	if atHand && have.etag != "" {
		req.Header.Set("If-None-Match", have.etag)
	} else if atHand && have.lastModified != "" {
		req.Header.Set("If-Modified-Since", have.lastModified)
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return nil, seen, fmt.Errorf("fetching: %w", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && atHand:
		return nil, have, nil
	case resp.StatusCode != http.StatusOK:
		return nil, seen, fmt.Errorf("fetching: the answer is %s", resp.Status)
	case cmp.Or(resp.Header.Get("Content-Encoding"), "identity") != "identity":
		return nil, seen, fmt.Errorf("%w: it comes in an encoding that was not asked for", ErrList)
	}
	if der, err = readBounded(resp.Body, resp.ContentLength, k.maxSize); err != nil {
		return nil, seen, fmt.Errorf("fetching: %w", err)
	}
	return der, validators{resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")}, nil
}

// adopt verifies a full list and uses it if it is newer than the one at hand, or says the same as that one with a
// delta.
func (k *Checker) adopt(s *source, der []byte) error {
	held := s.list.Load()
	if held != nil && held.overlay == nil && held.signedLike(der) {
		return nil
	}
	list, err := ParseAndVerify(der, s.issuer, s.url, k.now())
	if err != nil {
		return err
	}
	switch {
	case held == nil || list.Number > held.Number:
	case list.Number == held.Number && held.overlay != nil:
	case list.Number == held.Number:
		return fmt.Errorf("%w: two lists have the number %d", ErrRollback, list.Number)
	default:
		return fmt.Errorf("%w: number %d after %d", ErrRollback, list.Number, held.Number)
	}
	k.keep(s, fullList, der)
	s.delta, s.renew = validators{}, renewal(list)
	k.use(s, list)
	return nil
}

func (k *Checker) use(s *source, list *List) {
	s.list.Store(list)
	if k.onUpdate != nil {
		k.onUpdate(s.info())
	}
}

// load reads the list that was kept, once, and what a delta told since. They are verified like those from the network.
func (k *Checker) load(s *source) {
	if s.loaded || k.dir == "" {
		return
	}
	s.loaded = true
	file := k.file(s, fullList)
	der, err := readFile(file, k.maxSize)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err == nil {
		var list *List
		if list, err = ParseAndVerify(der, s.issuer, s.url, k.now()); err == nil {
			s.renew = renewal(list)
			s.list.Store(k.loadDelta(s, list))
			return
		}
	}
	k.log.Error("the CRL that was kept on disk is of no use", "url", s.from, "file", file, "error", err)
}

func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return readBounded(f, info.Size(), limit)
}

// maxClaim is for how much of a list there is room before its octets come. More may be a lie, from whoever sits on the
// way of one that comes by plain HTTP.
const maxClaim = 16 << 20

// readBounded reads a list that says how long it is, or does not: then size is negative.
func readBounded(r io.Reader, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, fmt.Errorf("%w: %d octets, at most %d are allowed", ErrList, size, limit)
	}
	b := bytes.NewBuffer(make([]byte, 0, min(max(size, 0), maxClaim)+bytes.MinRead)) // as much as ReadFrom wants to see the end
	if _, err := b.ReadFrom(io.LimitReader(r, limit+1)); err != nil {
		return nil, err
	}
	if int64(b.Len()) > limit {
		return nil, fmt.Errorf("%w: more than %d octets", ErrList, limit)
	}
	return b.Bytes(), nil
}

// maxConns is how many connections there are to a host. Run asks for all lists at once, and most are on one host: the
// polls take turns on connections that stay. http.DefaultTransport keeps two, and would make one anew for each of the
// others, at every Interval, until the ports of the machine have run out.
const maxConns = 32

// fetchClient returns c, or a client of its own, that does not follow redirects unless c says how.
func fetchClient(c *http.Client) *http.Client {
	var client http.Client
	if c != nil {
		client = *c
	} else {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxConnsPerHost, transport.MaxIdleConnsPerHost, transport.MaxIdleConns = maxConns, maxConns, 0
		client.Transport = transport
	}
	if client.CheckRedirect == nil {
		client.CheckRedirect = func(*http.Request, []*http.Request) error {
			return errors.New("a CRL's distribution point must not redirect")
		}
	}
	return &client
}
