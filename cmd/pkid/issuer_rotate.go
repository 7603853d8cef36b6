package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
)

func issuerRotateCommand() *cobra.Command {
	var dir string
	var r daemon.Rotation
	cmd := &cobra.Command{
		Use: "rotate", Short: "bring a new issuing CA into service, signed with the root's key in the data directory", Args: noArgs,
		Long: "bring a new issuing CA into service while the daemon serves, signed with the root's key in the data directory\n\n" +
			"The new one's CRL and certificate are published at once, and it signs from --active-in on. The one before goes on\n" +
			"publishing its CRL until its last certificate has expired. If this is interrupted, call it again: it goes on.\n" +
			"Where the root's key is elsewhere: pkid issuer csr, have it signed there, pkid issuer install.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := daemon.Load(dir)
			if err != nil {
				return err
			}
			i, err := r.Rotate(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return printInstalled(cmd.OutOrStdout(), i)
		},
	}
	cmd.Flags().StringVar(&dir, "data", defaultData, "data directory")
	addLeadFlags(cmd, &r)
	addKeyTypeFlags(cmd, &r)
	return cmd
}

func addHomeFlag(cmd *cobra.Command, r *daemon.Rotation) {
	cmd.Flags().StringVar(&r.Home, "home", "", "directory with an operator's credentials, for a running daemon (default: admin in the data directory)")
}

func addLeadFlags(cmd *cobra.Command, r *daemon.Rotation) {
	addHomeFlag(cmd, r)
	cmd.Flags().StringVar(&r.ActiveIn, "active-in", "10m", "from when on the next issuing CA signs; longer, where servers read CRLs from files that must be there before")
}

func addKeyTypeFlags(cmd *cobra.Command, r *daemon.Rotation) {
	cmd.Flags().StringVar(&r.KeyType, "key-type", "", "of the next issuing CA's key (default: as the first)")
	cmd.Flags().StringVar(&r.KeyURI, "key", "", "URI of its key in a device, such as pkcs11:...; it is made there if it is not there yet")
}

func addKeyFlags(cmd *cobra.Command, r *daemon.Rotation) {
	addHomeFlag(cmd, r)
	addKeyTypeFlags(cmd, r)
}

// printNextRequest prints the request of the next issuing CA.
func printNextRequest(cmd *cobra.Command, cfg *config.Config, r daemon.Rotation) error {
	i, err := r.Next(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	_, err = io.WriteString(cmd.OutOrStdout(), i.CSR)
	return err
}

// installNext gives the next issuing CA's certificate to a running daemon.
func installNext(cmd *cobra.Command, cfg *config.Config, r daemon.Rotation, in daemon.Installation) error {
	i, err := r.Install(cmd.Context(), cfg, in)
	if err != nil {
		return err
	}
	return printInstalled(cmd.OutOrStdout(), i)
}

func printInstalled(w io.Writer, i *client.IssuerState) error {
	_, err := fmt.Fprintf(w, "issuing CA                  %s (%s)\nits CRL                     %s\nsigns from                  %s\nexpires                     %s\n",
		i.ID, i.Subject, i.CRL, instant(i.ActiveFrom), instant(i.NotAfter))
	return err
}

func issuerListCommand() *cobra.Command {
	var dir string
	var asJSON bool
	var r daemon.Rotation
	cmd := &cobra.Command{
		Use: "list", Short: "list the issuing CAs of a running daemon, with what each does and until when", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := daemon.Load(dir)
			if err != nil {
				return err
			}
			api, err := r.Operator(cfg)
			if err != nil {
				return err
			}
			all, err := api.IssuerStates(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), all)
			}
			return table(cmd.OutOrStdout(), "ID\tSTATE\tSIGNS FROM\tUNTIL\tCERTIFICATES\tLAST EXPIRES\tENDS\tEXPIRES", func(row func(...any)) {
				for _, i := range all {
					row(i.ID, i.State, instant(i.ActiveFrom), instant(i.ActiveUntil), i.Issued, instant(i.LastExpiry), instant(i.EndsAt), instant(i.NotAfter))
				}
			})
		},
	}
	cmd.Flags().StringVar(&dir, "data", defaultData, "data directory")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	addHomeFlag(cmd, &r)
	return cmd
}

func issuerDropCommand() *cobra.Command {
	var dir string
	var r daemon.Rotation
	cmd := &cobra.Command{
		Use: "drop ID", Short: "drop an issuing CA that has no instant yet to become active at", Args: oneArg("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := daemon.Load(dir)
			if err != nil {
				return err
			}
			api, err := r.Operator(cfg)
			if err != nil {
				return err
			}
			if err := api.DropIssuer(cmd.Context(), args[0]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "dropped                     %s\n", args[0])
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "data", defaultData, "data directory")
	addHomeFlag(cmd, &r)
	return cmd
}

func instant(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table prints rows below a head, in columns.
func table(w io.Writer, head string, fill func(row func(...any))) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, head)
	fill(func(cells ...any) {
		for n, cell := range cells {
			if n > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, cell)
		}
		fmt.Fprintln(t)
	})
	return t.Flush()
}
