package grpcauth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/grpcauth"
	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/tokenbind"
)

// shop is a gRPC server behind a verifier, and a CA that issues tokens for it.
type shop struct {
	*pkitest.Server
	url    string
	served atomic.Int64 // calls that passed
}

func start(t *testing.T, edit func(*tokenbind.Config)) *shop {
	t.Helper()
	s := &shop{Server: pkitest.Start(t, pkitest.Options{})}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "https://localhost:" + listener.Addr().String()[strings.LastIndex(listener.Addr().String(), ":")+1:]
	id := s.Enrol(t, client.InvitationRequest{ClientID: "shop", Profile: "server", SANs: []string{"localhost"}})
	issuers, err := id.API().Issuers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checker, err := crl.NewChecker(crl.CheckerConfig{Issuers: issuers, Interval: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	conf := tokenbind.Config{
		Issuer: s.URLs.Public, Audience: s.url, HTTPClient: id.HTTPClient(), Revocation: checker,
		Replay: everFresh{tokenbind.NewMemoryReplay(1000, nil)}, Logger: pkitest.Logger(t),
	}
	if edit != nil {
		edit(&conf)
	}
	v, err := tokenbind.NewVerifier(conf)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{*id.Certificate()},
		})),
		grpc.ChainUnaryInterceptor(grpcauth.UnaryServer(v), func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if claims, ok := tokenbind.ClaimsFrom(ctx); !ok || claims.ClientID != "app" {
				t.Errorf("claims in the context: %+v", claims)
			}
			s.served.Add(1)
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(grpcauth.StreamServer(v)),
	)
	grpc_health_v1.RegisterHealthServer(server, &echo{Server: health.NewServer()})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	checked, serving := make(chan error, 1), make(chan error, 1)
	go func() { checked <- checker.Run(ctx) }()
	go func() { serving <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		cancel()
		<-serving
		<-checked
	})
	return s
}

// everFresh is a replay memory of a verifier that never ran before.
type everFresh struct{ *tokenbind.MemoryReplay }

// echo sends an answer on each of its streams every few milliseconds.
type echo struct{ *health.Server }

func (e *echo) Watch(_ *grpc_health_v1.HealthCheckRequest, stream grpc_health_v1.Health_WatchServer) error {
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		if err := stream.Send(&grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			tick.Stop()
			return status.FromContextError(stream.Context().Err()).Err()
		case <-tick.C:
		}
	}
}

func (s *shop) enrol(t *testing.T) *client.Identity {
	t.Helper()
	return s.Enrol(t, client.InvitationRequest{ClientID: "app", Resources: []string{s.url}})
}

func (s *shop) source(t *testing.T, id *client.Identity, dpop bool) *client.TokenSource {
	t.Helper()
	c := client.TokenConfig{Identity: id, Resource: s.url}
	if dpop {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c.DPoPKey = key
	}
	source, err := client.NewTokenSource(c)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func (s *shop) conn(t *testing.T, source *client.TokenSource) grpc_health_v1.HealthClient {
	t.Helper()
	conn, err := grpcauth.NewConn(s.url, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return grpc_health_v1.NewHealthClient(conn)
}

func check(t *testing.T, c grpc_health_v1.HealthClient) error {
	t.Helper()
	_, err := c.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	return err
}

func TestBothBindings(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	id := s.enrol(t)
	for name, dpop := range map[string]bool{"certificate": false, "certificate and DPoP": true} {
		c := s.conn(t, s.source(t, id, dpop))
		for range 3 {
			if err := check(t, c); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if n := s.served.Load(); n != 6 {
		t.Errorf("%d calls were served", n)
	}
}

// A token without what it is bound to is worth nothing, and the refusal says so where a client looks for it.
func TestB06F06_StolenToken(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	id, other := s.enrol(t), s.enrol(t)
	bound, err := s.source(t, id, false).Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	proved, err := s.source(t, id, true).Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, authorization string
		conf                *tls.Config
		check               string
	}{
		{"another certificate", "Bearer " + bound.AccessToken, other.TLSConfig(), "certificate:"},
		{"no certificate", "Bearer " + bound.AccessToken, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: id.Roots()}, "no client certificate"},
		{"as Bearer", "Bearer " + proved.AccessToken, id.TLSConfig(), "DPoP scheme"},
		{"without proof", "DPoP " + proved.AccessToken, id.TLSConfig(), "one DPoP header"},
		{"no token", "", id.TLSConfig(), "access token"},
	} {
		conn, err := grpc.NewClient(strings.TrimPrefix(s.url, "https://"), grpc.WithTransportCredentials(credentials.NewTLS(c.conf)))
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		if c.authorization != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", c.authorization)
		}
		var trailer metadata.MD
		_, err = grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.Trailer(&trailer))
		if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), c.check) || !strings.Contains(err.Error(), "refusal ") {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(trailer.Get("www-authenticate")) != 2 {
			t.Errorf("%s: trailers %v", c.name, trailer)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := s.served.Load(); n != 0 {
		t.Errorf("%d calls were served", n)
	}
}

// A nonce goes to the client and back with one more attempt, and later calls need none.
func TestF12_Nonce(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *tokenbind.Config) { c.RequireNonce = true })
	c := s.conn(t, s.source(t, s.enrol(t), true))
	for range 2 {
		if err := check(t, c); err != nil {
			t.Error(err)
		}
	}
}

