package verifyproxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/forwardauth"
	"github.com/pkid/pkid/internal/admission"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/connstate"
	"github.com/pkid/pkid/tokenbind"
)

const (
	maxProofs      = 1 << 20  // remembered at once, at some 150 octets each
	verifiedTokens = 16 << 10 // remembered, for all resource servers together
	atOnce         = 256      // requests judged at once; four times as many wait
	patience       = time.Second
	requestTimeout = 10 * time.Second
	connections    = 4096 // open at once, at each address
	shutdownGrace  = 10 * time.Second
)

// Proxy answers sub-requests with what it fetched from an issuer.
type Proxy struct {
	c       Config
	log     *slog.Logger
	keys    tokenbind.KeySource
	status  *status
	replay  *tokenbind.MemoryReplay
	gate    *admission.Gate
	proxies *tokenbind.Proxies
	handler *forwardauth.Handler
	metrics metrics
	tls     *tls.Config // nil: none
	started time.Time
}

// New checks the configuration and reads the files that it names. It asks nobody anything.
func New(c Config, log *slog.Logger) (*Proxy, error) {
	c.complete()
	if err := c.validate(); err != nil {
		return nil, err
	}
	roots, err := c.roots()
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		c: c, log: log, replay: tokenbind.NewMemoryReplay(maxProofs, nil), gate: admission.NewGate(atOnce, 4*atOnce, patience),
		status:  &status{issuer: c.Issuer, roots: roots, http: trusting(roots), log: log},
		metrics: metrics{answers: map[answer]uint64{}}, started: time.Now(),
	}
	p.keys, err = tokenbind.NewIssuerKeys(tokenbind.Config{Issuer: c.Issuer, HTTPClient: p.status.http, Logger: log})
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	if c.TLS != "" {
		id, err := client.Load(c.TLS)
		if err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		p.tls = listenTLS(id, len(c.Proxies.Names) > 0)
	}
	if p.proxies, err = newProxies(c.Proxies, p.status, roots...); err != nil {
		return nil, err
	}
	p.handler, err = p.newHandler()
	return p, err
}

// listenTLS has the certificate of an identity, which is read again when it was renewed. Clients are asked for theirs
// without naming CAs; whose one is, Proxies decide.
func listenTLS(id *client.Identity, ask bool) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, CipherSuites: tokenbind.CipherSuites(), NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.Certificate(), nil },
	}
	if ask {
		c.ClientAuth = tls.RequestClientCert
	}
	return c
}

func (p *Proxy) newHandler() (*forwardauth.Handler, error) {
	nonceKey, err := p.c.nonceKey()
	if err != nil {
		return nil, err
	}
	var servers []forwardauth.Server
	for _, s := range p.c.Servers {
		servers = append(servers, forwardauth.Server{Name: s.Name, Config: tokenbind.Config{
			Issuer: p.c.Issuer, Audience: s.Audience, BaseURL: s.BaseURL, RequiredScopes: s.Scopes, Keys: p.keys, FAPI2: p.c.Profile == config.ProfileFAPI2,
			AllowBearer: s.InsecureAllowBearer, NoDPoP: s.NoDPoP, RequireNonce: s.RequireNonce, NonceKey: nonceKey,
			Revocation: p.status, Tokens: p.status, MaxTokens: max(verifiedTokens/len(p.c.Servers), 2), Logger: p.log,
		}})
	}
	return forwardauth.New(forwardauth.Config{Proxies: p.proxies, Servers: servers, Replay: p.replay, Observe: p.observe, Logger: p.log})
}

// observe counts, and logs who may pass. Refusals are logged where they are made, with their reason; nothing secret of a
// request is, and no query.
func (p *Proxy) observe(r *http.Request, o forwardauth.Outcome) {
	p.metrics.observe(o)
	if o.Err == nil {
		path := o.Original.URL.Path
		p.log.InfoContext(r.Context(), "request allowed", "server", o.Server, "method", o.Original.Method, "path", path[:min(len(path), 256)],
			"client", o.Claims.ClientID, "token", o.Claims.ID, "remote", o.Original.RemoteAddr, "took", o.Took)
	}
}

