package main

import (
	"encoding/hex"
	"encoding/pem"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/thumbprint"
)

func (a *app) rootCommand() *cobra.Command {
	var fingerprint, address string
	cmd := &cobra.Command{
		Use: "root --fingerprint HEX --url URL", Short: "fetch the CA's root certificate, and print it if it has the fingerprint", Args: exactly(),
		Long: "Fetch the CA's root certificate and print it (PEM), for what has no identity and trusts the CA all the same: curl,\n" +
			"a resource server. The connection proves nothing; the fingerprint does, which `pkid quickstart` printed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			want, err := parseFingerprint(fingerprint)
			if err != nil {
				return err
			}
			if u, err := url.Parse(address); err != nil || u.Scheme != "https" || u.Host == "" {
				return usagef("name the CA with --url https://HOST:PORT")
			}
			root, err := client.FetchRoot(cmd.Context(), address, want)
			if err != nil {
				return err
			}
			return pem.Encode(a.stdout, &pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
		},
	}
	cmd.Flags().StringVar(&fingerprint, "fingerprint", "", "SHA-256 of the root in hex, with or without colons")
	cmd.Flags().StringVar(&address, "url", "", "where the CA answers, such as https://pki.example.com:8443")
	return cmd
}

// parseFingerprint reads a SHA-256 as pkid and openssl print it.
func parseFingerprint(text string) (t thumbprint.Cert, err error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil || len(raw) != len(t) {
		return t, usagef("name the root's SHA-256 with --fingerprint, in 64 hex digits")
	}
	return thumbprint.Cert(raw), nil
}
