package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/daemon"
)

// tokenKeyCommand is about the keys that sign access tokens.
func tokenKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "token-key", Short: "the keys that sign access tokens: list, rotate, drop", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return errors.Join(cmd.Help(), usageError{errors.New("name a command")})
		},
	}
	var asJSON bool
	list := tokenKeyAct("list", "list the keys of a running daemon", noArgs, func(cmd *cobra.Command, api *client.API, _ []string) error {
		all, err := api.TokenKeys(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), all)
		}
		return table(cmd.OutOrStdout(), "KID\tALG\tSIGNS\tSIGNS FROM\tPUBLISHED UNTIL", func(row func(...any)) {
			for _, k := range all {
				signs := "no"
				switch {
				case k.Dropped:
					signs = "dropped"
				case k.Signs:
					signs = "yes"
				}
				row(k.ID, k.Algorithm, signs, instant(k.SignsFrom), instant(k.EndsAt))
			}
		})
	})
	list.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	rotate := tokenKeyAct("rotate", "make the next key; it is published now and signs in two hours", noArgs, func(cmd *cobra.Command, api *client.API, _ []string) error {
		k, err := api.RotateTokenKey(cmd.Context())
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "token key                   %s\nsigns from                  %s\n", k.ID, instant(k.SignsFrom))
		return err
	})
	drop := tokenKeyAct("drop KID", "end a key that was stolen, at once, and every token that it signed", oneArg("KID"), func(cmd *cobra.Command, api *client.API, args []string) error {
		if err := api.DropTokenKey(cmd.Context(), args[0]); err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "dropped                     %s\n", args[0])
		return err
	})
	cmd.AddCommand(list, rotate, drop)
	return cmd
}

// tokenKeyAct is a command that asks a running daemon.
func tokenKeyAct(use, short string, args cobra.PositionalArgs, act func(*cobra.Command, *client.API, []string) error) *cobra.Command {
	var dir string
	var r daemon.Rotation
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := daemon.Load(dir)
			if err != nil {
				return err
			}
			api, err := r.Operator(cfg)
			if err != nil {
				return err
			}
			return act(cmd, api, args)
		},
	}
	cmd.Flags().StringVar(&dir, "data", defaultData, "data directory")
	addHomeFlag(cmd, &r)
	return cmd
}
