package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/verifyproxy"
)

func verifyProxyCommand() *cobra.Command {
	var c verifyproxy.Config
	var server config.ResourceServer
	var file string
	cmd := &cobra.Command{
		Use: "verify-proxy", Short: "answer proxies that ask whether a request may pass, without a CA: forward authentication", Args: noArgs,
		Long: `Answer proxies that ask whether a client's request may pass: nginx auth_request, Traefik ForwardAuth,
Caddy forward_auth, HAProxy, and Envoy's ext_authz over HTTP or gRPC. There is no key of the CA here and no store:
token keys, CRLs and revocations come from the issuer, and until they are there every request is refused.

Proxies ask at /v1/verify (docs/forward-auth.md). With --config, a file says all that the flags can say, and
may have several resource servers.`,
		Example: "  pkid verify-proxy --issuer https://pki.example.com:8443 --root root.crt --audience https://api.example.com --proxy-form nginx",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file != "" {
				if n := cmd.Flags().NFlag(); n > 1 {
					return usageError{fmt.Errorf("with --config everything else stands in the file, too; leave the other flags out")}
				}
				loaded, err := verifyproxy.Load(file)
				if err != nil {
					return err
				}
				c = *loaded
			} else if server.Audience != "" {
				c.Servers = []config.ResourceServer{server}
			}
			log := newLogger(cmd.ErrOrStderr(), c.Log)
			p, err := verifyproxy.New(c, log)
			if err != nil {
				return err
			}
			return p.Serve(cmd.Context(), func(listen, ops string) { log.Info("serving", "listen", listen, "ops", "http://"+ops) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "YAML file with all of it, in place of the other flags")
	f.StringVar(&c.Issuer, "issuer", "", "pkid's public URL, the issuer of the tokens")
	f.StringVar(&c.Root, "root", "", "PEM file with the CA's root, which the issuer's TLS certificate and the CRLs lead to")
	f.StringVar(&c.Identity, "identity", "", "directory with an identity (pkictl enroll), whose root is taken instead")
	f.StringVar(&server.Audience, "audience", "", "the resource server, as tokens name it in aud")
	f.StringVar(&server.Name, "name", "", "what a sub-request calls it by, in the path /v1/verify/NAME; Envoy needs one")
	f.StringVar(&server.BaseURL, "base-url", "", "its public URL, as DPoP proofs name it (default: the origin of --audience)")
	f.StringArrayVar(&server.Scopes, "scope", nil, "scope that every token must have; repeatable")
	f.BoolVar(&server.RequireNonce, "require-nonce", false, "demand a nonce in every DPoP proof")
	f.BoolVar(&server.NoDPoP, "no-dpop", false, "refuse tokens that are bound to a DPoP key")
	f.BoolVar(&server.InsecureAllowBearer, "insecure-allow-bearer", false, "take tokens that are bound to nothing: whoever gets hold of one can use it")
	f.StringVar(&c.Profile, "profile", "", "security profile that resource servers are held to: fapi2 (default: none)")
	f.StringVar(&c.NonceKeyFile, "nonce-key-file", "", "file with 32 octets in base64, for several of these beside each other (default: a random key)")
	f.StringVar(&c.Listen, "listen", verifyproxy.DefaultListen, "address where proxies ask")
	f.StringVar(&c.ExtAuthz, "ext-authz", "", "address where Envoy asks over gRPC (default: nowhere)")
	f.StringVar(&c.TLS, "tls", "", "directory with an identity of profile server to listen with (default: plain HTTP, on loopback only)")
	f.BoolVar(&c.InsecureListenHTTP, "insecure-listen-http", false, "plain HTTP on any address: whoever is on the network between reads tokens, and speaks for the proxy")
	f.StringVar(&c.Ops, "ops", verifyproxy.DefaultOps, "address for metrics and health, plain HTTP")
	f.StringArrayVar(&c.Proxies.Addresses, "proxy", nil, "address or prefix that a trusted proxy connects from; repeatable (default: loopback)")
	f.StringArrayVar(&c.Proxies.Names, "proxy-name", nil, "DNS name or URI in the certificate that a trusted proxy connects with; repeatable; needs --tls")
	f.StringVar(&c.Proxies.Form, "proxy-form", "", "how the proxy writes the client's certificate: rfc9440, nginx, haproxy, apache, envoy or traefik (default: it writes none)")
	f.StringVar(&c.Proxies.Header, "proxy-header", "", "header that it stands in, for nginx, haproxy and apache (default X-SSL-Client-Cert)")
	f.StringVar(&c.Proxies.Original, "proxy-original", "", "headers that tell of the client's request: x-forwarded, forwarded or none (default x-forwarded)")
	return cmd
}
