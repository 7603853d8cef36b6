package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
)

// tokenFlags are the flags of what uses an identity to get tokens.
type tokenFlags struct {
	dir      string
	scopes   []string
	resource string
	dpop     bool
}

func (t *tokenFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&t.dir, "dir", ".", "directory of the identity")
	f.StringArrayVar(&t.scopes, "scope", nil, "scope to ask for; repeatable")
	f.StringVar(&t.resource, "resource", "", "resource to ask for (RFC 8707)")
	f.BoolVar(&t.dpop, "dpop", false, "bind the token to the DPoP key in DIR/dpop.key too, which is made if missing")
}

func (t *tokenFlags) source() (*client.TokenSource, error) {
	id, err := client.Load(t.dir)
	if err != nil {
		return nil, err
	}
	c := client.TokenConfig{Identity: id, Resource: t.resource}
	for _, s := range t.scopes {
		c.Scopes = append(c.Scopes, strings.Fields(s)...)
	}
	if t.dpop {
		if c.DPoPKey, err = client.LoadKey(filepath.Join(t.dir, "dpop.key"), "P-256"); err != nil {
			return nil, err
		}
	}
	return client.NewTokenSource(c)
}

func (a *app) tokenCommand() *cobra.Command {
	var t tokenFlags
	cmd := &cobra.Command{
		Use: "token", Short: "print a bound access token, as the token endpoint answers (JSON)", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			source, err := t.source()
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
			source, err := t.source()
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
		if body, err = readInput(name, a.stdin); err != nil {
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
