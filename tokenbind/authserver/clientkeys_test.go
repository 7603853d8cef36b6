package authserver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// selfSigned makes a certificate of a client's own and the JWK set that registers it.
func selfSigned(t *testing.T, now time.Time) (tls.Certificate, []byte) {
	t.Helper()
	template := leafTemplate("self", now)
	template.ExtKeyUsage = nil
	cert := sign(t, nil, newKey(t), template)
	return cert, keySet(t, cert)
}

func keySet(t *testing.T, certs ...tls.Certificate) []byte {
	t.Helper()
	var set jose.JSONWebKeySet
	for _, c := range certs {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: c.Leaf.PublicKey, Certificates: []*x509.Certificate{c.Leaf}})
	}
	raw, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestA12_SelfSignedCertificateMustBeRegistered(t *testing.T) {
	h := newHouse(t)
	cert, set := selfSigned(t, h.clock.now())
	h.add(Client{ID: "a", Auth: SelfSignedTLSClientAuth, JWKS: set})
	_, claims := mustIssue(t, h.token(clientID("a"), presenting(cert)))
	if got := member(claims, "cnf", "x5t#S256"); got == nil {
		t.Error("the token is not bound")
	}
	// The same key in another certificate is another certificate.
	again := sign(t, nil, cert.PrivateKey.(*ecdsa.PrivateKey), leafTemplate("self", h.clock.now()))
	h.mustFail(h.token(clientID("a"), presenting(again)), "not in the client's jwks")
	h.clock.advance(25 * time.Hour)
	mustRefuse(t, h.token(clientID("a"), presenting(cert)), 401, "invalid_client", "expired")
}

// The keys of a record are read once per version of it, and never those of the version before.
func TestRegisteredKeys_FollowTheRecord(t *testing.T) {
	h := newHouse(t)
	first, set := selfSigned(t, h.clock.now())
	second, next := selfSigned(t, h.clock.now())
	h.add(Client{ID: "a", Auth: SelfSignedTLSClientAuth, JWKS: set})
	mustIssue(t, h.token(clientID("a"), presenting(first)))
	mustIssue(t, h.token(clientID("a"), presenting(first)))
	h.set("a", func(c *Client) { c.JWKS = next })
	mustIssue(t, h.token(clientID("a"), presenting(second)))
	h.mustFail(h.token(clientID("a"), presenting(first)), "not in the client's jwks")
	if n := h.registered.sets.Len(); n != 1 {
		t.Errorf("%d sets for one client", n)
	}
	for i := range maxRegistered + 10 {
		if _, err := h.registered.keys(&Client{ID: strconv.Itoa(i), JWKS: set, Version: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if n := h.registered.sets.Len(); n < maxRegistered/2 || n > maxRegistered {
		t.Errorf("%d sets are kept, at most %d", n, maxRegistered)
	}
}

func TestA13_KeyAndX5CMustAgree(t *testing.T) {
	h := newHouse(t)
	cert, set := selfSigned(t, h.clock.now())
	_, other := selfSigned(t, h.clock.now())
	var a, b struct{ Keys []map[string]any }
	if json.Unmarshal(set, &a) != nil || json.Unmarshal(other, &b) != nil {
		t.Fatal("key sets do not decode")
	}
	b.Keys[0]["x5c"] = a.Keys[0]["x5c"]
	mixed, _ := json.Marshal(map[string]any{"keys": b.Keys})
	_, _, err := h.registry.Add(t.Context(), Client{ID: "a", Auth: SelfSignedTLSClientAuth, JWKS: mixed})
	if !errors.Is(err, ErrClientMetadata) {
		t.Errorf("at registration: %v; want ErrClientMetadata", err)
	}
	// At a jwks_uri the key is skipped, and the certificate with it.
	h2, _ := newHouseWithKeys(t, func() []byte { return mixed })
	h2.mustFail(h2.token(clientID("a"), presenting(cert)), "not in the client's jwks")
}

// newHouseWithKeys has a client "a" that publishes its keys at a jwks_uri; fetches counts how often it is read.
func newHouseWithKeys(t *testing.T, published func() []byte) (h *house, fetches *atomic.Int32) {
	t.Helper()
	fetches = &atomic.Int32{}
	site := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetches.Add(1)
		_, _ = w.Write(published())
	}))
	t.Cleanup(site.Close)
	h = newHouse(t, func(c *Config) { c.HTTPClient = site.Client() })
	h.add(Client{ID: "a", Auth: SelfSignedTLSClientAuth, JWKSURI: site.URL + "/jwks"})
	return h, fetches
}