// A stream is not made again, but what was learned from its refusal serves the next.
func TestF12_NonceOfAStream(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *tokenbind.Config) { c.RequireNonce = true })
	c := s.conn(t, s.source(t, s.enrol(t), true))
	for _, want := range []codes.Code{codes.Unauthenticated, codes.OK, codes.OK} {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := c.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		cancel()
		if status.Code(err) != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A renewed certificate never meets a token bound to the one before, whatever is under way.
func TestC05_RenewalUnderLoad(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	id := s.enrol(t)
	c := s.conn(t, s.source(t, id, false))
	stop := make(chan struct{})
	failed := make(chan error, 8)
	var calls atomic.Int64
	for range cap(failed) {
		go func() {
			for {
				select {
				case <-stop:
					failed <- nil
					return
				default:
				}
				if _, err := c.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
					failed <- err
					return
				}
				calls.Add(1)
			}
		}()
	}
	for i := range int64(5) {
		if err := id.Renew(t.Context(), client.RenewOptions{Rekey: true}); err != nil {
			t.Fatal(err)
		}
		pkitest.Eventually(t, time.Minute, func() error {
			if n := calls.Load(); n < 20*(i+1) {
				return status.Errorf(codes.Unavailable, "%d calls so far", n)
			}
			return nil
		})
	}
	close(stop)
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d calls over 5 renewals", calls.Load())
}

// A stream ends when its certificate is revoked.
func TestA34_StreamEndsWithItsCertificate(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	id := s.enrol(t)
	stream, err := s.conn(t, s.source(t, id, false)).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Operator(t).Revoke(t.Context(), fmt.Sprintf("%032x", id.Certificate().Leaf.SerialNumber), client.Revocation{Reason: "keyCompromise"}); err != nil {
		t.Fatal(err)
	}
	pkitest.Eventually(t, time.Minute, func() error {
		_, err = stream.Recv()
		if err == nil {
			return status.Error(codes.Unknown, "the stream goes on")
		}
		return nil
	})
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "revo") {
		t.Errorf("the stream ended with %v", err)
	}
}

