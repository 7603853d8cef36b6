package verifyproxy

import (
	"context"
	"errors"
	"net"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/pkid/pkid/forwardauth/extauthz"
)

// maxCheck bounds what Envoy tells of one request, in octets; it may send a part of the body, which is of no use here.
const maxCheck = 256 << 10

// grpcServer is Envoy's ext_authz over gRPC, before the same resource servers.
func (p *Proxy) grpcServer() *grpc.Server {
	service := extauthz.New(p.handler, p.proxies.Trusts)
	opts := []grpc.ServerOption{
		grpc.InTapHandle(service.Tap),
		grpc.MaxRecvMsgSize(maxCheck), grpc.MaxConcurrentStreams(4 * atOnce), grpc.ConnectionTimeout(5 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 2 * time.Minute, Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.UnaryInterceptor(p.admit),
	}
	if p.tls != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(p.tls.Clone())))
	}
	s := grpc.NewServer(opts...)
	service.Register(s)
	return s
}

// admit judges one request when there is room for it.
func (p *Proxy) admit(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := p.gate.Enter(ctx); err != nil {
		return nil, grpcstatus.Error(codes.Unavailable, "too many requests at once")
	}
	defer p.gate.Leave()
	return next(ctx, req)
}

// serveGRPC serves until ctx ends, and then lets calls under way end. There are no more connections at once than over HTTP:
// the next one waits.
func serveGRPC(ctx context.Context, s *grpc.Server, l net.Listener) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		cut := time.AfterFunc(shutdownGrace, s.Stop)
		defer cut.Stop()
		s.GracefulStop()
	})
	err := s.Serve(netutil.LimitListener(l, connections))
	if !stop() {
		<-stopped
	}
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}