func TestA14_PublishedCertificateIsAcceptedWithoutAChange(t *testing.T) {
	now := time.Now()
	first, set := selfSigned(t, now)
	second, next := selfSigned(t, now)
	var published atomic.Pointer[[]byte]
	published.Store(&set)
	h, fetches := newHouseWithKeys(t, func() []byte { return *published.Load() })
	mustIssue(t, h.token(clientID("a"), presenting(first)))
	mustIssue(t, h.token(clientID("a"), presenting(first)))
	if n := fetches.Load(); n != 1 {
		t.Errorf("two requests with a known certificate: %d fetches; want 1", n)
	}
	published.Store(&next)
	h.clock.advance(refetchAfter)
	mustIssue(t, h.token(clientID("a"), presenting(second)))
	h.mustFail(h.token(clientID("a"), presenting(first)), "not in the client's jwks")
}

func TestA14_UnknownCertificatesDoNotMakeUsFetchEachTime(t *testing.T) {
	_, set := selfSigned(t, time.Now())
	stranger, _ := selfSigned(t, time.Now())
	h, fetches := newHouseWithKeys(t, func() []byte { return set })
	for range 10 {
		h.mustFail(h.token(clientID("a"), presenting(stranger)), "not in the client's jwks")
	}
	if n := fetches.Load(); n != 1 {
		t.Errorf("ten unknown certificates at once: %d fetches; want 1", n)
	}
	h.clock.advance(refetchAfter)
	h.mustFail(h.token(clientID("a"), presenting(stranger)), "not in the client's jwks")
	if n := fetches.Load(); n != 2 {
		t.Errorf("another one later: %d fetches; want 2", n)
	}
}

// settle waits for the fetches under way.
func (h *house) settle() {
	h.Helper()
	h.remote.mu.Lock()
	defer h.remote.mu.Unlock()
	for _, set := range h.remote.sets {
		set.mu.Lock()
		pending := set.pending
		set.mu.Unlock()
		if pending != nil {
			<-pending
		}
	}
}

// An unresponsive jwks_uri must not take its client down, whoever else knocks in its name.
func TestJWKSURI_ThatHangs(t *testing.T) {
	cert, set := selfSigned(t, time.Now())
	stranger, _ := selfSigned(t, time.Now())
	hang, hangs := make(chan struct{}), atomic.Bool{}
	h, fetches := newHouseWithKeys(t, func() []byte {
		if hangs.Load() {
			<-hang
		}
		return set
	})
	release := sync.OnceFunc(func() { close(hang) })
	t.Cleanup(release) // before the site is closed, which waits
	mustIssue(t, h.token(clientID("a"), presenting(cert)))
	hangs.Store(true)
	h.clock.advance(keysFresh)

	var strangers sync.WaitGroup
	for range 10 {
		strangers.Go(func() { h.token(clientID("a"), presenting(stranger)) })
	}
	start := time.Now()
	for range 10 {
		mustIssue(t, h.token(clientID("a"), presenting(cert)))
	}
	if took := time.Since(start); took > fetchTimeout/2 {
		t.Errorf("ten requests with a known key took %v", took)
	}
	release()
	strangers.Wait()
	if n := fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want the first and one that hung", n)
	}
	h.clock.advance(refetchAfter - time.Second)
	h.mustFail(h.token(clientID("a"), presenting(stranger)), "not in the client's jwks")
	if n := fetches.Load(); n != 2 {
		t.Errorf("%d fetches: a stranger caused another one at once", n)
	}
}

