package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
)

// addKeys adds the flags that say where keys are and who signs the issuing CA.
func (f *initFlags) addKeys(cmd *cobra.Command) {
	flags, t := cmd.Flags(), &f.spec.Takeover
	flags.StringVar(&f.spec.IssuerKey, "issuer-key", "", "make the issuing key in a device: pkcs11:token=pkid;id=01;object=issuer?pin-source=file:/PATH (docs/key-custody.md)")
	flags.StringVar(&f.spec.TokenKey, "token-key", "", "make the key that signs tokens in a device, likewise")
	flags.BoolVar(&f.spec.ExistingKeys, "existing-key", false, "the keys of --issuer-key and --token-key are in their devices already: use them")
	flags.BoolVar(&f.spec.OfflineRoot, "offline-root", false, "make no root, and a request for the issuing CA (pkid issuer csr, pkid issuer install)")
	flags.StringVar(&t.RootCert, "root-cert", "", "an existing root's certificate: with --root-key it signs the issuing CA")
	flags.StringVar(&t.RootKey, "root-key", "", "file of the existing root's key, in PEM; it is not kept")
	flags.StringVar(&t.RootCRL, "root-crl", "", "file of the existing root's newest CRL: what it lists stays listed")
	flags.StringVar(&t.IssuerCert, "issuer-cert", "", "an existing issuing CA's certificate, with the CAs above it: take it over, below --root-cert")
	flags.StringVar(&t.IssuerKey, "issuer-key-file", "", "file of the existing issuing CA's key, in PEM")
	flags.StringVar(&t.Passphrase, "key-passphrase", "", "where the passphrase of --root-key or --issuer-key-file is: file:PATH, env:NAME or credential:NAME")
}

// printRequested says what to do with a CA that another CA has to sign yet.
func printRequested(w io.Writer, cfg *config.Config, dir string) error {
	_, err := fmt.Fprintf(w, `passphrase of the keys      %s

The issuing CA's certificate is missing. Have the root, or a CA below it, sign this request as a CA:

  pkid issuer csr --data %s

Its path length may be 0, its key usage must be keyCertSign and cRLSign. If this daemon shall publish the CRL of who signs
it, the certificate says so with the CRL distribution point %s. Then:

  pkid issuer install --data %s CERT.pem --root ROOT.pem
`, cfg.PassphraseText(), dir, daemon.RootCRLURL(cfg), dir)
	return err
}

// rootKeyLine says where the root's key is, if it is here.
func rootKeyLine(cfg *config.Config) string {
	path := abs(cfg.Path("keys/root.key"))
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return fmt.Sprintf("root key                    %s (keep it elsewhere: serving does not need it)\n", path)
}
