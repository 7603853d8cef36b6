package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/backup"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
)

const (
	maxAgeKeys  = 64 << 10  // of a file of recipients or identities
	maxEvidence = 128 << 20 // of a CRL
)

func backupCommand() *cobra.Command {
	var dir, home, recipientsFile string
	var recipients []string
	cmd := &cobra.Command{
		Use: "backup FILE", Short: "back up a data directory, encrypted, while the daemon serves it or not", Args: oneArg("FILE"),
		Long: "back up a data directory: the store as it is at one instant, the configuration, certificates and keys,\n" +
			"encrypted with age (age-encryption.org) to recipients whose identities `pkid backup-key` or age-keygen made",
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := readRecipients(recipients, recipientsFile)
			if err != nil {
				return err
			}
			cfg, err := daemon.Load(dir)
			if err != nil {
				return err
			}
			if home == "" {
				home = cfg.Path("admin")
			}
			var m *backup.Manifest
			err = create(args[0], func(w io.Writer) error {
				m, err = daemon.BackUp(cmd.Context(), cfg, home, w, to...)
				return err
			})
			if err != nil {
				return err
			}
			printBackup(cmd, m, args[0])
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&dir, "data", defaultData, "data directory")
	flags.StringVar(&home, "home", "", "directory with an operator's credentials, needed while a daemon serves (default: admin in the data directory)")
	flags.StringArrayVarP(&recipients, "recipient", "r", nil, "age recipient to encrypt to, age1...; repeatable")
	flags.StringVarP(&recipientsFile, "recipients-file", "R", "", "file with age recipients, one in a line")
	return cmd
}

func printBackup(cmd *cobra.Command, m *backup.Manifest, file string) {
	fmt.Fprintf(cmd.OutOrStdout(), "backup                      %s\nroot fingerprint (SHA-256)  %s\naudit log                   %d entries\n", abs(file), m.Root, m.Audit.Seq)
	for _, what := range m.LeftOut {
		fmt.Fprintf(cmd.ErrOrStderr(), "pkid: not in the backup, keep it elsewhere: %s\n", what)
	}
}

func backupKeyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "backup-key FILE", Short: "make an age identity that opens backups, and print the recipient to encrypt them to", Args: oneArg("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := age.GenerateX25519Identity()
			if err != nil {
				return err
			}
			err = create(args[0], func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "# opens pkid's backups; keep it where the backups are not\n# recipient: %s\n%s\n", id.Recipient(), id)
				return err
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), id.Recipient())
			return err
		},
	}
}

// evidenceFlags name what was kept outside the store.
type evidenceFlags struct{ crls, logs []string }

func (f *evidenceFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.crls, "crl", nil, "file of a CRL that was published last, DER or PEM: what it lists is revoked again; repeatable")
	cmd.Flags().StringArrayVar(&f.logs, "audit", nil, "file of audit.export, or of pkictl audit archive: what it says since the backup is done again, or listed; repeatable, oldest first")
}

// open returns the evidence and what releases it.
func (f *evidenceFlags) open() (ev daemon.Evidence, release func(), err error) {
	var opened []io.Closer
	release = func() {
		for _, c := range opened {
			c.Close()
		}
	}
	for _, name := range f.crls {
		der, err := readFile(name, maxEvidence)
		if err != nil {
			return ev, release, fmt.Errorf("CRL: %w", err)
		}
		ev.CRLs = append(ev.CRLs, der)
	}
	for _, name := range f.logs {
		log, err := os.Open(name)
		if err != nil {
			return ev, release, fmt.Errorf("audit log: %w", err)
		}
		opened = append(opened, log)
		ev.Audit = append(ev.Audit, log)
	}
	return ev, release, nil
}

func restoreCommand() *cobra.Command {
	var dir string
	var identities []string
	var evidence evidenceFlags
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "make a data directory of a backup", Args: oneArg("FILE"),
		Long: "make a data directory of a backup\n\n" +
			"Name the newest CRLs and audit entries that were kept elsewhere with --crl and --audit: what was revoked and\n" +
			"disabled after the backup then stays so. Invitations and tokens from before the restore are refused, and\n" +
			"certificates that were issued after the backup too, until an operator adopts them (pkictl adopt).",
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := readIdentities(identities)
			if err != nil {
				return err
			}
			ev, release, err := evidence.open()
			defer release()
			if err != nil {
				return err
			}
			in, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("backup: %w", err)
			}
			defer in.Close()
			m, found, err := daemon.Restore(cmd.Context(), in, dir, newLogger(cmd.ErrOrStderr(), config.Log{Level: "warn", Format: "text"}), ev, ids...)
			if err != nil {
				return fmt.Errorf("restoring %s: %w", args[0], err)
			}
			return printRestored(cmd, m, found, dir)
		},
	}
	cmd.Flags().StringVar(&dir, "data", defaultData, "data directory to make")
	cmd.Flags().StringArrayVarP(&identities, "identity", "i", nil, "file with the age identity that opens the backup; repeatable")
	evidence.add(cmd)
	return cmd
}

