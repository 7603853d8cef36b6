package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
)

func (a *app) clientCommand() *cobra.Command {
	return a.group("client", "manage OAuth clients",
		a.clientAddCommand(), a.clientSetCommand(), a.clientListCommand(), a.clientShowCommand(),
		a.clientSwitchCommand("disable", "refuse a client and all its tokens", true),
		a.clientSwitchCommand("enable", "let a disabled client in again", false))
}

var authMethods = []string{
	"tls_client_auth", "self_signed_tls_client_auth", "private_key_jwt",
	"client_secret_basic", "client_secret_post", "client_secret_jwt",
}

func (a *app) clientAddCommand() *cobra.Command {
	var c client.ClientRecord
	var policy clientPolicy
	var jwks string
	cmd := &cobra.Command{
		Use: "add ID --auth METHOD", Short: "register a client; one that enrols needs no registration", Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.ID = args[0]
			if err := checkClient(&c); err != nil {
				return err
			}
			if err := policy.check(); err != nil {
				return err
			}
			c.Nonce, c.Profile = policy.nonce, policy.profile
			if jwks != "" {
				text, err := readInput(jwks, a.stdin)
				if err != nil {
					return err
				}
				if !json.Valid(text) {
					return fmt.Errorf("%s is not JSON", jwks)
				}
				c.JWKS = text
			}
			api, err := a.api(cmd.Context())
			if err != nil {
				return err
			}
			added, err := api.AddClient(cmd.Context(), c)
			if err != nil {
				return doing(err, "adding client %s", c.ID)
			}
			if added.Secret != "" {
				a.note("the secret is shown this once")
			}
			return a.printClient(added)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Auth, "auth", "", strings.Join(authMethods, ", "))
	f.StringVar(&c.SubjectDN, "subject-dn", "", "with tls_client_auth: the certificate's subject (RFC 4514)")
	f.StringVar(&c.SANDNS, "san-dns", "", "or its DNS name")
	f.StringVar(&c.SANURI, "san-uri", "", "or its URI")
	f.StringVar(&c.SANIP, "san-ip", "", "or its IP address")
	f.StringVar(&c.SANEmail, "san-email", "", "or its e-mail address")
	f.StringVar(&jwks, "jwks", "", "file with the client's JWK set, - for stdin")
	f.StringVar(&c.JWKSURI, "jwks-uri", "", "where the client publishes it")
	f.BoolVar(&c.DPoP, "dpop", false, "only tokens that are bound to a DPoP key")
	policy.flags(cmd)
	f.BoolVar(&c.Introspect, "introspect", false, "may introspect any token: for resource servers")
	f.BoolVar(&c.Bearer, "insecure-bearer", false, "may get tokens that are bound to nothing and work for whoever steals them")
	f.Var((*scopeList)(&c.Scopes), "scope", "scope that it may ask for; repeatable")
	f.StringArrayVar(&c.Resources, "resource", nil, "resource that it may ask for; repeatable")
	a.jsonFlag(cmd)
	return cmd
}

// checkClient refuses what the command line alone shows to be wrong. A tls_client_auth client has exactly one
// subject (RFC 8705 section 2.1.2).
func checkClient(c *client.ClientRecord) error {
	if !slices.Contains(authMethods, c.Auth) {
		return usagef("name how the client authenticates: --auth %s", strings.Join(authMethods, "|"))
	}
	subjects := 0
	for _, s := range []string{c.SubjectDN, c.SANDNS, c.SANURI, c.SANIP, c.SANEmail} {
		if s != "" {
			subjects++
		}
	}
	switch tls := c.Auth == "tls_client_auth"; {
	case tls && subjects != 1:
		return usagef("tls_client_auth needs exactly one of --subject-dn, --san-dns, --san-uri, --san-ip and --san-email")
	case !tls && subjects > 0:
		return usagef("--subject-dn and --san-... go with --auth tls_client_auth")
	}
	return nil
}

func (a *app) clientListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "list clients", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := a.api(cmd.Context())
			if err != nil {
				return err
			}
			enc := json.NewEncoder(a.stdout)
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			if !a.json {
				fmt.Fprintln(w, "CLIENT\tAUTH\tSTATUS\tTOKENS\tSCOPES")
			}
			for c, err := range api.Clients(cmd.Context()) {
				switch {
				case err != nil:
					return doing(err, "listing clients")
				case a.json:
					if err := enc.Encode(c); err != nil {
						return err
					}
				default:
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", printable(c.ID), c.Auth, clientStatus(&c), tokenKind(&c), printable(strings.Join(c.Scopes, " ")))
				}
			}
			return w.Flush()
		},
	}
	a.jsonLinesFlag(cmd)
	return cmd
}

func (a *app) clientShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show ID", Short: "show a client", Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.api(cmd.Context())
			if err != nil {
				return err
			}
			c, err := api.Client(cmd.Context(), args[0])
			if err != nil {
				return doing(err, "looking up client %s", args[0])
			}
			return a.printClient(c)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) clientSwitchCommand(verb, short string, disabled bool) *cobra.Command {
	cmd := &cobra.Command{
		Use: verb + " ID", Short: short, Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.api(cmd.Context())
			if err != nil {
				return err
			}
			c, err := api.PatchClient(cmd.Context(), args[0], client.ClientPatch{Disabled: &disabled})
			if err != nil {
				return doing(err, "%s client %s", verb, args[0])
			}
			return a.printClient(c)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printClient(c *client.ClientRecord) error {
	if a.json {
		return a.printJSON(c)
	}
	return a.printFields(slices.Concat([]field{
		{"client", c.ID},
		{"auth", c.Auth},
		{"secret", c.Secret},
		{"status", clientStatus(c)},
		{"subject DN", c.SubjectDN},
		{"SAN DNS", c.SANDNS},
		{"SAN URI", c.SANURI},
		{"SAN IP", c.SANIP},
		{"SAN e-mail", c.SANEmail},
		{"jwks_uri", c.JWKSURI},
	}, keyFields(c.JWKS), []field{
		{"tokens", tokenKind(c)},
		{"DPoP nonce", c.Nonce},
		{"profile", c.Profile},
		{"scopes", strings.Join(c.Scopes, " ")},
		{"resources", strings.Join(c.Resources, " ")},
		{"created", stamp(c.CreatedAt)},
	})...)
}

func clientStatus(c *client.ClientRecord) string {
	if c.Disabled {
		return "disabled"
	}
	return "enabled"
}

// tokenKind says what the client's tokens are bound to.
func tokenKind(c *client.ClientRecord) string {
	kind := "bound"
	switch {
	case c.DPoP:
		kind = "bound to a DPoP key"
	case c.Bearer:
		kind = "INSECURE: bearer tokens allowed"
	}
	if c.Introspect {
		kind += ", may introspect"
	}
	return kind
}
