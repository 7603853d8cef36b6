// Command pkictl is for the operators and the clients of a pkid CA.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
)

// Exit codes: 0 done, 1 failed, 2 called wrongly, 3 a certificate's status could not be learned.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitUnknown = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends ctx; from then on signals have their usual effect, so a second one kills.
	context.AfterFunc(ctx, stop)
	// A reader that goes away, as in `pkictl demo | head`, ends the writing with an error, and so all that was
	// begun is ended in order. Ignoring the signal would do the same, but for the commands that are run from here too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// app is what every command needs.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	home           string // --home
	json           bool   // --json
}

// usageError marks a mistake in the command line.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitError ends pkictl with a code of its own. Without a text, the result has said it all.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.command()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if readerLeft(err) {
		return exitFailed
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		if e.text != "" {
			a.note("%s", e.text)
		}
		return e.code
	}
	a.note("%v", err)
	if _, ok := errors.AsType[usageError](err); ok {
		a.note("see `%s --help`", cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

// readerLeft reports whether a write to standard output found its pipe closed, of which nobody needs to be
// told. The broken pipe of a connection is no *fs.PathError.
func readerLeft(err error) bool {
	e, ok := errors.AsType[*fs.PathError](err)
	return ok && errors.Is(e, syscall.EPIPE)
}

// doing says what err put an end to. A refusal by the CA is left as it is: its detail names what it is about.
func doing(err error, format string, args ...any) error {
	if p, ok := errors.AsType[*client.Problem](err); ok && p.Detail != "" {
		return p
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

func (a *app) command() *cobra.Command {
	root := a.group("pkictl", "certificates and bound tokens of a pkid CA",
		a.inviteCommand(), a.enrollCommand(), a.renewCommand(), a.revokeCommand(), a.adoptCommand(), a.listCommand(), a.showCommand(),
		a.rootCommand(), a.clientCommand(), a.tokenCommand(), a.callCommand(), a.verifyCommand(), a.thumbprintCommand(),
		a.crlCommand(), a.auditCommand(), a.demoCommand(), a.versionCommand())
	root.PersistentFlags().StringVar(&a.home, "home", os.Getenv("PKICTL_HOME"),
		"directory with the operator's credentials (default: PKICTL_HOME, else ./pkid-data/admin, else the user's configuration)")
	root.SilenceUsage, root.SilenceErrors = true, true
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	return root
}

// group is a command that only has subcommands. Called without one, it shows them and fails.
func (a *app) group(use, short string, sub ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q for %q", args[0], cmd.CommandPath())
			}
			cmd.SetOut(a.stderr)
			return errors.Join(cmd.Help(), usagef("name a command"))
		},
	}
	cmd.AddCommand(sub...)
	return cmd
}

// exactly is cobra.ExactArgs with a usage error that names what is missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef("missing argument %s", names[len(args)])
		case len(args) > len(names):
			return usagef("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

func (a *app) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.json, "json", false, "print the result as JSON")
}

// jsonLinesFlag is jsonFlag for a list.
func (a *app) jsonLinesFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.json, "json", false, "print the result as JSON, one object a line")
}

// note writes prose for a person to stderr.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.stderr, "pkictl: "+format+"\n", args...)
}
