package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/internal/audit"
)

func (a *app) auditCommand() *cobra.Command {
	return a.group("audit", "check the audit log", a.auditVerifyCommand())
}

func (a *app) auditVerifyCommand() *cobra.Command {
	var known string
	cmd := &cobra.Command{
		Use: "verify", Short: "read the audit log from its start and check that nothing was changed", Args: exactly(),
		Long: "Read the audit log from its start and check that each entry follows from the one before it. Note the head that\n" +
			"this prints, elsewhere, and give it with --head the next time: it must still be in the log, so that a log\n" +
			"that was cut short or written anew is found too.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			want, err := parseHead(known)
			if err != nil {
				return err
			}
			api, err := a.api(cmd.Context())
			if err != nil {
				return err
			}
			var head audit.Head
			for text, err := range api.Audit(cmd.Context(), 0) {
				if err != nil {
					return fmt.Errorf("reading the audit log: %w", err)
				}
				var e audit.Entry
				if err := json.Unmarshal(text, &e); err != nil {
					return fmt.Errorf("reading the audit log after entry %d: %w", head.Seq, err)
				}
				if head, err = audit.Verify(head, e); err != nil {
					return err
				}
				if head.Seq == want.Seq && head.Hash != want.Hash {
					return fmt.Errorf("entry %d is not the one that was noted: the log was written anew", head.Seq)
				}
			}
			if head.Seq < want.Seq {
				return fmt.Errorf("the log ends at entry %d, before the noted %d: it was cut short", head.Seq, want.Seq)
			}
			if a.json {
				return a.printJSON(head)
			}
			a.note("%d entries, each follows from the one before it", head.Seq)
			_, err = fmt.Fprintf(a.stdout, "%d:%s\n", head.Seq, head.Hash)
			return err
		},
	}
	cmd.Flags().StringVar(&known, "head", "", "head that an earlier run printed, SEQ:HASH")
	a.jsonFlag(cmd)
	return cmd
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

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "version", Short: "print the version", Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return errors.New("this binary carries no build information")
			}
			if a.json {
				return a.printJSON(map[string]string{"version": info.Main.Version, "go": info.GoVersion})
			}
			_, err := fmt.Fprintf(a.stdout, "pkictl %s %s\n", info.Main.Version, info.GoVersion)
			return err
		},
	}
	a.jsonFlag(cmd)
	return cmd
}
