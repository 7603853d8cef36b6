package crlfile

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/pkid/pkid/crl"
)

const (
	defaultMaxSize = 256 << 20
	// headTime bounds how long an answer takes to begin, and fetchTime how long to end.
	headTime  = 5 * time.Second
	fetchTime = time.Minute
	maxConns  = 32 // to a host; most lists are on one
)

// source is a point and the newest list from there.
type source struct {
	Point
	held *held // guarded by Sync.mu
	err  error // of the last attempt to get a newer one; likewise

	// What tells one answer from the next; the poller's alone.
	etag, lastModified string
}

// held is a list that was verified.
type held struct {
	der        []byte
	number     uint64
	this, next time.Time
	entries    int
}

// verify reads a list as one for this point.
func (src *source) verify(der []byte, now time.Time) (*held, error) {
	var failed error
	for _, scope := range src.Scopes {
		list, err := crl.ParseAndVerify(der, src.Signer, scope, now)
		if err == nil {
			return &held{der, list.Number, list.ThisUpdate, list.NextUpdate, list.Len()}, nil
		}
		failed = cmp.Or(failed, err)
	}
	return nil, failed
}

// poll asks for newer lists until ctx ends.
func (s *Sync) poll(ctx context.Context, src *source) {
	for ctx.Err() == nil {
		s.mu.Lock()
		was := src.err
		s.mu.Unlock()
		err := s.refresh(ctx, src)
		switch {
		case ctx.Err() != nil:
		case err != nil && (was == nil || was.Error() != err.Error()):
			s.Logger.Warn("no newer CRL; the one at hand stays in the file", "list", src.Name, "error", err)
		case err == nil && was != nil:
			s.Logger.Info("the CRL can be had again", "list", src.Name)
		}
		sleep(ctx, s.Interval-s.Interval/10+rand.N(max(s.Interval/5, 1)))
	}
}

// refresh asks once for a newer list.
func (s *Sync) refresh(ctx context.Context, src *source) error {
	err := s.fetch(ctx, src)
	if err != nil {
		err = fmt.Errorf("%s: %w", src.URL, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	src.err = err
	return err
}

func (s *Sync) fetch(ctx context.Context, src *source) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, src.URL, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/pkix-crl")
	req.Header.Set("Accept-Encoding", "identity") // a new list is wanted at once; its compressed form comes later
	req.Header.Set("Cache-Control", "no-cache")   // a cache on the way may keep a list until its nextUpdate
	if src.etag != "" {
		req.Header.Set("If-None-Match", src.etag)
	} else if src.lastModified != "" {
		req.Header.Set("If-Modified-Since", src.lastModified)
	}
	resp, err := s.HTTPClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && (src.etag != "" || src.lastModified != ""):
		return nil
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("the answer is %s", resp.Status)
	case resp.ContentLength > s.MaxSize:
		return fmt.Errorf("%w: %d octets, at most %d are allowed", crl.ErrList, resp.ContentLength, s.MaxSize)
	}
	der, err := io.ReadAll(io.LimitReader(resp.Body, s.MaxSize+1))
	if err != nil {
		return err
	}
	if int64(len(der)) > s.MaxSize {
		return fmt.Errorf("%w: more than %d octets", crl.ErrList, s.MaxSize)
	}
	list, err := src.verify(der, s.Now())
	if err != nil {
		return err
	}
	if err := s.hold(src, list); err != nil {
		return err
	}
	src.etag, src.lastModified = resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	return nil
}

// fetchClient returns c, or a client of its own, that does not follow redirects unless c says how: a signed list may
// come from anywhere, but nobody should be sent around the server's own network.
func fetchClient(c *http.Client) *http.Client {
	var client http.Client
	if c != nil {
		client = *c
	} else {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxConnsPerHost, transport.MaxIdleConnsPerHost, transport.MaxIdleConns = maxConns, maxConns, 0
		transport.ResponseHeaderTimeout = headTime
		client.Transport = transport
	}
	if client.CheckRedirect == nil {
		client.CheckRedirect = func(*http.Request, []*http.Request) error {
			return errors.New("a CRL's distribution point must not redirect")
		}
	}
	return &client
}

// issuerOf names who a list says that it is by.
func issuerOf(der []byte) string {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return "nobody: " + err.Error()
	}
	return list.Issuer.String()
}