// ServeHTTP judges one request when there is room for it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	if err := p.gate.Enter(ctx); err != nil {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer p.gate.Leave()
	p.handler.ServeHTTP(w, r.WithContext(ctx))
}

// Ready says what is missing before anybody can pass.
func (p *Proxy) Ready(ctx context.Context) error {
	if keys, err := p.keys.Keys(ctx, ""); err != nil {
		return fmt.Errorf("token keys: %w", err)
	} else if len(keys) == 0 {
		return errors.New("token keys: there are none yet")
	}
	return p.status.ready()
}

// Ops serves metrics and health.
func (p *Proxy) Ops() http.Handler {
	mux := http.NewServeMux()
	text := func(w http.ResponseWriter, status int, body string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body)) // or nobody reads it any more
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := p.Ready(r.Context()); err != nil {
			text(w, http.StatusServiceUnavailable, err.Error()+"\n")
			return
		}
		text(w, http.StatusOK, "ready\n")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		p.metrics.write(&b)
		gauge(&b, "pkid_verify_proofs", "DPoP proofs that are remembered.", p.replay.Len())
		ready := 0
		if p.Ready(r.Context()) == nil {
			ready = 1
		}
		gauge(&b, "pkid_verify_ready", "1 if token keys and revocation status are there.", ready)
		gauge(&b, "pkid_verify_uptime_seconds", "Time since the start.", since(p.started))
		p.status.writeMetrics(&b)
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(b.Bytes()) // or nobody reads it any more
	})
	return mux
}

// Serve listens and serves until ctx ends; ready hears of the addresses. A clean stop returns nil.
func (p *Proxy) Serve(ctx context.Context, ready func(listen, ops string)) error {
	listener, err := p.bind(ctx, "listen", p.c.Listen)
	if err != nil {
		return err
	}
	ops, err := p.bind(ctx, "ops", p.c.Ops)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	var envoy net.Listener
	if p.c.ExtAuthz != "" {
		if envoy, err = bind(ctx, "ext_authz", p.c.ExtAuthz); err != nil {
			return errors.Join(err, listener.Close(), ops.Close())
		}
	}
	at, opsAt := listener.Addr().String(), ops.Addr().String()
	if p.tls != nil {
		listener = tls.NewListener(listener, p.tls)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var background sync.WaitGroup
	background.Go(func() { p.status.run(ctx) })
	background.Go(func() { _, _ = p.keys.Keys(ctx, "") }) // so that the first request need not wait; the error is logged
	servers := map[*http.Server]net.Listener{p.server(p): listener, p.server(p.Ops()): ops}
	failed := make(chan error, len(servers)+1)
	if envoy != nil {
		background.Go(func() {
			if err := serveGRPC(ctx, p.grpcServer(), envoy); err != nil { // it is nil when ctx has ended
				failed <- err
			}
		})
	}
	for s, l := range servers {
		background.Go(func() { failed <- s.Serve(l) })
	}
	ready(at, opsAt)
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serving: %w", err)
	}
	end, done := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer done()
	for s := range servers {
		if s.Shutdown(end) != nil {
			s.Close() //nolint:errcheck // it was asked to end and did not; nothing is left to do with it
		}
	}
	cancel()
	background.Wait()
	return err
}

// server bounds what a slow or hostile peer may take.
func (p *Proxy) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, DisableGeneralOptionsHandler: true, // which lets OPTIONS * pass
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 15 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ConnState: connstate.Tell, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
}

// bind bounds the connections at an address. Those of one address may be fewer, but where it is a proxy's.
func (p *Proxy) bind(ctx context.Context, key, addr string) (net.Listener, error) {
	l, err := bind(ctx, key, addr)
	if err != nil {
		return nil, err
	}
	bounded := admission.Listen(l, admission.Connections{Most: connections, PerAddress: connections / 4, New: connections / 2})
	bounded.Proxy = p.proxies.TrustsAddress
	return bounded, nil
}

func bind(ctx context.Context, key, addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return l, nil
}
