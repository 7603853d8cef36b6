package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
)

// tokenFlags are the flags of what gets tokens: with an identity, or with a client's id and secret.
type tokenFlags struct {
	dir              string
	clientID, secret string // the secret's file
	issuer, root     string // the root's file
	scopes           scopeList
	resource         string
	dpop             bool
}

func (t *tokenFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&t.dir, "dir", ".", "directory of the identity")
	f.StringVar(&t.clientID, "client-id", "", "client without a certificate (client_secret_basic); its tokens are bound to a DPoP key")
	f.StringVar(&t.secret, "secret-file", "", "file with the secret of --client-id, - for stdin")
	f.StringVar(&t.issuer, "issuer", "", "with --client-id: who issues the token (default: the CA of --home)")
	f.StringVar(&t.root, "root", "", "with --client-id: file with the root to trust (default: that of --home; with --issuer the system's)")
	f.Var(&t.scopes, "scope", "scope to ask for; repeatable")
	f.StringVar(&t.resource, "resource", "", "resource to ask for (RFC 8707)")
	f.BoolVar(&t.dpop, "dpop", false, "bind the token to the DPoP key in DIR/dpop.key too, which is made if missing (default with --client-id)")
}

// source returns what gets the tokens.
func (a *app) source(cmd *cobra.Command, t *tokenFlags) (*client.TokenSource, error) {
	c := client.TokenConfig{Scopes: t.scopes, Resource: t.resource}
	var err error
	if t.clientID == "" {
		for _, name := range []string{"secret-file", "issuer", "root"} {
			if cmd.Flags().Changed(name) {
				return nil, usagef("--%s goes with --client-id", name)
			}
		}
		if c.Identity, err = client.Load(t.dir); err != nil {
			return nil, err
		}
	} else {
		if err := a.withSecret(&c, t); err != nil {
			return nil, err
		}
		t.dpop = t.dpop || !cmd.Flags().Changed("dpop")
	}
	if t.dpop {
		if c.DPoPKey, err = client.LoadKey(filepath.Join(t.dir, "dpop.key"), "P-256"); err != nil {
			return nil, fmt.Errorf("the DPoP key: %w", err)
		}
	}
	return client.NewTokenSource(c)
}

// withSecret fills in a client that has a secret and no identity, and whom it trusts.
func (a *app) withSecret(c *client.TokenConfig, t *tokenFlags) error {
	if t.secret == "" {
		return usagef("name the file with the client's secret: --secret-file FILE, or - for stdin")
	}
	text, err := readInput(t.secret, a.stdin)
	if err != nil {
		return err
	}
	c.ClientID, c.Secret, c.Issuer = t.clientID, strings.TrimSpace(string(text)), t.issuer
	if c.Secret == "" {
		return fmt.Errorf("%s is empty", t.secret)
	}
	if t.issuer == "" {
		id, err := a.trusted()
		if err != nil {
			return fmt.Errorf("whose token? name the --issuer: %w", err)
		}
		c.Issuer, c.Roots = id.Info().URLs.Public, id.Roots()
	}
	if t.root != "" {
		root, err := readCertificate(t.root, a.stdin)
		if err != nil {
			return err
		}
		c.Roots = x509.NewCertPool()
		c.Roots.AddCert(root)
	}
	return nil
}

func (a *app) tokenCommand() *cobra.Command {
	var t tokenFlags
	cmd := &cobra.Command{
		Use: "token", Short: "print a bound access token, as the token endpoint answers (JSON)", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			source, err := a.source(cmd, &t)
			if err != nil {
				return err
			}
			token, err := source.Token(cmd.Context())
			if err != nil {
				return err
			}
			return a.printJSON(token)
		},
	}
	t.add(cmd)
	return cmd
}

func (a *app) callCommand() *cobra.Command {
	var t tokenFlags
	var data string
	var headers []string
	cmd := &cobra.Command{
		Use: "call METHOD URL", Short: "call a resource server with a bound token, and print its answer", Args: exactly("METHOD", "URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := a.request(cmd, args[0], args[1], data, headers)
			if err != nil {
				return err
			}
			source, err := a.source(cmd, &t)
			if err != nil {
				return err
			}
			resp, err := source.Client().Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			a.note("%s %s", resp.Proto, printable(resp.Status))
			if _, err := io.Copy(a.stdout, resp.Body); err != nil {
				return fmt.Errorf("reading the answer: %w", err)
			}
			if resp.StatusCode < http.StatusBadRequest {
				return nil
			}
			for _, challenge := range resp.Header.Values("WWW-Authenticate") {
				a.note("WWW-Authenticate: %s", printable(challenge))
			}
			return fmt.Errorf("%s refused with %s", req.URL.Host, printable(resp.Status))
		},
	}
	t.add(cmd)
	cmd.Flags().StringVar(&data, "data", "", "body: a text, @FILE, or @- for stdin")
	cmd.Flags().StringArrayVar(&headers, "header", nil, `header, "Name: value"; repeatable`)
	return cmd
}

func (a *app) request(cmd *cobra.Command, method, target, data string, headers []string) (*http.Request, error) {
	body := []byte(data)
	if name, ok := strings.CutPrefix(data, "@"); ok {
		var err error
		if body, err = readInput(name, a.stdin); err != nil && !errors.Is(err, errEmptyStdin) {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(cmd.Context(), strings.ToUpper(method), target, bytes.NewReader(body))
	if err != nil {
		return nil, usageError{err}
	}
	if req.URL.Scheme != "https" || req.URL.Host == "" {
		return nil, usagef("%q is no https URL", target)
	}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return nil, usagef(`header %q is not "Name: value"`, h)
		}
		req.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return req, nil
}
