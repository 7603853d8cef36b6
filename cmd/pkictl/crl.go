package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
)

func (a *app) crlCommand() *cobra.Command {
	return a.group("crl", "fetch, read and ask the certificate revocation list, and keep it in a file", a.crlFetchCommand(), a.crlShowCommand(), a.crlCheckCommand(), a.crlSyncCommand())
}

// issuer is an issuing CA whose certificate the root signed.
type issuer struct {
	id   string
	cert *x509.Certificate
	url  string            // of its first CRL
	crls map[uint32]string // the URLs of those that are published, by shard
	all  bool              // the CRL speaks of every certificate, whatever it names
	late time.Time         // since when one of them should have been published and is not; zero if none is missing
}

// issuers asks the CA for its issuing CAs, and takes the root's word for them.
func issuers(ctx context.Context, id *client.Identity) ([]issuer, error) {
	ca, err := id.API().CA(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking for the issuing CAs: %w", err)
	}
	certs, err := ca.VerifiedIssuers(id.TrustedRoots()...)
	if err != nil {
		return nil, err
	}
	var out []issuer
	for _, cert := range certs {
		i := ca.IssuerOf(cert)
		out = append(out, issuer{i.ID, cert, i.CRL, i.CRLs(), i.WholeCRL, i.CRLLateSince})
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
		p := crl.Point{Issuer: i.cert, URL: i.url}
		if i.all {
			p.URL, p.From = "", i.url
		}
		c.Points = append(c.Points, p)
	}
	return crl.NewChecker(c)
}

// fetchedCRL is one of the issuer's CRLs.
type fetchedCRL struct {
	*crl.List
	der  []byte
	late time.Time // as issuer.late
}

// everyShard is --shard's default.
const everyShard = -1

// whichCRLs are those that a command is about.
type whichCRLs struct {
	issuer string // id; all if empty
	shard  int64
}

func (w *whichCRLs) flags(cmd *cobra.Command) {
	cmd.Flags().Int64Var(&w.shard, "shard", everyShard, "the CRL of this shard alone, 0 for the first; all of them by default")
	cmd.Flags().StringVar(&w.issuer, "issuer", "", "the CRLs of the issuing CA with this id alone; those of all by default")
}

func (w whichCRLs) String() string {
	text := "no CRL"
	if w.shard != everyShard {
		text = fmt.Sprintf("no shard %d", w.shard)
	}
	if w.issuer != "" {
		text += " of issuing CA " + w.issuer
	}
	return text + " is published"
}

// fetchCRLs returns the newest CRLs of the CA's issuers, verified: the one that signs certificates now first, and those
// of each in the order of their shards.
func (a *app) fetchCRLs(ctx context.Context, which whichCRLs) ([]fetchedCRL, error) {
	id, err := a.trusted()
	if err != nil {
		return nil, err
	}
	all, err := issuers(ctx, id)
	if err != nil {
		return nil, err
	}
	var lists []fetchedCRL
	for _, i := range all {
		if !i.late.IsZero() {
			a.note("WARNING: the CA could not publish a CRL that was due at %s: what was revoked since is on none; /readyz and the log say why", stamp(i.late))
		}
		for _, n := range slices.Sorted(maps.Keys(i.crls)) {
			if which.issuer != "" && which.issuer != i.id || which.shard != everyShard && which.shard != int64(n) {
				continue
			}
			list, err := i.fetch(ctx, n)
			if err != nil {
				return nil, err
			}
			lists = append(lists, list)
		}
	}
	if len(lists) == 0 {
		var there []string
		for _, i := range all {
			there = append(there, fmt.Sprintf("%d of %s", slices.Sorted(maps.Keys(i.crls)), i.id))
		}
		return nil, fmt.Errorf("%s: there are %s", which, strings.Join(there, ", "))
	}
	return lists, nil
}

// fetch returns the newest CRL of a shard.
func (i *issuer) fetch(ctx context.Context, shard uint32) (fetchedCRL, error) {
	der, err := download(ctx, i.crls[shard])
	if err != nil {
		return fetchedCRL{}, err
	}
	point := i.crls[shard]
	if i.all {
		point = ""
	}
	list, err := crl.ParseAndVerify(der, i.cert, point, time.Now())
	return fetchedCRL{list, der, i.late}, err
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
	var inPEM bool
	cmd := &cobra.Command{
		Use: "fetch", Short: "fetch the newest CRL, verify it, and write it", Args: exactly(),
		Long: "Fetch the newest CRL, verify it, and write it: as DER, or as PEM with --pem.\n" +
			"If the CA has several, of several issuing CAs or shards, --issuer and --shard choose one, and --pem alone writes all of\n" +
			"them one after the other, as openssl and nginx read them from one file.",
	}
	var which whichCRLs
	which.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		lists, err := a.fetchCRLs(cmd.Context(), which)
		if err != nil {
			return fmt.Errorf("fetching the CRL: %w", err)
		}
		if len(lists) > 1 && !inPEM {
			return usagef("there are %d CRLs: choose one with --issuer and --shard, or write all of them with --pem", len(lists))
		}
		var content []byte
		for _, l := range lists {
			a.note("CRL %d of %s, good until %s, %d revoked", l.Number, stamp(l.ThisUpdate), stamp(l.NextUpdate), l.Len())
			if inPEM {
				content = append(content, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: l.der})...)
			} else {
				content = l.der
			}
		}
		if out == "-" {
			_, err := a.stdout.Write(content)
			return err
		}
		return os.WriteFile(out, content, 0o644) //nolint:gosec // public
	}
	cmd.Flags().StringVar(&out, "out", "-", "file to write to, - for stdout")
	cmd.Flags().BoolVar(&inPEM, "pem", false, "write PEM")
	return cmd
}

// shownCRL is the result of crl show.
type shownCRL struct {
	Number     uint64       `json:"number"`
	ThisUpdate time.Time    `json:"this_update"`
	NextUpdate time.Time    `json:"next_update"`
	URL        string       `json:"url,omitempty"`
	LateSince  time.Time    `json:"late_since,omitzero"` // since when a CRL of its issuer should have been published and is not
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
		Long: "Fetch the newest CRL, verify it, and show what is on it. If the CA has several, of several issuing CAs or shards, each is shown:\n" +
			"with --json as an object of its own.",
	}
	var which whichCRLs
	which.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		lists, err := a.fetchCRLs(cmd.Context(), which)
		if err != nil {
			return fmt.Errorf("fetching the CRL: %w", err)
		}
		for _, l := range lists {
			if err := a.showCRL(l); err != nil {
				return err
			}
		}
		return nil
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) showCRL(list fetchedCRL) error {
	s := shownCRL{LateSince: list.late, Number: list.Number, ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate, URL: list.URL, Revoked: []shownEntry{}}
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
}