// Who waits does not wait longer than its own request lives.
func TestJWKSURI_WaitingEndsWithTheRequest(t *testing.T) {
	hang := make(chan struct{})
	site := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	t.Cleanup(site.Close)
	t.Cleanup(func() { close(hang) })
	r := newRemoteKeys(site.Client(), time.Now, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	found, err := r.any(ctx, site.URL, func(clientKey) bool { return true })
	if found || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("found %t, %v", found, err)
	}
}

// Only some wait for a URL that hangs, so that there is room for the other clients.
func TestJWKSURI_FewWait(t *testing.T) {
	hang := make(chan struct{})
	site := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	t.Cleanup(site.Close)
	release := sync.OnceFunc(func() { close(hang) })
	t.Cleanup(release)
	r := newRemoteKeys(site.Client(), time.Now, slog.New(slog.DiscardHandler))
	ask := func() error {
		_, err := r.any(t.Context(), site.URL, func(clientKey) bool { return true })
		return err
	}
	var waiting sync.WaitGroup
	for range maxWaiting {
		waiting.Go(func() { _ = ask() })
	}
	set := r.set(site.URL)
	for set.waiting.Load() < maxWaiting {
		runtime.Gosched()
	}
	if err := ask(); err == nil || !strings.Contains(err.Error(), "wait for it already") {
		t.Errorf("one more: %v", err)
	}
	release()
	waiting.Wait()
	if n := set.waiting.Load(); n != 0 {
		t.Errorf("%d wait in the end", n)
	}
}

func TestJWKSURI_ServesFromWhatItHasForAWhile(t *testing.T) {
	cert, set := selfSigned(t, time.Now())
	var away atomic.Bool
	h, _ := newHouseWithKeys(t, func() []byte {
		if away.Load() {
			return bytes.Repeat([]byte(" "), maxJWKS+1)
		}
		return set
	})
	mustIssue(t, h.token(clientID("a"), presenting(cert)))
	away.Store(true)
	h.clock.advance(keysFresh)
	mustIssue(t, h.token(clientID("a"), presenting(cert)))
	h.settle()
	h.clock.advance(keysStale)
	mustRefuse(t, h.token(clientID("a"), presenting(cert)), 503, "temporarily_unavailable", "jwks_uri")
}

func TestJWKSURI_ASetThatWasEmptiedCounts(t *testing.T) {
	cert, set := selfSigned(t, time.Now())
	var withdrawn atomic.Bool
	h, _ := newHouseWithKeys(t, func() []byte {
		if withdrawn.Load() {
			return []byte(`{"keys":[]}`)
		}
		return set
	})
	mustIssue(t, h.token(clientID("a"), presenting(cert)))
	withdrawn.Store(true)
	h.clock.advance(keysFresh)
	mustIssue(t, h.token(clientID("a"), presenting(cert))) // once more: what is known answers at once
	h.settle()
	h.mustFail(h.token(clientID("a"), presenting(cert)), "not in the client's jwks")
}

func TestJWKSURI_RedirectsAreNotFollowed(t *testing.T) {
	cert, set := selfSigned(t, time.Now())
	var reached atomic.Bool
	site := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/inside" {
			reached.Store(true)
			_, _ = w.Write(set)
			return
		}
		http.Redirect(w, r, "/inside", http.StatusFound)
	}))
	t.Cleanup(site.Close)
	h := newHouse(t, func(c *Config) { c.HTTPClient = site.Client() })
	h.add(Client{ID: "a", Auth: SelfSignedTLSClientAuth, JWKSURI: site.URL + "/jwks"})
	mustRefuse(t, h.token(clientID("a"), presenting(cert)), 503, "temporarily_unavailable", "without redirects")
	if reached.Load() {
		t.Error("the redirect was followed")
	}
}
