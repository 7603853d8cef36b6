package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/internal/audit"
)

// auditFilter says which entries are listed.
type auditFilter struct {
	actor, action, subject string
	since, until           time.Time
}

func (f *auditFilter) passes(e *audit.Entry) bool {
	return (f.actor == "" || e.Actor == f.actor) &&
		(f.action == "" || e.Action == f.action || strings.HasPrefix(e.Action, f.action+".")) &&
		(f.subject == "" || e.Subject == f.subject) &&
		(f.since.IsZero() || !e.Time.Before(f.since)) && (f.until.IsZero() || e.Time.Before(f.until))
}

func (a *app) auditListCommand() *cobra.Command {
	var f auditFilter
	var since, until, file string
	var after, last uint64
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "list entries of the audit log, the oldest first", Args: exactly(),
		Long: "List entries of the audit log that pass every filter, the oldest first. It checks nothing; pkictl audit verify does.",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			now := time.Now()
			if f.since, err = parseAgo(since, now); err != nil {
				return err
			}
			if f.until, err = parseAgo(until, now); err != nil {
				return err
			}
			if limit < 0 || cmd.Flags().Changed("after") && cmd.Flags().Changed("last") {
				return usagef("--limit is not negative, and --after excludes --last")
			}
			entries, err := a.readAudit(cmd.Context(), file, after, last)
			if err != nil {
				return err
			}
			return a.printAudit(entries, &f, limit)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.actor, "actor", "", "by this operator or client")
	flags.StringVar(&f.action, "action", "", "this act (certificate.revoke), or all of a kind (certificate)")
	flags.StringVar(&f.subject, "subject", "", "done to this serial, client or invitation")
	flags.StringVar(&since, "since", "", "from this time (2006-01-02 or RFC 3339), or this long ago (72h, 7d)")
	flags.StringVar(&until, "until", "", "before this time, or this long ago")
	flags.Uint64Var(&after, "after", 0, "after the entry of this number: the last one of the page before")
	flags.Uint64Var(&last, "last", 0, "among so many of the newest entries")
	flags.IntVar(&limit, "limit", 0, "stop after so many (default all)")
	flags.StringVar(&file, "archive", "", "of this file of archived or exported entries, and not the CA's")
	a.jsonLinesFlag(cmd)
	return cmd
}

// parseAgo reads a time, or how long ago it was; an empty text is the zero time.
func parseAgo(text string, now time.Time) (time.Time, error) {
	if d, err := parseDuration(text); text != "" && err == nil {
		return now.Add(-d), nil
	}
	return parseWhen(text, now)
}

// readAudit yields entries of a file, or of the CA if that is empty.
func (a *app) readAudit(ctx context.Context, file string, after, last uint64) (iter.Seq2[audit.Entry, error], error) {
	if file != "" {
		if last > 0 {
			return nil, usagef("--archive excludes --last")
		}
		return fileEntries(file, after), nil
	}
	api, err := a.api(ctx)
	if err != nil {
		return nil, err
	}
	if last > 0 {
		_, head, err := api.AuditEnds(ctx)
		if err != nil {
			return nil, doing(err, "reading the audit log")
		}
		after = head.Seq - min(last, head.Seq)
	}
	return auditEntries(api.Audit(ctx, after)), nil
}

func fileEntries(path string, after uint64) iter.Seq2[audit.Entry, error] {
	return func(yield func(audit.Entry, error) bool) {
		f, err := os.Open(path)
		if err != nil {
			yield(audit.Entry{}, err)
			return
		}
		defer f.Close()
		for e, err := range audit.ReadLines(f) {
			if err != nil {
				yield(e, fmt.Errorf("%s: %w", path, err))
				return
			}
			if e.Seq > after && !yield(e, nil) {
				return
			}
		}
	}
}

func (a *app) printAudit(entries iter.Seq2[audit.Entry, error], f *auditFilter, limit int) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	n := 0
	for e, err := range entries {
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		if !f.passes(&e) {
			continue
		}
		if n++; a.json {
			line, err := audit.AppendLine(nil, e)
			if err != nil {
				return err
			}
			if _, err := a.stdout.Write(line); err != nil {
				return err
			}
		} else if _, err := fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", e.Seq, stamp(e.Time), printable(e.Actor), printable(e.Action), printable(e.Subject), details(&e)); err != nil {
			return err
		}
		if n%1000 == 0 {
			if err := w.Flush(); err != nil {
				return err
			}
		}
		if n == limit {
			break
		}
	}
	if n == 0 {
		a.note("no entries match")
	}
	return w.Flush()
}

// details are where an act came from, and what it was about, in the order of their names.
func details(e *audit.Entry) string {
	var all []string
	if e.Address != "" {
		all = append(all, "from="+e.Address)
	}
	if e.RequestID != "" {
		all = append(all, "request="+e.RequestID)
	}
	for _, k := range slices.Sorted(maps.Keys(e.Detail)) {
		all = append(all, k+"="+e.Detail[k])
	}
	return printable(strings.Join(all, " "))
}