func recoverCommand() *cobra.Command {
	var dir string
	var evidence evidenceFlags
	cmd := &cobra.Command{
		Use: "recover", Short: "make a store fit to serve that was restored by other means than pkid restore", Args: noArgs,
		Long: "make a store fit to serve that is older than it was: a database that was restored from a dump or to a point in\n" +
			"time, a disk from a snapshot. Stop every daemon first; pkid restore does the same by itself.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ev, release, err := evidence.open()
			defer release()
			if err != nil {
				return err
			}
			cfg, err := daemon.Load(dir)
			if err != nil {
				return err
			}
			found, err := daemon.Recover(cmd.Context(), cfg, newLogger(cmd.ErrOrStderr(), config.Log{Level: "warn", Format: "text"}), ev)
			if err != nil {
				return err
			}
			return printRecovery(cmd.OutOrStdout(), found)
		},
	}
	cmd.Flags().StringVar(&dir, "data", defaultData, "data directory")
	evidence.add(cmd)
	return cmd
}

func printRestored(cmd *cobra.Command, m *backup.Manifest, found *daemon.Recovery, dir string) error {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "data directory              %s, as of %s\nroot fingerprint (SHA-256)  %s (compare it with what clients have)\n", abs(dir), m.Created.Format("2006-01-02 15:04:05Z"), m.Root)
	for _, what := range m.LeftOut {
		fmt.Fprintf(cmd.ErrOrStderr(), "pkid: not in the backup, bring it back yourself: %s\n", what)
	}
	if found == nil {
		_, err := fmt.Fprintln(out, "next                        restore the database, then run pkid recover")
		return err
	}
	fmt.Fprintf(out, "operator's credentials      %s (new)\n", abs(dir+"/admin"))
	return printRecovery(out, found)
}

func printRecovery(w io.Writer, r *daemon.Recovery) error {
	fmt.Fprintf(w, "revoked again               %d certificates, of them %d that the store did not know\n", len(r.Revoked), len(r.Lost))
	fmt.Fprintf(w, "disabled                    %d clients\n", len(r.Clients))
	for _, id := range r.Clients {
		fmt.Fprintf(w, "                            %s\n", id)
	}
	fmt.Fprintf(w, "audit log known up to       entry %d\n", r.Log.Seq)
	fmt.Fprintf(w, "refused                     invitations and tokens from before %s\n", r.At.Format("2006-01-02 15:04:05Z"))
	for _, file := range r.Kept {
		fmt.Fprintf(w, "kept                        %s\n", abs(file))
	}
	list := func(title, what string, entries []audit.Entry) {
		if len(entries) > 0 {
			fmt.Fprintf(w, "\n%s\n", title)
		}
		for _, e := range entries {
			fmt.Fprintf(w, "  %s  %-20s %s %s\n", e.Time.Format("2006-01-02 15:04:05Z"), e.Action, e.Subject, e.Detail[what])
		}
	}
	list("Issued after the backup, and refused until it is adopted (pkictl adopt FILE):", "client", r.Unknown)
	list("Also done after the backup, and not in the store any more:", "client", r.Other)
	return nil
}

// create writes a file that must not exist and that only its owner can read, whole or not at all.
func create(name string, write func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = write(f)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s: larger than %d octets", name, limit)
	}
	return text, err
}

func readRecipients(args []string, file string) ([]age.Recipient, error) {
	text := []byte(strings.Join(args, "\n"))
	if file != "" {
		more, err := readFile(file, maxAgeKeys)
		if err != nil {
			return nil, fmt.Errorf("recipients: %w", err)
		}
		text = append(append(text, '\n'), more...)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, usageError{errors.New("say whom to encrypt the backup to with --recipient age1...; `pkid backup-key FILE` makes such a pair")}
	}
	if bytes.Contains(bytes.ToUpper(text), []byte("AGE-SECRET-KEY-")) {
		return nil, usageError{errors.New("recipients: this is an identity, which opens backups and stays secret; give its recipient, age1...")}
	}
	to, err := age.ParseRecipients(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("recipients: %w", err)
	}
	return to, nil
}

func readIdentities(files []string) (ids []age.Identity, err error) {
	if len(files) == 0 {
		return nil, usageError{errors.New("name the file that opens the backup with --identity")}
	}
	for _, name := range files {
		text, err := readFile(name, maxAgeKeys)
		if err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
		found, err := age.ParseIdentities(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("identity %s: %s", name, notIdentity(text)) // the library's own words may quote it
		}
		ids = append(ids, found...)
	}
	return ids, nil
}

// notIdentity says what a file is instead, without any of it.
func notIdentity(text []byte) string {
	switch {
	case bytes.HasPrefix(text, []byte("age-encryption.org/")), bytes.HasPrefix(text, []byte("-----BEGIN AGE ENCRYPTED FILE")):
		return "it is itself encrypted: open it with age --decrypt first"
	case bytes.Contains(text, []byte("PRIVATE KEY-----")):
		return "it is a key of another program, such as SSH; open the backup with age --decrypt and tar, or use an identity of pkid backup-key or age-keygen"
	case bytes.Contains(text, []byte("AGE-PLUGIN-")):
		return "it needs a plugin: open the backup with age --decrypt and tar"
	}
	return "not an age identity file"
}

// oneArg is cobra.ExactArgs(1) as a usage error that names what is missing.
func oneArg(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("want one argument: %s", what)}
		}
		return nil
	}
}
