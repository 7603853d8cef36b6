// Command orders is a resource server behind pkid's verifier: the README's example, whole. It expects its own
// identity in ./orders, from `pkictl invite orders --profile server --san localhost`.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/revocation"
	"github.com/pkid/pkid/tokenbind"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, env("ORDERS_IDENTITY", "orders"), env("ORDERS_ADDR", "127.0.0.1:7443"), env("ORDERS_URL", "https://localhost:7443")); err != nil {
		log.Fatal(err)
	}
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// serve answers at addr, as the resource that url names, until ctx ends.
func serve(ctx context.Context, identity, addr, url string) error {
	id, err := client.Load(identity)
	if err != nil {
		return err
	}
	issuers, err := id.API().Issuers(ctx)
	if err != nil {
		return err
	}
	checker, err := crl.NewChecker(crl.CheckerConfig{Issuers: issuers, Learn: id.API().Issuers})
	if err != nil {
		return err
	}
	follower, err := revocation.New(revocation.Config{Issuer: id.Info().URLs.Public, HTTPClient: id.HTTPClient(), Checker: checker})
	if err != nil {
		return err
	}
	go checker.Run(ctx)               //nolint:errcheck // it returns when ctx ends
	go follower.Run(ctx)              //nolint:errcheck // as above
	form := os.Getenv("ORDERS_PROXY") // behind a proxy on this host where TLS ends: how it hands on certificates
	proxies, err := loopback(form)
	if err != nil {
		return err
	}
	verifier, err := tokenbind.NewVerifier(tokenbind.Config{
		Issuer:      id.Info().URLs.Public,
		Audience:    url,
		HTTPClient:  id.HTTPClient(),
		Revocation:  follower, // of certificates
		Tokens:      follower, // and of tokens and clients
		Proxies:     proxies,
		AllowBearer: os.Getenv("ORDERS_ALLOW_BEARER") == "1", // takes tokens that work for whoever steals them, too
	})
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr:              addr,
		Handler:           verifier.Handler(http.HandlerFunc(orders)),
		ReadHeaderTimeout: 5 * time.Second,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, CipherSuites: tokenbind.CipherSuites(),
			ClientAuth: tls.RequestClientCert, // any, or none: the verifier decides
			// The identity's files are renewed by `pkictl renew --daemon`; Certificate reads them again.
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.Certificate(), nil },
		},
	}
	stopped := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stopped()
	log.Printf("orders at %s", url)
	listen := func() error { return server.ListenAndServeTLS("", "") }
	if form != "" {
		listen = server.ListenAndServe
	}
	if err := listen(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// loopback trusts the proxies on this host, if there is one.
func loopback(form string) (*tokenbind.Proxies, error) {
	if form == "" {
		return nil, nil
	}
	return tokenbind.NewProxies(tokenbind.ProxiesConfig{
		Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		Form:      tokenbind.CertificateForm(form),
	})
}

func orders(w http.ResponseWriter, r *http.Request) {
	claims, _ := tokenbind.ClaimsFrom(r.Context())
	fmt.Fprintf(w, "the orders of %s\n", claims.ClientID)
}
