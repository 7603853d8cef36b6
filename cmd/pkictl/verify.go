package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/tokenbind"
)

// verifyFlags describe the request that a resource server would have seen.
type verifyFlags struct {
	token, cert, proof, method, url string
	issuer, audience                string
	scopes                          scopeList
}

func (a *app) verifyCommand() *cobra.Command {
	var v verifyFlags
	cmd := &cobra.Command{
		Use: "verify --token T", Short: "check a token, and what binds it, as a resource server would, and show every check", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if v.token == "" {
				return usagef("name the token with --token")
			}
			checks, err := a.explain(cmd.Context(), v)
			if err != nil {
				return err
			}
			return a.printChecks(checks)
		},
	}
	f := cmd.Flags()
	f.StringVar(&v.token, "token", "", "the access token, - for stdin")
	f.StringVar(&v.cert, "cert", "", "file with the certificate that the client showed")
	f.StringVar(&v.proof, "proof", "", "the DPoP header")
	f.StringVar(&v.method, "method", http.MethodGet, "of the request")
	f.StringVar(&v.url, "url", "https://localhost/", "of the request")
	f.StringVar(&v.issuer, "issuer", "", "who must have issued the token (default: the CA of --home)")
	f.StringVar(&v.audience, "audience", "", "whom the token must be for (default: whom it says)")
	f.Var(&v.scopes, "scope", "scope that the token must have; repeatable")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) explain(ctx context.Context, v verifyFlags) ([]tokenbind.Check, error) {
	id, err := a.trusted()
	if err != nil {
		return nil, err
	}
	if v.token == "-" {
		text, err := readInput("-", a.stdin)
		if err != nil {
			return nil, err
		}
		v.token = strings.TrimSpace(string(text))
	}
	if v.issuer == "" {
		v.issuer = id.Info().URLs.Public
	}
	if v.audience == "" {
		if v.audience = audienceOf(v.token); v.audience == "" {
			return nil, usagef("the token names no audience that can be read: name it with --audience")
		}
		a.note("taking the token's word for its audience, %s: name yours with --audience", printable(v.audience))
	}
	req, err := v.request(ctx)
	if err != nil {
		return nil, err
	}
	conf := tokenbind.Config{
		Issuer: v.issuer, Audience: v.audience, RequiredScopes: v.scopes,
		BaseURL: "https://" + req.URL.Host, Logger: slog.New(slog.DiscardHandler),
		HTTPClient: trusting(id.Roots()), Replay: firstProofs{tokenbind.NewMemoryReplay(1, nil)},
	}
	if v.cert != "" {
		cert, err := readCertificate(v.cert, a.stdin)
		if err != nil {
			return nil, err
		}
		req.TLS.PeerCertificates = []*x509.Certificate{cert}
		checker, err := statusChecker(ctx, id)
		if err != nil {
			return nil, err
		}
		conf.Revocation = checker
	}
	verifier, err := tokenbind.NewVerifier(conf)
	if err != nil {
		return nil, err
	}
	return verifier.Explain(req), nil
}

// request rebuilds the request. Its scheme follows from whether there is a proof.
func (v verifyFlags) request(ctx context.Context) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, v.method, v.url, nil)
	if err != nil {
		return nil, usageError{err}
	}
	if req.URL.Scheme != "https" || req.URL.Host == "" {
		return nil, usagef("--url %q is no https URL", v.url)
	}
	req.TLS = &tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13}
	req.Header.Set("Authorization", "Bearer "+v.token)
	if v.proof != "" {
		req.Header.Set("Authorization", "DPoP "+v.token)
		req.Header.Set("DPoP", v.proof)
	}
	return req, nil
}

// audienceOf reads the first audience of a token that was not verified.
func audienceOf(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var one struct {
		Audience string `json:"aud"`
	}
	if json.Unmarshal(payload, &one) == nil && one.Audience != "" {
		return one.Audience
	}
	var many struct {
		Audience []string `json:"aud"`
	}
	if json.Unmarshal(payload, &many) == nil && len(many.Audience) > 0 {
		return many.Audience[0]
	}
	return ""
}

// trusting returns an HTTP client for servers that these roots vouch for.
func trusting(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout: 10 * time.Second,
			ForceAttemptHTTP2:   true,
		},
	}
}

func (a *app) printChecks(checks []tokenbind.Check) error {
	failed := 0
	for _, c := range checks {
		if c.Result == tokenbind.Fail {
			failed++
		}
	}
	if a.json {
		if err := a.printJSON(checks); err != nil {
			return err
		}
	} else {
		for _, c := range checks {
			a.printCheck(c)
		}
	}
	if failed > 0 {
		return errors.New("a resource server would refuse this")
	}
	return nil
}

var marks = map[tokenbind.Result]string{tokenbind.Pass: "pass", tokenbind.Fail: "FAIL", tokenbind.NotApplicable: "  - "}

func (a *app) printCheck(c tokenbind.Check) {
	detail := c.Hint
	if c.Result == tokenbind.Pass {
		detail = c.Seen
	}
	fmt.Fprintf(a.stdout, "%s  %-24s  %-24s  %s\n", marks[c.Result], c.Name, c.Section, printable(detail))
	if c.Result == tokenbind.Fail {
		for _, f := range []field{{"seen", c.Seen}, {"wanted", c.Wanted}} {
			if f.value != "" {
				fmt.Fprintf(a.stdout, "      %-8s%s\n", f.name, printable(f.value))
			}
		}
	}
}
