package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
)

func (a *app) crlCommand() *cobra.Command {
	return a.group("crl", "fetch, read and ask the certificate revocation list", a.crlFetchCommand(), a.crlShowCommand(), a.crlCheckCommand())
}

// issuer is an issuing CA whose certificate the root signed.
type issuer struct {
	cert *x509.Certificate
	url  string // of its CRL
}

// issuers asks the CA for its issuing CAs, and takes the root's word for them.
func issuers(ctx context.Context, id *client.Identity) ([]issuer, error) {
	ca, err := id.API().CA(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking for the issuing CAs: %w", err)
	}
	certs, err := ca.VerifiedIssuers(id.Root())
	if err != nil {
		return nil, err
	}
	var out []issuer
	for i, cert := range certs {
		out = append(out, issuer{cert, ca.Issuers[i].CRL})
	}
	return out, nil
}

// statusChecker knows the revocation status of the CA's certificates.
func statusChecker(ctx context.Context, id *client.Identity) (*crl.Checker, error) {
	all, err := issuers(ctx, id)
	if err != nil {
		return nil, err
	}
	c := crl.CheckerConfig{Logger: slog.New(slog.DiscardHandler)}
	for _, i := range all {
		c.Issuers = append(c.Issuers, i.cert)
		c.Points = append(c.Points, crl.Point{Issuer: i.cert, URL: i.url})
	}
	return crl.NewChecker(c)
}

// fetchCRL returns the newest CRL of the CA's issuer, verified.
func (a *app) fetchCRL(ctx context.Context) ([]byte, *crl.List, error) {
	id, err := a.trusted()
	if err != nil {
		return nil, nil, err
	}
	all, err := issuers(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	der, err := download(ctx, all[0].url)
	if err != nil {
		return nil, nil, err
	}
	list, err := crl.ParseAndVerify(der, all[0].cert, all[0].url, time.Now())
	return der, list, err
}

func download(ctx context.Context, url string) ([]byte, error) {
	const maxCRL = 256 << 20
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", url, resp.Status)
	}
	der, err := io.ReadAll(io.LimitReader(resp.Body, maxCRL+1))
	if err == nil && len(der) > maxCRL {
		err = fmt.Errorf("%s is larger than %d octets", url, maxCRL)
	}
	return der, err
}

func (a *app) crlFetchCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "fetch", Short: "fetch the newest CRL, verify it, and write it (DER)", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			der, list, err := a.fetchCRL(cmd.Context())
			if err != nil {
				return fmt.Errorf("fetching the CRL: %w", err)
			}
			a.note("CRL %d of %s, good until %s, %d revoked", list.Number, stamp(list.ThisUpdate), stamp(list.NextUpdate), list.Len())
			if out == "-" {
				_, err := a.stdout.Write(der)
				return err
			}
			return os.WriteFile(out, der, 0o644) //nolint:gosec // public
		},
	}
	cmd.Flags().StringVar(&out, "out", "-", "file to write to, - for stdout")
	return cmd
}

// shownCRL is the result of crl show.
type shownCRL struct {
	Number     uint64       `json:"number"`
	ThisUpdate time.Time    `json:"this_update"`
	NextUpdate time.Time    `json:"next_update"`
	URL        string       `json:"url,omitempty"`
	Revoked    []shownEntry `json:"revoked"`
}

type shownEntry struct {
	Serial string    `json:"serial"`
	At     time.Time `json:"revoked_at"`
	Reason string    `json:"revocation_reason"`
}

func (a *app) crlShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show", Short: "fetch the newest CRL, verify it, and show what is on it", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, list, err := a.fetchCRL(cmd.Context())
			if err != nil {
				return fmt.Errorf("fetching the CRL: %w", err)
			}
			s := shownCRL{Number: list.Number, ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate, URL: list.URL, Revoked: []shownEntry{}}
			for e := range list.All() {
				s.Revoked = append(s.Revoked, shownEntry{hex.EncodeToString(e.Serial), e.At, crl.ReasonName(e.Reason)})
			}
			if a.json {
				return a.printJSON(s)
			}
			if err := a.printFields(field{"number", fmt.Sprint(s.Number)}, field{"this update", stamp(s.ThisUpdate)},
				field{"next update", stamp(s.NextUpdate)}, field{"distribution point", s.URL}, field{"revoked", fmt.Sprint(len(s.Revoked))}); err != nil {
				return err
			}
			for _, e := range s.Revoked {
				fmt.Fprintf(a.stdout, "  %s  %s  %s\n", e.Serial, stamp(e.At), e.Reason)
			}
			return nil
		},
	}
	a.jsonFlag(cmd)
	return cmd
}
