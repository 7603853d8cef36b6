package main

import (
	"encoding/pem"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
)

func (a *app) adoptCommand() *cobra.Command {
	var ad client.Adoption
	cmd := &cobra.Command{
		Use: "adopt FILE", Short: "make a certificate count again that the CA lost the record of", Args: exactly("FILE"),
		Long: "Make a certificate count again that this CA signed and lost the record of, because it was restored from a backup\n" +
			"that is older than the certificate. Until then the CA refuses it. `pkid restore --audit` lists such certificates.",
		RunE: func(cmd *cobra.Command, args []string) error {
			cert, err := readCertificate(args[0], a.stdin)
			if err != nil {
				return err
			}
			api, err := a.api(cmd.Context())
			if err != nil {
				return err
			}
			ad.Certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
			c, err := api.Adopt(cmd.Context(), ad)
			if err != nil {
				return doing(err, "adopting %s", args[0])
			}
			return a.printCertificate(c)
		},
	}
	cmd.Flags().StringVar(&ad.ClientID, "client", "", "whom the certificate speaks for (default: its common name)")
	cmd.Flags().StringVar(&ad.Profile, "profile", "", "its profile (default: client)")
	a.jsonFlag(cmd)
	return cmd
}
