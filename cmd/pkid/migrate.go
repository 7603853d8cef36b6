package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
)

func migrateStoreCommand() *cobra.Command {
	var dir, from, to, password string
	cmd := &cobra.Command{
		Use: "migrate-store", Short: "move everything from a bbolt file into an empty PostgreSQL database", Args: noArgs,
		Long: "move everything from a bbolt file into an empty PostgreSQL database, while the daemon is stopped\n\n" +
			"It is one transaction: numbers and digests of both sides are compared, and the audit log is verified, before it\n" +
			"is committed. If anything is wrong, both sides are as they were. At the end the file is renamed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := migrateFrom(cmd, dir, from)
			if err != nil {
				return err
			}
			target, err := config.StoreOnly(to, password)
			if err != nil {
				return usageError{fmt.Errorf("--to: %w", err)}
			}
			return migrateStore(cmd.Context(), cmd.OutOrStdout(), path, target)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&dir, "data", defaultData, "data directory whose store is moved")
	flags.StringVar(&from, "from", "", "bolt:PATH, the store that is moved, instead of a data directory's")
	flags.StringVar(&to, "to", "", "postgres://USER@HOST/DATABASE, an empty database")
	flags.StringVar(&password, "to-password", "", "where the database's password is: file:PATH, env:NAME or credential:NAME (default: PGPASSWORD or a password file)")
	return cmd
}

// migrateFrom returns the path of the file.
func migrateFrom(cmd *cobra.Command, dir, from string) (string, error) {
	if from != "" {
		if cmd.Flags().Changed("data") {
			return "", usageError{errors.New("--from and --data both name the store to move; give one")}
		}
		path, ok := strings.CutPrefix(from, "bolt:")
		if !ok || path == "" {
			return "", usageError{errors.New("--from: want bolt:PATH")}
		}
		return path, nil
	}
	cfg, err := daemon.Load(dir)
	if err != nil {
		return "", err
	}
	if path := cfg.StorePath(); path != "" {
		return path, nil
	}
	return "", fmt.Errorf("%s is in PostgreSQL already", dir)
}

func migrateStore(ctx context.Context, out io.Writer, path string, to *config.Config) error {
	moved, err := daemon.MigrateStore(ctx, path, to)
	if moved == nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KIND\tROWS\tDIGEST, THE SAME ON BOTH SIDES")
	for _, k := range moved.Kinds {
		fmt.Fprintf(w, "%s\t%d\t%s\n", k.Name, k.Rows, k.Digest)
	}
	if err := errors.Join(err, w.Flush()); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nmoved, and the file is now %s; do not serve it again\nin %s, set\n\n  store: %q\n", abs(moved.File), config.File, to.Store)
	if to.StorePassword != "" {
		fmt.Fprintf(out, "  store_password: %q\n", to.StorePassword)
	}
	_, err = fmt.Fprintln(out, "\nand start the daemon")
	return err
}
