package verifyproxy_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/internal/verifyproxy"
)

// Envoy asks over gRPC, and a certificate that is revoked is refused there too.
func TestExtAuthz(t *testing.T) {
	t.Parallel()
	const audience = "https://orders.example"
	s := pkitest.Start(t, pkitest.Options{})
	id := s.Enrol(t, client.InvitationRequest{ClientID: "app", Resources: []string{audience}})
	envoy := envoyOf(t, s, audience, verifyproxy.Proxies{})
	source, err := client.NewTokenSource(client.TokenConfig{Identity: id, Resource: audience})
	if err != nil {
		t.Fatal(err)
	}
	token, err := source.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(want int32, cert string) {
		t.Helper()
		pkitest.Eventually(t, time.Minute, func() error {
			r, err := envoy.Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
				ContextExtensions: map[string]string{"server": "orders"},
				Source:            &authv3.AttributeContext_Peer{Certificate: cert},
				Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
					Method: "GET", Path: "/orders/17", Host: "orders.example", Scheme: "https", Headers: map[string]string{"authorization": "Bearer " + token.AccessToken},
				}},
			}})
			if err != nil {
				return err
			}
			got := int32(200)
			if denied := r.GetDeniedResponse(); denied != nil {
				got = int32(denied.GetStatus().GetCode())
			}
			if got != want {
				return errors.New("answered " + r.String())
			}
			return nil
		})
	}
	leaf := id.Certificate().Leaf
	cert := url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})))
	ask(200, cert)
	ask(401, "")
	if _, err := s.Operator(t).Revoke(t.Context(), fmt.Sprintf("%032x", leaf.SerialNumber), client.Revocation{Reason: "keyCompromise"}); err != nil {
		t.Fatal(err)
	}
	ask(401, cert)
}

// envoyOf starts a Proxy before a resource server, and returns what asks it over gRPC.
func envoyOf(t *testing.T, s *pkitest.Server, audience string, proxies verifyproxy.Proxies) authv3.AuthorizationClient {
	t.Helper()
	free, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := verifyproxy.New(verifyproxy.Config{
		Issuer: s.URLs.Public, Root: filepath.Join(s.Home, "root.crt"), Servers: []config.ResourceServer{{Name: "orders", Audience: audience}},
		Listen: "127.0.0.1:0", Ops: "127.0.0.1:0", ExtAuthz: at, Proxies: proxies,
	}, pkitest.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx, func(string, string) {}) }()
	conn, err := grpc.NewClient(at, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(conn.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
	return authv3.NewAuthorizationClient(conn)
}

// Of what a stranger sends over gRPC nothing is kept: it is refused before, and a proxy's when it is too long.
func TestExtAuthz_Bounds(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	for at, want := range map[string]codes.Code{"192.0.2.1": codes.PermissionDenied, "127.0.0.1": codes.ResourceExhausted} {
		envoy := envoyOf(t, s, "https://orders.example", verifyproxy.Proxies{Proxies: config.Proxies{Addresses: []string{at}}})
		long := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{ContextExtensions: map[string]string{"scope": strings.Repeat("x", 300<<10)}}}
		pkitest.Eventually(t, time.Minute, func() error {
			if _, err := envoy.Check(t.Context(), long); status.Code(err) != want {
				return fmt.Errorf("from %s: %w", at, err)
			}
			return nil
		})
	}
}
