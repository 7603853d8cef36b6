// Command pkid is a private CA and certificate lifecycle service for mTLS clients, with a token endpoint
// that binds access tokens to their certificates.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/internal/stepca"
)

// Exit codes: 0 done, 1 failed, 2 called wrongly, 3 a device refused its PIN: who starts pkid again by himself must not,
// since a few wrong PINs lock the device.
const (
	exitFailed = 1
	exitUsage  = 2
	exitPIN    = 3
)

func main() {
	harden()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends ctx; from then on signals have their usual effect, so a second one kills.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// usageError marks a mistake in the command line.
type usageError struct{ error }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "pkid",
		Short:         "a private CA for mTLS clients, and the tokens bound to their certificates",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return errors.Join(cmd.Help(), usageError{errors.New("name a command")})
		},
	}
	root.AddCommand(quickstartCommand(), initCommand(), serveCommand(), backupCommand(), backupKeyCommand(), restoreCommand(), recoverCommand(), migrateStoreCommand(), importCommand(), operatorCommand(), rootCRLCommand(), issuerCommand(), tokenKeyCommand(), verifyProxyCommand(), checkConfigCommand(), versionCommand())
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "pkid: %v\n", err)
	return exitCode(cmd, err, stderr)
}

func exitCode(cmd *cobra.Command, err error, stderr io.Writer) int {
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(stderr, "pkid: see `%s --help`\n", cmd.CommandPath())
		return exitUsage
	}
	if errors.Is(err, stepca.ErrPIN) {
		return exitPIN
	}
	return exitFailed
}

// noArgs is cobra.NoArgs as a usage error.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError{err}
	}
	return nil
}
