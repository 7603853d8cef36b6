package main

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/thumbprint"
)

func (a *app) listCommand() *cobra.Command {
	var f client.CertificateFilter
	var before, format string
	cmd := &cobra.Command{
		Use: "list", Short: "list certificates", Args: exactly(),
		Long: "List certificates, the newest first. With --expires-before the list begins with what expires first, and\n" +
			"unless --status asks for something else, it is of active certificates that were not renewed yet.",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if f.ExpiresBefore, err = parseWhen(before, time.Now()); err != nil {
				return err
			}
			if _, err := thumbprint.ParseCert(f.Thumbprint); f.Thumbprint != "" && err != nil {
				return usagef("--%w", err) // "thumbprint: ..."
			}
			if a.json {
				if cmd.Flags().Changed("format") && format != "ndjson" {
					return usagef("--json is --format ndjson, not %s", format)
				}
				format = "ndjson"
			}
			sheet, err := newSheet(format, a.stdout)
			if err != nil {
				return err
			}
			api, err := a.api(cmd.Context())
			if err != nil {
				return err
			}
			list := func(f client.CertificateFilter) iter.Seq2[client.Certificate, error] {
				return api.Certificates(cmd.Context(), f)
			}
			if before != "" {
				return a.printSheet(sheet, a.expiring(list, f))
			}
			return a.printSheet(sheet, list(f))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Client, "client", "", "of this client")
	flags.StringVar(&f.Name, "name", "", "with this name")
	flags.StringVar(&f.Thumbprint, "thumbprint", "", "with this x5t#S256")
	flags.StringVar(&f.Status, "status", "", "active, held, revoked or expired")
	flags.StringVar(&f.Profile, "profile", "", "of this profile")
	flags.StringVar(&before, "expires-before", "", "expiring before a time (2006-01-02 or RFC 3339) or within a duration (72h, 7d)")
	flags.StringVar(&format, "format", "table", strings.Join(formats, ", "))
	a.jsonLinesFlag(cmd)
	return cmd
}

func (a *app) printSheet(s sheet, rows iter.Seq2[client.Certificate, error]) error {
	found := false
	for c, err := range rows {
		if err != nil {
			return doing(errors.Join(err, s.end()), "listing certificates")
		}
		found = true
		if err := s.row(c); err != nil {
			return err
		}
	}
	if !found {
		a.note("no certificates match")
	}
	return s.end()
}

// lister asks the CA for the certificates that pass a filter.
type lister func(client.CertificateFilter) iter.Seq2[client.Certificate, error]

// maxSorted bounds how many certificates are kept to be sorted.
const maxSorted = 10_000

// expiring yields what f lets through, what expires first at the beginning. Without a status in f it yields
// active certificates that were not renewed. What is too much to be sorted is yielded as it comes.
func (a *app) expiring(list lister, f client.CertificateFilter) iter.Seq2[client.Certificate, error] {
	pending := f.Status == ""
	if pending {
		f.Status = "active"
	}
	return func(yield func(client.Certificate, error) bool) {
		var found []client.Certificate
		all := list(f)
		for c, err := range all {
			if err != nil {
				yield(client.Certificate{}, err)
				return
			}
			if len(found) == maxSorted {
				a.note("more than %d certificates match: they are not sorted, and some were renewed already", maxSorted)
				all(yield)
				return
			}
			found = append(found, c)
		}
		if pending {
			renewed, err := renewedOf(list, found)
			if err != nil {
				yield(client.Certificate{}, err)
				return
			}
			found = slices.DeleteFunc(found, func(c client.Certificate) bool { return renewed[c.Serial] })
		}
		slices.SortStableFunc(found, func(a, b client.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
		for _, c := range found {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// renewedOf returns the serials that active certificates renew, as far as they matter for certs. A successor
// may expire too late to be among certs itself, so the clients' other certificates are looked at, but only for
// a certificate in the second half of its life: before that none is renewed but by hand.
func renewedOf(list lister, certs []client.Certificate) (map[string]bool, error) {
	renewed, asked := map[string]bool{}, map[string]bool{}
	for _, c := range certs {
		renewed[c.Renews] = true
	}
	for _, c := range certs {
		half := c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2)
		if renewed[c.Serial] || asked[c.ClientID] || time.Now().Before(half) {
			continue
		}
		asked[c.ClientID] = true
		for other, err := range list(client.CertificateFilter{Client: c.ClientID, Status: "active"}) {
			if err != nil {
				return nil, err
			}
			renewed[other.Renews] = true
		}
	}
	return renewed, nil
}

// parseWhen reads a time, or a duration from now; an empty text is the zero time.
func parseWhen(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return t, nil
	}
	if d, err := parseDuration(text); err == nil {
		return now.Add(d), nil
	}
	return time.Time{}, usagef("%q is no time (2006-01-02 or RFC 3339) and no duration (72h, 7d)", text)
}

// parseDuration is time.ParseDuration that also knows days, as in 7d, and refuses what is negative.
func parseDuration(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16) // more would not fit into a Duration
		return time.Duration(n) * 24 * time.Hour, err
	}
	d, err := time.ParseDuration(text)
	if err == nil && d < 0 {
		err = fmt.Errorf("%q is negative", text)
	}
	return d, err
}

// durationText puts a flag's duration into the form that the CA reads; empty stays empty.
func durationText(flag, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	d, err := parseDuration(text)
	if err != nil {
		return "", usagef("--%s: %q is no duration (90m, 12h, 7d)", flag, text)
	}
	return d.String(), nil
}
