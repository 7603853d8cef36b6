package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
)

func importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "import", Short: "take another CA program's installation over", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return errors.Join(cmd.Help(), usageError{errors.New("name a program: step-ca")})
		},
	}
	cmd.AddCommand(importStepCACommand())
	return cmd
}

func importStepCACommand() *cobra.Command {
	var f initFlags
	var from daemon.StepCA
	cmd := &cobra.Command{
		Use: "step-ca DIR", Short: "create a data directory with the CA, the certificates and the revocations of a step-ca that was stopped",
		Long: "create a data directory with the CA, the certificates and the revocations of a step-ca that was stopped\n\n" +
			"DIR is its home, as `step path` prints it. It is read and not changed.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("name step-ca's home: what `step path` prints")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			f.spec.KeyType = ca.KeyType(f.keyType)
			from.Home = args[0]
			done, err := daemon.ImportStepCA(cmd.Context(), f.spec, from)
			if err != nil {
				return err
			}
			cfg, err := daemon.Load(f.spec.Dir)
			if err != nil {
				return err
			}
			return printImported(cmd.OutOrStdout(), cfg, f.spec.Dir, done)
		},
	}
	f.add(cmd)
	f.addStore(cmd)
	flags := cmd.Flags()
	flags.StringVar(&from.PasswordFile, "password-file", "", "file with the password of step-ca's keys (default: they are in clear)")
	flags.BoolVar(&from.KeepIssuer, "keep-issuer", false, "step-ca's intermediate goes on issuing, though the root's key is there to sign a new issuing CA")
	flags.StringVar(&f.spec.IssuerKey, "issuer-key", "", "the URI of the intermediate's key where it is in a device, with --existing-key")
	flags.BoolVar(&f.spec.ExistingKeys, "existing-key", false, "the key of --issuer-key is in its device already: use it")
	return cmd
}

// printImported says what was taken over, what was not, and what comes next.
func printImported(w io.Writer, cfg *config.Config, dir string, done *daemon.Imported) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "certificates found\t%d\ncertificates taken over\t%d\n", done.Found, done.Certificates)
	for _, why := range slices.Sorted(maps.Keys(done.Skipped)) {
		fmt.Fprintf(table, "not taken over, %s\t%d\n", why, done.Skipped[why])
	}
	fmt.Fprintf(table, "revocations taken over\t%d\n", done.Revoked)
	fmt.Fprintf(table, "of these, of certificates that step-ca kept nothing else of\t%d\n", done.Lost)
	if done.CRLNumber > 0 {
		fmt.Fprintf(table, "step-ca's newest CRL, above which the numbers go on\t%d\n", done.CRLNumber)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	printSample(w, done.Derived, "certificates have a common name that is no client id; their clients are")
	printSample(w, done.Unrenewable, "certificates are good until they expire, and cannot be renewed; invite their holders then (pkictl invite)")
	printSample(w, done.Unregistered, "certificates tell the token endpoint no client; add one (pkictl client add)")
	fmt.Fprintln(w)
	if err := printCreated(w, cfg); err != nil {
		return err
	}
	issuer := "a new issuing CA signs what pkid issues; step-ca's intermediate signs its CRLs until its last certificate has expired"
	if !done.NewIssuer {
		issuer = fmt.Sprintf("step-ca's intermediate goes on issuing; for another one, see `pkid issuer csr --data %s` while pkid runs", dir)
	}
	_, err := fmt.Fprintf(w, `
Next: %s.

- Keep step-ca stopped: what it would issue or revoke now, pkid would not know of.
- Serve:                      pkid serve --data %s
- Let clients renew here, with the certificates that they have (POST %s/v1/certificates/renew).
- Their certificates give them no scopes yet: pkictl client set ID --scope S --resource R.
- pkid did not take over: provisioners, ACME accounts, one-time tokens, templates, SSH.
`, issuer, dir, cfg.URLs.MTLS)
	return err
}

func printSample(w io.Writer, s daemon.Sample, what string) {
	if s.Count == 0 {
		return
	}
	fmt.Fprintf(w, "\n%d %s:\n", s.Count, what)
	for _, line := range s.First {
		fmt.Fprintf(w, "  %s\n", line)
	}
	if more := s.Count - len(s.First); more > 0 {
		fmt.Fprintf(w, "  and %d more\n", more)
	}
}
