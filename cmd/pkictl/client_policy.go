package main

import (
	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
)

// clientPolicy is what flags say of the rules that a client is held to, beyond what it may ask for.
type clientPolicy struct{ nonce, profile string }

func (p *clientPolicy) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.nonce, "dpop-nonce", "", "whether its DPoP proofs need a nonce of the server's: required, optional (for one that\n"+
		"cannot answer when it is asked for one), or default: as the server asks of all")
	f.StringVar(&p.profile, "profile", "", "security profile that it is held to: fapi2, or none beyond the server's own; the profile of a\n"+
		"certificate is chosen with invite")
}

// check replaces the words for what is not set, and refuses those that mean nothing.
func (p *clientPolicy) check() error {
	switch p.nonce {
	case "default":
		p.nonce = ""
	case "", "required", "optional":
	default:
		return usagef("--dpop-nonce %s: want required, optional or default", p.nonce)
	}
	switch p.profile {
	case "none":
		p.profile = ""
	case "", "fapi2":
	default:
		return usagef("--profile %s: want fapi2 or none; the profile of a certificate is chosen with pkictl invite --profile", p.profile)
	}
	return nil
}

// patch changes what flags were given for.
func (p *clientPolicy) patch(to *client.ClientPatch, changed func(string) bool) {
	if changed("dpop-nonce") {
		to.Nonce = &p.nonce
	}
	if changed("profile") {
		to.Profile = &p.profile
	}
}
