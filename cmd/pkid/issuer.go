package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/internal/daemon"
)

// issuerCommand is about the issuing CA: what another CA must sign, and what it signed.
func issuerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "issuer", Short: "the issuing CAs: requests, certificates, rotation", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return errors.Join(cmd.Help(), usageError{errors.New("name a command")})
		},
	}
	cmd.AddCommand(issuerCSRCommand(), issuerInstallCommand(), issuerRotateCommand(), issuerListCommand(), issuerDropCommand())
	return cmd
}

func issuerCSRCommand() *cobra.Command {
	var dir string
	var r daemon.Rotation
	cmd := &cobra.Command{
		Use: "csr", Short: "print the request that the root, or another CA, is to sign", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := daemon.Load(dir)
			if err != nil {
				return err
			}
			if daemon.Incomplete(cfg) == nil {
				return printNextRequest(cmd, cfg, r)
			}
			request, err := daemon.Request(cfg)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(request)
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "data", defaultData, "data directory")
	addKeyFlags(cmd, &r)
	return cmd
}

func issuerInstallCommand() *cobra.Command {
	var dir string
	var r daemon.Rotation
	var in daemon.Installation
	cmd := &cobra.Command{
		Use: "install [CERT.pem]", Short: "install the issuing CA's certificate, which the root signed, or the root's CRL",
		Long: "install the issuing CA's certificate, which the root signed, or the root's CRL\n\n" +
			"CERT.pem holds the issuing CA's certificate and those of the CAs between it and the root, in any order.\n" +
			"With --root-crl alone, the root's CRL is replaced; a running daemon publishes it within seconds.\n\n" +
			"While a daemon serves the directory, this installs its next issuing CA, whose request `pkid issuer csr` printed. It\n" +
			"signs from --active-in on. The certificate of a new root, and one by the root before it, go into CERT.pem too.",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.MaximumNArgs(1)(cmd, args); err != nil {
				return usageError{err}
			}
			if len(args) == 0 && in.RootCRL == "" {
				return usageError{errors.New("name the file of the issuing CA's certificate")}
			}
			if len(args) == 0 && in.Root != "" {
				return usageError{errors.New("--root goes with the issuing CA's certificate")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := daemon.Load(dir)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				if err := daemon.InstallRootCRL(cfg, in.RootCRL); err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "root's CRL                  %s (a running daemon publishes it within seconds)\n", abs(cfg.Path(cfg.Issuer.RootCRL)))
				return err
			}
			in.Certificate = args[0]
			if daemon.Incomplete(cfg) == nil {
				return installNext(cmd, cfg, r, in)
			}
			notes, err := daemon.InstallIssuer(cmd.Context(), cfg, in)
			if err != nil {
				return err
			}
			for _, note := range notes {
				fmt.Fprintf(cmd.ErrOrStderr(), "pkid: note: %s\n", note)
			}
			return printCreated(cmd.OutOrStdout(), cfg)
		},
	}
	cmd.Flags().StringVar(&dir, "data", defaultData, "data directory")
	cmd.Flags().StringVar(&in.Root, "root", "", "file of the root's certificate, if it is not in CERT.pem")
	addLeadFlags(cmd, &r)
	cmd.Flags().StringVar(&in.RootCRL, "root-crl", "", "file of the CRL of who signed the issuing CA, PEM or DER, for the daemon to publish")
	return cmd
}
