package integration

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/tokenbind"
)

// The classic failure of certificate-bound tokens is the renewed certificate that meets a token of the one before. An
// application that opens its identity, renews it in the background and sends requests all the while loses none.
func TestC05_RenewalUnderLoad(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	var verifier http.Handler
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { verifier.ServeHTTP(w, r) }))
	own := s.Enrol(t, client.InvitationRequest{ClientID: "orders", Profile: "server", SANs: []string{"127.0.0.1"}})
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{*own.Certificate()}}
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	v, err := tokenbind.NewVerifier(tokenbind.Config{
		Issuer: s.URLs.Public, Audience: server.URL, HTTPClient: own.HTTPClient(), Logger: pkitest.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	verifier = v.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))

	inv, err := s.Operator(t).Invite(t.Context(), client.InvitationRequest{ClientID: "app", Resources: []string{server.URL}})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "app")
	if _, err := client.Open(t.Context(), dir, inv.Token, client.EnrollOptions{}); err != nil {
		t.Fatal(err)
	}
	id, err := client.Open(t.Context(), dir, inv.Token, client.EnrollOptions{}) // as after a restart: the token is used up
	if err != nil {
		t.Fatal(err)
	}
	source, err := client.NewTokenSource(client.TokenConfig{Identity: id, Resource: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	hc := source.Client()
	stop := make(chan struct{})
	ended := make(chan error, 8)
	var sent atomic.Int64
	for range cap(ended) {
		go func() {
			for {
				select {
				case <-stop:
					ended <- nil
					return
				default:
				}
				if err := fetchOK(t.Context(), hc, server.URL+"/orders"); err != nil {
					ended <- err
					return
				}
				sent.Add(1)
			}
		}()
	}
	const renewals = 10
	for i := range int64(renewals) {
		if err := id.Renew(t.Context(), client.RenewOptions{Rekey: i%2 == 0}); err != nil {
			t.Fatal(err)
		}
		pkitest.Eventually(t, time.Minute, func() error {
			if n := sent.Load(); n < 20*(i+1) {
				return fmt.Errorf("%d requests so far", n)
			}
			return nil
		})
	}
	close(stop)
	for range cap(ended) {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d requests over %d renewals, none failed", sent.Load(), renewals)
}

func fetchOK(ctx context.Context, hc *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return err
}
