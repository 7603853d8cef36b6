package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/thumbprint"
)

func (a *app) enrollCommand() *cobra.Command {
	var opts client.EnrollOptions
	cmd := &cobra.Command{
		Use: "enroll TOKEN|-", Short: "get a certificate for an enrolment token", Args: exactly("TOKEN|-"),
		Long: "Get a certificate for an enrolment token, and write client.key, client.crt (with its chain), root.crt and\n" +
			"pkid.json. If the answer gets lost, run the same command again. With - the token is read from stdin,\n" +
			"which keeps it out of the list of processes.",
		RunE: func(cmd *cobra.Command, args []string) error {
			text := args[0]
			if text == "-" {
				in, err := readInput("-", a.stdin)
				if err != nil {
					return err
				}
				text = string(in)
			}
			token, err := client.ParseEnrolmentToken(text)
			if err != nil {
				return err
			}
			id, err := client.Enroll(cmd.Context(), token, opts)
			if err != nil {
				return err
			}
			return a.printIdentity(id)
		},
	}
	cmd.Flags().StringVar(&opts.Dir, "out", ".", "directory to write to")
	cmd.Flags().StringVar(&opts.KeyType, "key-type", "", strings.Join(client.KeyTypes, ", ")+" (default P-256)")
	a.jsonFlag(cmd)
	return cmd
}

// identitySummary is the result of enroll and renew.
type identitySummary struct {
	ClientID   string          `json:"client_id"`
	Dir        string          `json:"dir"`
	Serial     string          `json:"serial"`
	Thumbprint thumbprint.Cert `json:"x5t#S256"`
	NotAfter   time.Time       `json:"not_after"`
}

func (a *app) printIdentity(id *client.Identity) error {
	leaf := id.Certificate().Leaf
	s := identitySummary{id.Info().ClientID, id.Dir(), fmt.Sprintf("%032x", leaf.SerialNumber), thumbprint.OfCertificate(leaf), leaf.NotAfter}
	if a.json {
		return a.printJSON(s)
	}
	return a.printFields(
		field{"client", s.ClientID}, field{"serial", s.Serial}, field{"x5t#S256", s.Thumbprint.String()}, field{"not after", stamp(s.NotAfter)},
		field{"certificate", filepath.Join(s.Dir, "client.crt")}, field{"key", filepath.Join(s.Dir, "client.key")},
	)
}

func (a *app) renewCommand() *cobra.Command {
	var dir, hook string
	var opts client.RenewOptions
	var daemon bool
	cmd := &cobra.Command{
		Use: "renew", Short: "renew an enrolled certificate", Args: exactly(),
		Long: "Renew an enrolled certificate, once or with --daemon again and again. The --hook runs after each renewal, with\n" +
			"PKID_DIR (the identity's directory) and PKID_CLIENT (the client's id) in its environment.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := client.Load(dir)
			if err != nil {
				return err
			}
			after := a.hook(id, hook)
			if daemon {
				return id.RenewLoop(cmd.Context(), client.LoopOptions{
					RenewOptions: opts, After: after, Log: slog.New(slog.NewTextHandler(a.stderr, nil)),
				})
			}
			if err := id.Renew(cmd.Context(), opts); err != nil {
				return err
			}
			if err := a.printIdentity(id); err != nil || after == nil {
				return err
			}
			return after(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", ".", "directory of the identity")
	f.BoolVar(&opts.Rekey, "rekey", false, "make a new key")
	f.BoolVar(&daemon, "daemon", false, "keep running, and renew at two thirds of each lifetime")
	f.StringVar(&hook, "hook", "", "shell command to run after each renewal, such as 'systemctl reload nginx'")
	a.jsonFlag(cmd)
	return cmd
}

// hook returns a function that runs a shell command with PKID_DIR and PKID_CLIENT set, or nil without one.
func (a *app) hook(id *client.Identity, command string) func(context.Context) error {
	if command == "" {
		return nil
	}
	const patience = 5 * time.Minute
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		shell, flag := "sh", "-c"
		if runtime.GOOS == "windows" {
			shell, flag = "cmd", "/C"
		}
		cmd := exec.CommandContext(ctx, shell, flag, command) //nolint:gosec // the operator's own command
		cmd.Env = append(os.Environ(), "PKID_DIR="+id.Dir(), "PKID_CLIENT="+id.Info().ClientID)
		cmd.Stdout, cmd.Stderr = a.stderr, a.stderr
		cmd.WaitDelay = time.Second
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("running %q: %w", command, err)
		}
		return nil
	}
}
