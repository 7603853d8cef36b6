package verifyproxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/internal/verifyproxy"
)

// TestInvariant9_ProxyByName: whoever connects with a certificate that bears the name is a proxy, until it is revoked.
// Neither the address nor another certificate makes one, and under FAPI 2.0 all of it goes on.
func TestInvariant9_ProxyByName(t *testing.T) {
	t.Parallel()
	const audience = "https://orders.example"
	s := pkitest.Start(t, pkitest.Options{})
	own := s.Enrol(t, client.InvitationRequest{ClientID: "verify", Profile: "server", SANs: []string{"localhost"}})
	gateway := s.Enrol(t, client.InvitationRequest{ClientID: "gateway", SANs: []string{"gateway.internal"}})
	app := s.Enrol(t, client.InvitationRequest{ClientID: "app", SANs: []string{"app.internal"}, Resources: []string{audience}})
	p, err := verifyproxy.New(verifyproxy.Config{
		Issuer: s.URLs.Public, Root: filepath.Join(s.Home, "root.crt"), Servers: []config.ResourceServer{{Name: "orders", Audience: audience}},
		Listen: "127.0.0.1:0", Ops: "127.0.0.1:0", TLS: own.Dir(), Profile: "fapi2",
		Proxies: verifyproxy.Proxies{Proxies: config.Proxies{Form: "rfc9440"}, Names: []string{"gateway.internal"}},
	}, pkitest.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served, at := make(chan error, 1), make(chan string, 1)
	go func() { served <- p.Serve(ctx, func(listen, _ string) { at <- listen }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	listen := <-at
	source, err := client.NewTokenSource(client.TokenConfig{Identity: app, Resource: audience})
	if err != nil {
		t.Fatal(err)
	}
	token, err := source.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	trust := &tls.Config{RootCAs: app.Roots(), ServerName: "localhost"}
	ask := func(as *client.Identity) (int, error) {
		transport := &http.Transport{TLSClientConfig: trust.Clone(), ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		if as != nil {
			transport.TLSClientConfig.Certificates = []tls.Certificate{*as.Certificate()}
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+listen+"/v1/verify/orders", nil)
		if err != nil {
			return 0, err
		}
		req.Header.Set("Authorization", "Bearer "+token.AccessToken)
		req.Header.Set("Client-Cert", ":"+base64.StdEncoding.EncodeToString(app.Certificate().Certificate[0])+":")
		req.Header.Set("X-Forwarded-Method", "GET")
		req.Header.Set("X-Forwarded-Uri", "/orders/17")
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, err
	}
	wants := func(as *client.Identity, want int) {
		t.Helper()
		pkitest.Eventually(t, time.Minute, func() error {
			if got, err := ask(as); err != nil || got != want {
				return fmt.Errorf("answered %d, %w", got, errors.Join(err))
			}
			return nil
		})
	}
	wants(gateway, http.StatusOK)
	wants(nil, http.StatusBadRequest) // though it comes from loopback
	wants(app, http.StatusBadRequest)
	wants(own, http.StatusBadRequest)

	optionsOfAll(t, listen, trust, gateway)

	serial := fmt.Sprintf("%032x", gateway.Certificate().Leaf.SerialNumber)
	if _, err := s.Operator(t).Revoke(t.Context(), serial, client.Revocation{Reason: "keyCompromise"}); err != nil {
		t.Fatal(err)
	}
	wants(gateway, http.StatusBadRequest)
}

// optionsOfAll: net/http answers OPTIONS * with 200 by itself, which is what proxies take for a yes.
func optionsOfAll(t *testing.T, listen string, trust *tls.Config, as *client.Identity) {
	t.Helper()
	trust = trust.Clone()
	trust.Certificates = []tls.Certificate{*as.Certificate()}
	conn, err := (&tls.Dialer{Config: trust}).DialContext(t.Context(), "tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: orders.example\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("OPTIONS *: %s", resp.Status)
	}
}
