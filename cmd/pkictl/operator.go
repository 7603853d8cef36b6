package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
)

func (a *app) inviteCommand() *cobra.Command {
	var r client.InvitationRequest
	var scopes scopeList
	cmd := &cobra.Command{
		Use: "invite CLIENT", Short: "print an enrolment token, good for one certificate of CLIENT", Args: exactly("CLIENT"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			r.ClientID, r.Scopes = args[0], scopes
			if r.TTL, err = durationText("ttl", r.TTL); err != nil {
				return err
			}
			if r.Lifetime, err = durationText("lifetime", r.Lifetime); err != nil {
				return err
			}
			api, err := a.api(cmd.Context())
			if err != nil {
				return err
			}
			inv, err := api.Invite(cmd.Context(), r)
			if err != nil {
				return doing(err, "inviting %s", args[0])
			}
			if a.json {
				return a.printJSON(inv)
			}
			a.note("the token is a password for one certificate of %s (profile %s) until %s", inv.ClientID, inv.Profile, stamp(inv.ExpiresAt))
			_, err = fmt.Fprintln(a.stdout, inv.Token)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Profile, "profile", "", "profile of the certificate (default client)")
	f.StringArrayVar(&r.SANs, "san", nil, "name in the certificate: DNS name, IP address, URI or e-mail address; repeatable")
	f.Var(&scopes, "scope", "scope that the client may ask for; repeatable")
	f.StringArrayVar(&r.Resources, "resource", nil, "resource that the client may ask for; repeatable")
	f.StringVar(&r.TTL, "ttl", "", "how long the invitation holds, such as 90m, 12h or 7d (default 24h, at most 30d)")
	f.StringVar(&r.Lifetime, "lifetime", "", "lifetime of the certificate, such as 12h or 7d (default: the profile's)")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) revokeCommand() *cobra.Command {
	var reason string
	var yes, release, lineage bool
	cmd := &cobra.Command{
		Use: "revoke SERIAL|FILE", Short: "revoke a certificate, or hold it (--reason certificateHold) and release it", Args: exactly("SERIAL|FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := client.Revocation{Reason: reason}
			if cmd.Flags().Changed("lineage") {
				r.Lineage = &lineage
			}
			if release && (r.Reason != "" || r.Lineage != nil) {
				return usagef("--release excludes --reason and --lineage")
			}
			if release {
				r.Reason = "removeFromCRL"
			}
			api, c, err := a.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if !yes && !release {
				if err := a.confirmRevocation(c, r); err != nil {
					return err
				}
			}
			if c, err = api.Revoke(cmd.Context(), c.Serial, r); err != nil {
				return doing(err, "revoking %s", args[0])
			}
			if n := len(c.StillActive); n > 0 {
				a.note("active still: %s, which renewed it (%d in all)", printable(c.StillActive[n-1]), n)
				a.note("to revoke its whole lineage: pkictl revoke %s --lineage", c.Serial)
			}
			if c.LineageUnknown {
				a.note("it is revoked; whether others of its lineage are active could not be found out: see `pkictl list --client %s`", printable(c.ClientID))
			}
			return a.printCertificate(c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&reason, "reason", "", "RFC 5280 reason: keyCompromise, superseded, cessationOfOperation, certificateHold, ... (default unspecified)")
	f.BoolVar(&lineage, "lineage", false, "revoke also what it renews and what renewed it, which may be a thief's (default with --reason keyCompromise; --lineage=false: not)")
	f.BoolVar(&release, "release", false, "release a certificate that is on hold")
	f.BoolVar(&yes, "yes", false, "do not ask")
	a.jsonFlag(cmd)
	return cmd
}

// confirmRevocation shows what would be revoked and asks. Without somebody to ask it refuses.
func (a *app) confirmRevocation(c *client.Certificate, r client.Revocation) error {
	if err := a.mustConfirm(false, "revoking cannot be undone: say --yes"); err != nil {
		return err
	}
	also := ""
	if r.WithLineage() {
		also = ", and every other certificate of its lineage"
	}
	return a.confirm(fmt.Sprintf("revoke %s of %s (%s, expires %s)%s", c.Serial, printable(c.ClientID), c.Status, stamp(c.NotAfter), also), "nothing was revoked")
}
