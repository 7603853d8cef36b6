package main

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (a *app) auditCommand() *cobra.Command {
	return a.group("audit", "read, check and archive the audit log", a.auditListCommand(), a.auditVerifyCommand(), a.auditArchiveCommand())
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
