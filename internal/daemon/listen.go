package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/pkid/pkid/internal/admission"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/connstate"
	"github.com/pkid/pkid/web"
)

// server is one bound listener.
type server struct {
	*http.Server
	listener net.Listener
	name     string
	bounds   *admission.Listener
}

func (s *server) serve() error {
	if err := s.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (d *Daemon) listen(ctx context.Context) (servers []*server, err error) {
	defer func() {
		if err != nil {
			for _, s := range servers {
				err = errors.Join(err, s.listener.Close())
			}
		}
	}()
	l := d.cfg.Listen
	for _, spec := range []struct {
		key, addr string
		tls       *tls.Config
		handler   http.Handler
	}{
		{"public", l.Public, d.cert.publicTLS(), d.web.Public()},
		{"mtls", l.MTLS, d.cert.mtlsTLS(), d.web.MTLS()},
		{"status", l.Status, nil, d.web.Status()},
		{"ops", l.Ops, nil, d.web.Ops()},
	} {
		listener, err := bind(ctx, spec.key, spec.addr)
		if err != nil {
			return servers, err
		}
		bounds := admission.Listen(listener, connections(d.cfg.Limits))
		bounds.Proxy = d.proxies.TrustsAddress
		listener = bounds
		if spec.tls != nil {
			spec.tls.NextProtos = []string{"h2", "http/1.1"}
			listener = tls.NewListener(listener, spec.tls)
		}
		server := &server{newHTTPServer(spec.handler, d.log.With("listener", spec.key)), listener, spec.key, bounds}
		server.RegisterOnShutdown(d.web.EndStreams)
		servers = append(servers, server)
	}
	d.servers.Store(&servers)
	return servers, nil
}

func connections(l config.Limits) admission.Connections {
	return admission.Connections{Most: l.Connections, PerAddress: l.ConnectionsPerAddress, New: l.NewConnections}
}

// requests are the limits that the handlers keep.
func requests(l config.Limits) web.LimitsConfig {
	return web.LimitsConfig{
		UnderWay: l.Connections, UnderWayPerAddress: l.ConnectionsPerAddress, AtOnce: l.Requests, Wait: l.Wait,
		Streams: l.Streams, StreamsPerAddress: l.StreamsPerAddress,
		CertificatesPerAddress: l.CertificatesPerAddress, CertificatesPerClient: l.CertificatesPerClient,
		TokensPerAddress: l.TokensPerAddress, TokensPerClient: l.TokensPerClient, FailuresPerAddress: *l.FailuresPerAddress,
	}
}

// writeConnectionMetrics tells of the listeners' connections.
func (d *Daemon) writeConnectionMetrics(w io.Writer) {
	servers := d.servers.Load()
	if servers == nil {
		return
	}
	for _, m := range []struct {
		name, kind, help string
		value            func(admission.Counts) uint64
	}{
		{"pkid_connections", "gauge", "Connections that are open, by listener.", func(c admission.Counts) uint64 { return uint64(c.Open) }},
		{"pkid_connections_new", "gauge", "Those of them that have not sent a request yet.", func(c admission.Counts) uint64 { return uint64(c.New) }},
		{"pkid_connections_refused_total", "counter", "Connections closed at once, for want of room.", func(c admission.Counts) uint64 { return c.Refused }},
		{"pkid_connections_dropped_total", "counter", "Idle and slow connections closed, to make room.", func(c admission.Counts) uint64 { return c.Dropped }},
	} {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind)
		for _, s := range *servers {
			fmt.Fprintf(w, "%s{listener=%q} %d\n", m.name, s.name, m.value(s.bounds.Counts()))
		}
	}
}

// bind tells a port in use from what else can be wrong with an address.
func bind(ctx context.Context, key, addr string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen.%s: %s is in use: stop what holds it, or choose another address in %s", key, addr, config.File)
	}
	if err != nil {
		return nil, fmt.Errorf("listen.%s: %w", key, err)
	}
	return listener, nil
}

// CheckPorts binds the four addresses for a moment: a data directory is better not made where it cannot be
// served.
func CheckPorts(ctx context.Context, l config.Listen) error {
	for key, addr := range map[string]string{"public": l.Public, "mtls": l.MTLS, "status": l.Status, "ops": l.Ops} {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("%s cannot be served: %w; choose another address with --%s", addr, err, key)
		}
		if err := listener.Close(); err != nil {
			return err
		}
	}
	return nil
}

// newHTTPServer bounds what a slow or hostile client may take. Handlers that stream extend their own write
// deadline. The least of the timeouts, ReadHeaderTimeout, bounds a TLS handshake too.
func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		// OPTIONS * is for the handler, which knows no such path. net/http would answer 200, a proxy's yes, and log nothing.
		DisableGeneralOptionsHandler: true,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          64,
			MaxReceiveBufferPerConnection: 256 << 10,
			MaxReceiveBufferPerStream:     64 << 10, // a whole body, of which none is longer
			SendPingTimeout:               30 * time.Second,
			WriteByteTimeout:              10 * time.Second,
		},
		ConnState: connstate.Tell,
		ErrorLog:  slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// stop lets requests under way end, and then cuts them.
func stop(servers []*server) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range servers {
		wg.Go(func() {
			if s.Shutdown(ctx) != nil {
				s.Close() //nolint:errcheck // it was asked to end and did not; nothing is left to do with it
			}
			s.listener.Close() // of a server that never served
		})
	}
	wg.Wait()
}
