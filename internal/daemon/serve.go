package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/pkid/pkid/internal/config"
)

// shutdownGrace is how long requests under way may take once the daemon is told to stop.
const shutdownGrace = 10 * time.Second

// Serve binds the listeners, reports ready and serves until ctx ends. A port in use is an error before
// anything is served. It closes what New opened, and returns nil after a clean stop.
func (d *Daemon) Serve(ctx context.Context, ready func()) error {
	servers, err := d.listen(ctx)
	if err == nil {
		if err = d.cert.renew(ctx); err != nil {
			stop(servers)
		}
	}
	if err != nil {
		return errors.Join(err, d.store.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var background sync.WaitGroup
	background.Go(func() { d.cert.run(ctx) })
	background.Go(func() { d.prune(ctx) })
	background.Go(func() { d.keepShards(ctx) })
	background.Go(func() {
		if err := d.publisher.Run(ctx); err != nil {
			d.log.Error("publishing CRLs ended", "err", err)
		}
	})
	failed := make(chan error, len(servers))
	for _, s := range servers {
		background.Go(func() { failed <- s.serve() })
	}
	ready()

	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serving: %w", err)
	}
	stop(servers)
	cancel()
	background.Wait()
	return errors.Join(err, d.store.Close())
}

// server is one bound listener.
type server struct {
	*http.Server
	listener net.Listener
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
		if spec.tls != nil {
			spec.tls.NextProtos = []string{"h2", "http/1.1"}
			listener = tls.NewListener(listener, spec.tls)
		}
		servers = append(servers, &server{newHTTPServer(spec.handler, d.log.With("listener", spec.key)), listener})
	}
	return servers, nil
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
// deadline.
func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
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
