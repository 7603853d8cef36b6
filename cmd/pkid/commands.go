package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
)

const defaultData = "pkid-data"

// initFlags are the flags of what creates a data directory.
type initFlags struct {
	spec    daemon.InitSpec
	keyType string
}

func (f *initFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.spec.Dir, "data", defaultData, "data directory")
	flags.StringArrayVar(&f.spec.Hosts, "name", nil, "DNS name or IP address that clients reach the daemon by; repeatable, the first one stands in URLs (default localhost, 127.0.0.1)")
	flags.StringVar(&f.spec.Listen.Public, "public", "127.0.0.1:8443", "address for REST, OAuth and console")
	flags.StringVar(&f.spec.Listen.MTLS, "mtls", "127.0.0.1:9443", "address for the same with client certificates")
	flags.StringVar(&f.spec.Listen.Status, "status", "127.0.0.1:8080", "address for CRLs, plain HTTP")
	flags.StringVar(&f.spec.Listen.Ops, "ops", "127.0.0.1:9090", "address for metrics and health, plain HTTP")
	flags.StringVar(&f.spec.Name, "ca-name", "pkid", "name of the CA, in certificate subjects")
	flags.StringVar(&f.keyType, "key-type", string(ca.P256), "key of root and issuing CA: P-256, P-384, P-521, Ed25519, RSA-2048, RSA-3072 or RSA-4096")
	flags.StringVar(&f.spec.Passphrase, "passphrase", "", "where the keys' passphrase is: file:PATH, env:NAME or credential:NAME (default: a new file in the data directory)")
}

// addStore is for init alone: what a quickstart creates is in its directory.
func (f *initFlags) addStore(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.spec.Store, "store", "", "where everything is kept: bolt:PATH or postgres://USER@HOST/DATABASE, an empty database (default: pkid.db in the data directory)")
	cmd.Flags().StringVar(&f.spec.StorePassword, "store-password", "", "where the database's password is: file:PATH, env:NAME or credential:NAME (default: PGPASSWORD or a password file)")
}

func (f *initFlags) create(ctx context.Context) error {
	f.spec.KeyType = ca.KeyType(f.keyType)
	return daemon.Init(ctx, f.spec)
}

func initCommand() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use: "init", Short: "create a data directory: root, issuing CA, store, operator's credentials", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.create(cmd.Context()); err != nil {
				return err
			}
			cfg, err := daemon.Load(f.spec.Dir)
			if err != nil {
				return err
			}
			if f.spec.OfflineRoot {
				return printRequested(cmd.OutOrStdout(), cfg, f.spec.Dir)
			}
			return printCreated(cmd.OutOrStdout(), cfg)
		},
	}
	f.add(cmd)
	f.addKeys(cmd)
	f.addStore(cmd)
	return cmd
}

func quickstartCommand() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use: "quickstart", Short: "create a data directory if there is none, and serve it", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			created := !daemon.Exists(f.spec.Dir)
			if created {
				if err := daemon.CheckPorts(cmd.Context(), f.spec.Listen); err != nil {
					return err
				}
				if err := f.create(cmd.Context()); err != nil {
					return err
				}
			}
			cfg, err := daemon.Load(f.spec.Dir)
			if err != nil {
				return err
			}
			if !created {
				for _, name := range []string{"name", "public", "mtls", "status", "ops", "ca-name", "key-type", "passphrase"} {
					if cmd.Flags().Changed(name) {
						fmt.Fprintf(cmd.ErrOrStderr(), "pkid: --%s is ignored: %s exists; change its %s\n", name, f.spec.Dir, config.File)
					}
				}
			}
			return serve(cmd, cfg, func(d *daemon.Daemon) { printQuickstart(cmd.OutOrStdout(), d, cfg, f.spec.Dir, created) })
		},
	}
	f.add(cmd)
	return cmd
}

func serveCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "serve", Short: "serve a data directory", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := daemon.Load(dir)
			if err != nil {
				return err
			}
			return serve(cmd, cfg, func(*daemon.Daemon) {})
		},
	}
	cmd.Flags().StringVar(&dir, "data", defaultData, "data directory")
	return cmd
}

func operatorCommand() *cobra.Command {
	var dir, out, name string
	cmd := &cobra.Command{
		Use: "operator", Short: "make another operator's credentials while the daemon is stopped", Args: noArgs,
		Long: "make another operator's credentials while the daemon is stopped\n\n" +
			"While it runs, an operator invites another: pkictl invite NAME --profile operator",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return usageError{errors.New("say where to write the credentials with --out DIR")}
			}
			cfg, err := daemon.Load(dir)
			if err != nil {
				return err
			}
			if err := daemon.CreateOperator(cmd.Context(), cfg, newLogger(cmd.ErrOrStderr(), cfg.Log), name, out); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "operator's credentials      %s\n", abs(out))
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "data", defaultData, "data directory")
	cmd.Flags().StringVar(&out, "out", "", "directory to write the credentials to")
	cmd.Flags().StringVar(&name, "name", daemon.OperatorID, "the operator's name, as the audit log shows it")
	return cmd
}

func rootCRLCommand() *cobra.Command {
	var dir string
	var revoke []string
	cmd := &cobra.Command{
		Use: "root-crl", Short: "sign the root's CRL anew with the root's key, and revoke issuing CAs with it", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := daemon.Load(dir)
			if err != nil {
				return err
			}
			if err := daemon.SignRootCRL(cmd.Context(), cfg, revoke); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "root's CRL                  %s (a running daemon publishes it within seconds)\n", abs(cfg.Path(cfg.Issuer.RootCRL)))
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "data", defaultData, "data directory")
	cmd.Flags().StringArrayVar(&revoke, "revoke", nil, "certificate file of an issuing CA to revoke (cACompromise); repeatable; those revoked before stay revoked")
	return cmd
}

func checkConfigCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "check-config", Short: "check the configuration and print it with every default", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := daemon.Load(dir)
			if err != nil {
				return err
			}
			if _, err := daemon.Profiles(cfg.Profiles); err != nil {
				return err
			}
			if note := daemon.ProfileNote(cfg); note != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), note)
			}
			return cfg.Print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&dir, "data", defaultData, "data directory")
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return errors.New("this binary carries no build information")
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "pkid %s %s\n", info.Main.Version, info.GoVersion)
			return err
		},
	}
}

func serve(cmd *cobra.Command, cfg *config.Config, ready func(*daemon.Daemon)) error {
	defer runtime.KeepAlive(tuneRuntime())
	log := newLogger(cmd.ErrOrStderr(), cfg.Log)
	d, err := daemon.New(cmd.Context(), cfg, log)
	if err == nil {
		err = d.Serve(cmd.Context(), func() {
			log.Info("serving", "public", cfg.URLs.Public, "mtls", cfg.URLs.MTLS, "status", cfg.URLs.Status, "ops", "http://"+cfg.Listen.Ops)
			ready(d)
		})
	}
	if cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return nil // told to stop while it started
	}
	return err
}

func newLogger(w io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // config.Load has checked it
	}
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// abs is for showing a path that can be pasted anywhere.
func abs(path string) string {
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}

// fromSource reports whether this runs through `go run`, so that the next commands can be pasted as they are.
func fromSource() bool {
	exe, err := os.Executable()
	return err == nil && filepath.Base(filepath.Dir(exe)) == "exe"
}
