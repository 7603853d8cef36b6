// Command shop calls a protected URL with a token of its own:
//
//	shop -flow mtls -identity shop https://localhost:7443/
//	SHOP_SECRET=... shop -flow dpop -client-id kiosk -issuer https://localhost:8443 -root root.crt https://localhost:7443/
//	SHOP_SECRET=... shop -flow bearer ...
//
// mtls: the client's certificate authenticates it, and the token is bound to that. dpop: a secret authenticates it, and
// the token is bound to a key that this process makes. bearer: the token is bound to nothing.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/pkid/pkid/client"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	flow := flag.String("flow", "mtls", "mtls, dpop or bearer")
	identity := flag.String("identity", "shop", "with mtls: the directory that pkictl enroll filled")
	clientID := flag.String("client-id", "", "with dpop and bearer")
	issuer := flag.String("issuer", "", "with dpop and bearer: pkid's public URL")
	root := flag.String("root", "", "with dpop and bearer: file with pkid's root certificate")
	flag.Parse()

	conf, err := config(*flow, *identity, client.TokenConfig{Issuer: *issuer, ClientID: *clientID, Secret: os.Getenv("SHOP_SECRET")}, *root)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return call(ctx, conf, flag.Arg(0))
}

// config says how tokens are asked for, and what they are bound to.
func config(flow, identity string, conf client.TokenConfig, root string) (client.TokenConfig, error) {
	if flow == "mtls" {
		id, err := client.Load(identity)
		return client.TokenConfig{Identity: id}, err
	}
	if flow == "dpop" {
		key, err := client.NewKey("P-256")
		if err != nil {
			return conf, err
		}
		conf.DPoPKey = key
	}
	text, err := os.ReadFile(root)
	if err != nil {
		return conf, err
	}
	conf.Roots = x509.NewCertPool()
	if !conf.Roots.AppendCertsFromPEM(text) {
		return conf, fmt.Errorf("%s holds no certificate", root)
	}
	return conf, nil
}

func call(ctx context.Context, conf client.TokenConfig, target string) error {
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	conf.Resource = u.Scheme + "://" + u.Host
	tokens, err := client.NewTokenSource(conf)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	resp, err := tokens.Client().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status + " " + resp.Header.Get("WWW-Authenticate"))
	}
	return nil
}
