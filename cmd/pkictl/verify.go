package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/tokenbind"
)

// verifyFlags describe the request that a resource server would have seen.
type verifyFlags struct {
	client.Presented

	cert, at, issuer string
	scopes           scopeList
}

func (a *app) verifyCommand() *cobra.Command {
	var v verifyFlags
	cmd := &cobra.Command{
		Use: "verify --token T", Short: "check a token, and what binds it, as a resource server would, and show every check", Args: exactly(),
		Long: "Check a token, and what binds it, as a resource server would, and show every check.\n" +
			"An operator has the CA check, which knows what it issued, renewed, disabled and revoked. Everybody else, and whoever\n" +
			"names another issuer, has it done here, from what the issuer publishes.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if v.Token == "" {
				return usagef("name the token with --token")
			}
			found, err := a.explain(cmd.Context(), &v)
			if err != nil {
				return err
			}
			return a.printExplanation(found)
		},
	}
	f := cmd.Flags()
	f.StringVar(&v.Token, "token", "", "the access token, - for stdin, where it may stand in the answer of 'pkictl token'")
	f.StringVar(&v.cert, "cert", "", "file with the certificate that the client showed")
	f.StringVar(&v.Proof, "proof", "", "the DPoP header")
	f.StringVar(&v.Method, "method", http.MethodGet, "of the request")
	f.StringVar(&v.URL, "url", "", "of the request (default: the audience)")
	f.StringVar(&v.issuer, "issuer", "", "who must have issued the token (default: the CA of --home)")
	f.StringVar(&v.Audience, "audience", "", "whom the token must be for (default: whom it says)")
	f.Var(&v.scopes, "scope", "scope that the token must have; repeatable")
	f.StringVar(&v.at, "at", "", "when it was presented, such as 2026-01-02T15:04:05Z: what the clock is taken to say (default: now)")
	a.jsonFlag(cmd)
	return cmd
}

// complete reads what the flags point to.
func (a *app) complete(v *verifyFlags) (err error) {
	if v.Token == "-" {
		text, err := readInput("-", a.stdin)
		if err != nil {
			return err
		}
		v.Token = tokenIn(text)
	}
	v.Scopes = v.scopes
	if v.at != "" {
		if v.At, err = time.Parse(time.RFC3339, v.at); err != nil {
			return usagef("--at %q is no instant such as 2026-01-02T15:04:05Z", v.at)
		}
	}
	if v.cert != "" {
		cert, err := readCertificate(v.cert, a.stdin)
		if err != nil {
			return err
		}
		v.Certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	named := v.Audience != ""
	if err := v.Complete(); err != nil {
		return usageError{err}
	}
	if !named {
		a.note("taking the token's word for its audience, %s: name yours with --audience", printable(v.Audience))
	}
	return nil
}

// tokenIn is the token itself, or that of a token endpoint's answer, as `pkictl token` prints it.
func tokenIn(text []byte) string {
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(text, &answer); err == nil && answer.Token != "" {
		return answer.Token
	}
	return strings.TrimSpace(string(text))
}

// explain asks the CA if the home is an operator's and no other issuer is named, and looks for itself otherwise.
func (a *app) explain(ctx context.Context, v *verifyFlags) (*client.Explanation, error) {
	id, err := a.trusted()
	if err != nil {
		return nil, err
	}
	if err := a.complete(v); err != nil {
		return nil, err
	}
	if own := id.Info().URLs.Public; v.issuer == "" || v.issuer == own {
		v.issuer = own
		found, err := id.API().Explain(ctx, v.Presented)
		if p, refused := errors.AsType[*client.Problem](err); !refused || p.Status != http.StatusForbidden {
			return found, err
		}
	}
	return a.explainHere(ctx, id, v)
}

// explainHere knows what the issuer publishes: its keys, and of its own CA the CRLs.
func (a *app) explainHere(ctx context.Context, id *client.Identity, v *verifyFlags) (*client.Explanation, error) {
	req, err := v.Request(ctx)
	if err != nil {
		return nil, usageError{err}
	}
	conf := tokenbind.Config{
		Issuer: v.issuer, Audience: v.Audience, RequiredScopes: v.Scopes,
		BaseURL: "https://" + req.URL.Host, Logger: slog.New(slog.DiscardHandler),
		HTTPClient: trusting(id.Roots()), Replay: firstProofs{tokenbind.NewMemoryReplay(1, nil)},
	}
	if !v.At.IsZero() {
		conf.Now = func() time.Time { return v.At }
	}
	if v.cert != "" {
		if conf.Revocation, err = statusChecker(ctx, id); err != nil {
			return nil, err
		}
	}
	verifier, err := tokenbind.NewVerifier(conf)
	if err != nil {
		return nil, err
	}
	return client.Explained(verifier.Explain(req)), nil
}

// trusting returns an HTTP client for servers that these roots vouch for.
func trusting(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: tokenbind.CipherSuites(), RootCAs: roots},
			TLSHandshakeTimeout: 10 * time.Second,
			ForceAttemptHTTP2:   true,
		},
	}
}

func (a *app) printExplanation(e *client.Explanation) error {
	if a.json {
		if err := a.printJSON(e); err != nil {
			return err
		}
	} else {
		for _, c := range e.Checks {
			a.printCheck(c)
		}
	}
	switch {
	case e.Accepted:
		return nil
	case e.Cause == "":
		return errors.New("a resource server would refuse this")
	}
	return fmt.Errorf("a resource server would refuse this; the likely cause: %s", printable(e.Cause))
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