// A stream goes on over the connection that it began on when the certificate is renewed, and ends with Close.
func TestStreamOutlivesRenewal(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	id := s.enrol(t)
	conn, err := grpcauth.NewConn(s.url, s.source(t, id, false))
	if err != nil {
		t.Fatal(err)
	}
	c := grpc_health_v1.NewHealthClient(conn)
	stream, err := c.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := id.Renew(t.Context(), client.RenewOptions{}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := check(t, c); err != nil {
				t.Error(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	for err == nil { // what was on its way
		_, err = stream.Recv()
	}
	if err := check(t, c); status.Code(err) != codes.Canceled {
		t.Errorf("a call after Close: %v", err)
	}
}

// inbox is a stream whose messages come from nowhere.
type inbox struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // a ServerStream has one
}

func (i *inbox) Context() context.Context { return i.ctx }
func (i *inbox) RecvMsg(any) error        { return nil }

// transport keeps what is sent behind a call.
type transport struct {
	grpc.ServerTransportStream
	trailers metadata.MD
}

func (tr *transport) SetTrailer(md metadata.MD) error { tr.trailers = md; return nil }

// standing says of every token the same.
type standing struct{ err error }

func (s *standing) CheckToken(context.Context, *tokenbind.Claims) error { return s.err }

// A message that comes after the token was revoked is not received.
func TestA34_NoMessageAfterTheEnd(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tokens := &standing{}
	v := bearerVerifier(t, key, tokens)
	var sent transport
	in := &inbox{ctx: grpc.NewContextWithServerTransportStream(t.Context(), &sent)}
	in.ctx = metadata.NewIncomingContext(in.ctx, metadata.Pairs("authorization", bearerToken(t, key, time.Now().Add(time.Minute))))
	err = grpcauth.StreamServer(v)(nil, in, &grpc.StreamServerInfo{FullMethod: "/shop.Orders/Watch"}, func(_ any, stream grpc.ServerStream) error {
		if err := stream.RecvMsg(nil); err != nil {
			return err
		}
		tokens.err = errors.New("the token was revoked")
		return stream.RecvMsg(nil)
	})
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "was revoked") || len(sent.trailers.Get("www-authenticate")) != 2 {
		t.Errorf("%v, trailers %v", err, sent.trailers)
	}
}

// bearerVerifier takes tokens that are bound to nothing, so that a test can do without a CA.
func bearerVerifier(t *testing.T, key *ecdsa.PrivateKey, tokens tokenbind.TokenStatus) *tokenbind.Verifier {
	t.Helper()
	v, err := tokenbind.NewVerifier(tokenbind.Config{
		Issuer: "https://as.example", Audience: "https://api.example", AllowBearer: true, Logger: pkitest.Logger(t),
		Keys: tokenbind.StaticKeys{{ID: "k", Key: key.Public()}}, Tokens: tokens,
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func bearerToken(t *testing.T, key *ecdsa.PrivateKey, until time.Time) (authorization string) {
	t.Helper()
	payload := fmt.Sprintf(`{"iss":"https://as.example","aud":"https://api.example","exp":%d}`, until.Unix())
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64([]byte(`{"alg":"ES256","kid":"k","typ":"at+jwt"}`)) + "." + b64([]byte(payload))
	signature, err := jws.Sign(key, "ES256", []byte(input))
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + input + "." + b64(signature)
}

// A stream that is silent ends with its token, too, and says why.
func TestStreamEndsWithItsToken(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.StreamInterceptor(grpcauth.StreamServer(bearerVerifier(t, key, nil))))
	grpc_health_v1.RegisterHealthServer(server, silent{})
	serving := make(chan error, 1)
	go func() { serving <- server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-serving })
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", bearerToken(t, key, time.Now().Add(2*time.Second)))
	stream, err := grpc_health_v1.NewHealthClient(conn).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "expired") {
		t.Errorf("the stream ended with %v", err)
	}
}

// silent has streams on which nothing comes.
type silent struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (silent) Watch(_ *grpc_health_v1.HealthCheckRequest, stream grpc_health_v1.Health_WatchServer) error {
	<-stream.Context().Done()
	return stream.Context().Err()
}

func TestNewConn(t *testing.T) {
	for server, ok := range map[string]bool{
		"https://api.example": true, "https://api.example:8443/": true, "https://[::1]:8443": true, "https://dns:8443": true,
		"http://api.example": false, "api.example:8443": false, "https://": false, "https://:8443": false, "https://api.example/v1": false,
		"https://u:p@api.example": false, "https://api.example?x": false, "https://api.example#x": false, "https://api.example//": false,
	} {
		if _, err := grpcauth.NewConn(server, nil); (err == nil) != ok {
			t.Errorf("%s: %v", server, err)
		}
	}
}
