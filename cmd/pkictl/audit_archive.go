package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
)

func (a *app) auditArchiveCommand() *cobra.Command {
	var from evidence
	var out, before string
	var yes bool
	cmd := &cobra.Command{
		Use: "archive", Short: "move the oldest audit entries, up to a checkpoint, into a file", Args: exactly(),
		Long: "Write the oldest entries of the audit log, up to the newest checkpoint, to a new file, as lines of JSON and\n" +
			"compressed if its name ends in .gz. They are checked when they are read, and the file is read again and checked;\n" +
			"only then does the CA drop them. `pkictl audit verify --archive FILE` goes on from the file to what the CA has.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" || len(from.checkpoints) == 0 {
				return usagef("want --out and --checkpoints")
			}
			until, err := parseAgo(before, time.Now())
			if err != nil {
				return err
			}
			if err := a.mustConfirm(yes, "dropping entries of the audit log cannot be undone: say --yes"); err != nil {
				return err
			}
			checkpoints, err := from.read()
			if err != nil {
				return err
			}
			return a.archiveAudit(cmd.Context(), out, checkpoints, until, yes)
		},
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", "", "file to write, which must not exist")
	f.StringVar(&before, "before", "", "archive up to a checkpoint that was signed before this time (2006-01-02 or RFC 3339) or so long ago (8760h, 365d)")
	f.BoolVar(&yes, "yes", false, "do not ask")
	from.flags(cmd)
	return cmd
}

func (a *app) archiveAudit(ctx context.Context, out string, checkpoints []audit.Checkpoint, until time.Time, yes bool) error {
	api, err := a.api(ctx)
	if err != nil {
		return err
	}
	base, err := auditBase(ctx, api)
	if err != nil {
		return err
	}
	last, marks := upTo(checkpoints, base, func(c audit.Checkpoint) bool { return until.IsZero() || c.Time.Before(until) })
	if last.Seq == 0 {
		return fmt.Errorf("no checkpoint names an entry after %d, where the CA's log begins: there is nothing to archive", base.Seq)
	}
	if err := writeArchive(ctx, api, out, base, last, marks); err != nil {
		return err
	}
	if err := checkArchive(out, base, last, marks); err != nil {
		return fmt.Errorf("reading %s again: %w", out, err)
	}
	a.note("%s has entries %d to %d, and was checked", out, base.Seq+1, last.Seq)
	if !yes {
		if err := a.confirm(fmt.Sprintf("have the CA drop entries %d to %d", base.Seq+1, last.Seq), "nothing was dropped"); err != nil {
			return err
		}
	}
	now, err := api.ArchivedAudit(ctx, client.AuditHead{Seq: last.Seq, Hash: last.Hash.String()})
	if err != nil {
		return doing(err, "dropping what was archived; the file is whole")
	}
	a.note("the CA's log begins with entry %d now", now.Seq+1)
	_, err = fmt.Fprintf(a.stdout, "%d:%s\n", last.Seq, last.Hash)
	return err
}

// writeArchive writes the entries after base up to a checkpoint into a new file, which is durable when it returns, or
// gone if it fails.
func writeArchive(ctx context.Context, api *client.API, out string, base audit.Head, last audit.Checkpoint, marks []audit.Checkpoint) (err error) {
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			err = errors.Join(err, os.Remove(out))
		} else if dir, e := os.Open(filepath.Dir(out)); e == nil {
			_ = dir.Sync() // the name; not every system has this
			_ = dir.Close()
		}
	}()
	buffered := bufio.NewWriter(f)
	var w io.Writer = buffered
	if strings.HasSuffix(out, ".gz") {
		zipped := gzip.NewWriter(buffered)
		defer func() { err = errors.Join(err, zipped.Close(), buffered.Flush()) }()
		w = zipped
	} else {
		defer func() { err = errors.Join(err, buffered.Flush()) }()
	}
	v, err := audit.NewVerifier(base, marks)
	if err != nil {
		return err
	}
	var line []byte
	for e, err := range auditEntries(api.Audit(ctx, base.Seq)) {
		if err != nil {
			return err
		}
		if err := v.Add(e); err != nil {
			return err
		}
		if line, err = audit.AppendLine(line[:0], e); err != nil {
			return err
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
		if e.Seq == last.Seq {
			return nil
		}
	}
	return v.End()
}

// checkArchive reads what was written.
func checkArchive(path string, base audit.Head, last audit.Checkpoint, marks []audit.Checkpoint) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	v, err := audit.NewVerifier(base, marks)
	if err != nil {
		return err
	}
	for e, err := range audit.ReadLines(f) {
		if err == nil {
			err = v.Add(e)
		}
		if err != nil {
			return err
		}
	}
	if v.Head() != last.Head {
		return fmt.Errorf("it ends with entry %d, not %d", v.Head().Seq, last.Seq)
	}
	return v.End()
}
