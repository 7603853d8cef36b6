package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
)

func (a *app) auditVerifyCommand() *cobra.Command {
	var known string
	var from evidence
	var offline bool
	cmd := &cobra.Command{
		Use: "verify", Short: "read the audit log and check that nothing was removed, edited, reordered or cut off", Args: exactly(),
		Long: "Read the audit log from its start and check that each entry follows from the one before it. That alone does not\n" +
			"find a log that was cut short or written anew from some entry on. With checkpoints from where the CA cannot change\n" +
			"them it is found, up to the last checkpoint; so it is with --head, the head that an earlier run printed.\n" +
			"Archives and exports are read before what the CA still has, or with --offline alone.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			want, err := parseHead(known)
			if err != nil {
				return err
			}
			if offline && len(from.archives) == 0 {
				return usagef("--offline asks no CA: name a file with --archive")
			}
			checkpoints, err := from.read()
			if err != nil {
				return err
			}
			v, err := a.verifyAudit(cmd.Context(), &from, checkpoints, want, offline)
			if err != nil {
				return err
			}
			head := v.Head()
			if a.json {
				return a.printJSON(head)
			}
			a.note("%d entries up to %d, each follows from the one before it; %d of %d checkpoints name entries among them",
				v.entries, head.Seq, v.Matched(), len(checkpoints))
			_, err = fmt.Fprintf(a.stdout, "%d:%s\n", head.Seq, head.Hash)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&known, "head", "", "head that an earlier run printed, SEQ:HASH")
	f.BoolVar(&offline, "offline", false, "read archives only, and ask no CA")
	from.flags(cmd)
	f.StringArrayVar(&from.archives, "archive", nil, "file of archived or exported entries, compressed or not (repeatable, in their order)")
	a.jsonFlag(cmd)
	return cmd
}

// evidence is what a log is held against, and files that hold parts of it.
type evidence struct {
	checkpoints, keys, archives []string
}

func (e *evidence) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&e.checkpoints, "checkpoints", nil, "file of checkpoints (repeatable)")
	cmd.Flags().StringArrayVar(&e.keys, "key", nil, "public key that signed them: the CA's audit.pub (repeatable)")
}

// read returns the checkpoints, whose signatures it checks.
func (e *evidence) read() ([]audit.Checkpoint, error) {
	if len(e.checkpoints) > 0 && len(e.keys) == 0 {
		return nil, usagef("--checkpoints needs --key, the public key that signed them: keys/audit.pub of the CA's directory")
	}
	var keys []crypto.PublicKey
	for _, path := range e.keys {
		key, err := readPublicKey(path)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	var all []audit.Checkpoint
	for _, path := range e.checkpoints {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		some, err := audit.ReadCheckpoints(f, keys...)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, some...)
	}
	return all, nil
}

func readPublicKey(path string) (crypto.PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("%s: want a PEM block PUBLIC KEY", path)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// auditCheck checks entries as they come.
type auditCheck struct {
	*audit.Verifier
	want    audit.Head // that was noted earlier; zero if none was
	entries int
}

func (c *auditCheck) add(e audit.Entry) error {
	if err := c.Add(e); err != nil {
		return err
	}
	c.entries++
	if e.Seq == c.want.Seq && e.Hash != c.want.Hash {
		return fmt.Errorf("entry %d is not the one that was noted: the log was written anew", e.Seq)
	}
	return nil
}

// verifyAudit reads what there is of the log, from its oldest entry on.
func (a *app) verifyAudit(ctx context.Context, from *evidence, checkpoints []audit.Checkpoint, want audit.Head, offline bool) (*auditCheck, error) {
	c := &auditCheck{want: want}
	for _, path := range from.archives {
		if err := c.archive(path, checkpoints); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	if !offline {
		if err := a.verifyLive(ctx, c, checkpoints); err != nil {
			return nil, err
		}
	}
	if head := c.Head(); head.Seq < want.Seq {
		return nil, fmt.Errorf("the log ends at entry %d, before the noted %d: it was cut short", head.Seq, want.Seq)
	}
	return c, c.End()
}

// archive adds a file's entries. One that begins with entries that were added already, as an export does that was begun
// anew, must go on from the last one of these.
func (c *auditCheck) archive(path string, checkpoints []audit.Checkpoint) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for e, err := range audit.ReadLines(f) {
		if err != nil {
			return err
		}
		if c.Verifier == nil {
			if c.Verifier, err = audit.NewVerifier(audit.Head{Seq: e.Seq - 1, Hash: e.Prev}, checkpoints); err != nil {
				return err
			}
		}
		if head := c.Head(); e.Seq < head.Seq || e.Head() == head {
			continue
		}
		if err := c.add(e); err != nil {
			return err
		}
	}
	if c.Verifier == nil {
		return errors.New("it has no entry")
	}
	return nil
}

func (a *app) verifyLive(ctx context.Context, c *auditCheck, checkpoints []audit.Checkpoint) error {
	api, err := a.api(ctx)
	if err != nil {
		return err
	}
	if c.Verifier == nil {
		base, err := auditBase(ctx, api)
		if err != nil {
			return err
		}
		if base.Seq > 0 {
			a.note("entries 1 to %d were archived and are not checked: name their files with --archive", base.Seq)
		}
		if c.Verifier, err = audit.NewVerifier(base, checkpoints); err != nil {
			return err
		}
	}
	for e, err := range auditEntries(api.Audit(ctx, c.Head().Seq)) {
		if err == nil {
			err = c.add(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func auditBase(ctx context.Context, api *client.API) (audit.Head, error) {
	base, _, err := api.AuditEnds(ctx)
	if err != nil {
		return audit.Head{}, doing(err, "reading the audit log")
	}
	h := audit.Head{Seq: base.Seq}
	return h, h.Hash.UnmarshalText([]byte(base.Hash))
}

// auditEntries reads the JSON of entries.
func auditEntries(texts iter.Seq2[json.RawMessage, error]) iter.Seq2[audit.Entry, error] {
	return func(yield func(audit.Entry, error) bool) {
		for text, err := range texts {
			if err != nil {
				yield(audit.Entry{}, doing(err, "reading the audit log"))
				return
			}
			var e audit.Entry
			if err := json.Unmarshal(text, &e); err != nil {
				yield(e, fmt.Errorf("reading the audit log: %w", err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// parseHead reads SEQ:HASH; an empty text is the zero head.
func parseHead(text string) (h audit.Head, err error) {
	if text == "" {
		return h, nil
	}
	seq, hash, _ := strings.Cut(text, ":")
	if h.Seq, err = strconv.ParseUint(seq, 10, 64); err != nil || h.Hash.UnmarshalText([]byte(hash)) != nil {
		return h, usagef("--head wants SEQ:HASH, as `pkictl audit verify` prints it")
	}
	return h, nil
}

// upTo returns the newest checkpoint after a base that passes, and those that are no later.
func upTo(all []audit.Checkpoint, base audit.Head, passes func(audit.Checkpoint) bool) (last audit.Checkpoint, upTo []audit.Checkpoint) {
	for _, c := range all {
		if c.Seq > max(base.Seq, last.Seq) && passes(c) {
			last = c
		}
	}
	upTo = slices.DeleteFunc(slices.Clone(all), func(c audit.Checkpoint) bool { return c.Seq > last.Seq })
	return last, upTo
}
