package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/thumbprint"
)

func (a *app) showCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show SERIAL|FILE", Short: "show a certificate and what became of it", Args: exactly("SERIAL|FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, c, err := a.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.printCertificate(c)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printCertificate(c *client.Certificate) error {
	if a.json {
		return a.printJSON(c)
	}
	return a.printFields(
		field{"serial", c.Serial}, field{"client", c.ClientID}, field{"profile", c.Profile}, field{"status", c.Status},
		field{"revoked", stamp(c.RevokedAt)}, field{"reason", c.RevocationReason}, field{"also revoked", strings.Join(c.AlsoRevoked, " ")},
		field{"not before", stamp(c.NotBefore)}, field{"not after", stamp(c.NotAfter)}, field{"names", strings.Join(c.Names, " ")},
		field{"x5t#S256", c.Thumbprint.String()}, field{"renews", c.Renews}, field{"issuer", c.Issuer},
	)
}

// find asks the CA for a certificate that the command line names by its serial or by a file.
func (a *app) find(ctx context.Context, arg string) (*client.API, *client.Certificate, error) {
	serial := strings.ToLower(strings.ReplaceAll(arg, ":", ""))
	cert, err := readCertificate(arg, nil)
	switch {
	case err == nil:
		serial = fmt.Sprintf("%032x", cert.SerialNumber)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, nil, err
	case !isSerial(serial):
		return nil, nil, fmt.Errorf("%s: no such file, and no serial, which is 32 hex digits", arg)
	}
	api, err := a.api(ctx)
	if err != nil {
		return nil, nil, err
	}
	c, err := api.Certificate(ctx, serial)
	if cert != nil && isForeign(cert, c, err) {
		return nil, nil, fmt.Errorf("%s was not issued by this CA (issuer %s)", arg, printable(cert.Issuer.String()))
	}
	if err != nil {
		return nil, nil, doing(err, "looking up %s", arg)
	}
	return api, c, nil
}

// isForeign tells from the answer for a certificate's serial that it is another CA's. That one may have given
// the same serial: what is revoked by a file must be what is in the file.
func isForeign(cert *x509.Certificate, found *client.Certificate, err error) bool {
	if p, ok := errors.AsType[*client.Problem](err); ok {
		return p.Status == http.StatusNotFound || p.Status == http.StatusBadRequest // not there, or no serial of ours
	}
	return err == nil && !found.Thumbprint.Equal(thumbprint.OfCertificate(cert))
}

func isSerial(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == 16
}

// readCertificate reads the first certificate of a file, PEM or DER; "-" is stdin.
func readCertificate(name string, stdin io.Reader) (*x509.Certificate, error) {
	text, err := readInput(name, stdin)
	if err != nil {
		return nil, err
	}
	der := text
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			der = block.Bytes
			break
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s holds no certificate in PEM or DER form: %w", name, err)
	}
	return cert, nil
}

var errEmptyStdin = errors.New("stdin is empty")

// readInput reads a small file, or for "-" stdin, which must not be empty.
func readInput(name string, stdin io.Reader) ([]byte, error) {
	const maxInput = 16 << 20
	if name != "-" || stdin == nil {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		stdin = f
	}
	text, err := io.ReadAll(io.LimitReader(stdin, maxInput+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxInput:
		return nil, fmt.Errorf("%s is larger than %d octets", name, maxInput)
	case name == "-" && len(bytes.TrimSpace(text)) == 0:
		return nil, errEmptyStdin
	}
	return text, nil
}

func (a *app) thumbprintCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "thumbprint FILE|-", Short: "print a certificate's x5t#S256, as it stands in the tokens bound to it", Args: exactly("FILE|-"),
		RunE: func(_ *cobra.Command, args []string) error {
			cert, err := readCertificate(args[0], a.stdin)
			if err != nil {
				return err
			}
			x5t := thumbprint.OfCertificate(cert)
			if a.json {
				return a.printJSON(map[string]thumbprint.Cert{"x5t#S256": x5t})
			}
			_, err = fmt.Fprintln(a.stdout, x5t)
			return err
		},
	}
	a.jsonFlag(cmd)
	return cmd
}
