package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/thumbprint"
)

func (a *app) inviteCommand() *cobra.Command {
	var r client.InvitationRequest
	cmd := &cobra.Command{
		Use: "invite CLIENT", Short: "print an enrolment token, good for one certificate of CLIENT", Args: exactly("CLIENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.api(cmd.Context())
			if err != nil {
				return err
			}
			r.ClientID = args[0]
			inv, err := api.Invite(cmd.Context(), r)
			if err != nil {
				return fmt.Errorf("inviting %s: %w", args[0], err)
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
	f.StringArrayVar(&r.Scopes, "scope", nil, "scope that the client may ask for; repeatable")
	f.StringArrayVar(&r.Resources, "resource", nil, "resource that the client may ask for; repeatable")
	f.StringVar(&r.TTL, "ttl", "", "how long the invitation holds (default 24h, at most 720h)")
	f.StringVar(&r.Lifetime, "lifetime", "", "lifetime of the certificate (default: the profile's)")
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
			serial, err := serialOf(args[0])
			if err != nil {
				return err
			}
			api, err := a.api(cmd.Context())
			if err != nil {
				return err
			}
			if !yes && !release {
				if err := a.confirmRevocation(cmd.Context(), api, serial, r); err != nil {
					return err
				}
			}
			c, err := api.Revoke(cmd.Context(), serial, r)
			if err != nil {
				return fmt.Errorf("revoking %s: %w", serial, err)
			}
			if n := len(c.ActiveSuccessors); n > 0 {
				a.note("active still: %s, which renewed it (%d in all)", printable(c.ActiveSuccessors[n-1]), n)
				a.note("to revoke what renewed it as well: pkictl revoke %s --lineage", c.Serial)
			}
			return a.printCertificate(c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&reason, "reason", "", "RFC 5280 reason: keyCompromise, superseded, cessationOfOperation, certificateHold, ... (default unspecified)")
	f.BoolVar(&lineage, "lineage", false, "revoke also what renewed it, which may be a thief's (default with --reason keyCompromise; --lineage=false: not)")
	f.BoolVar(&release, "release", false, "release a certificate that is on hold")
	f.BoolVar(&yes, "yes", false, "do not ask")
	a.jsonFlag(cmd)
	return cmd
}

// confirmRevocation shows what would be revoked and asks. Without somebody to ask it refuses.
func (a *app) confirmRevocation(ctx context.Context, api *client.API, serial string, r client.Revocation) error {
	in, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usagef("revoking cannot be undone: say --yes")
	}
	c, err := api.Certificate(ctx, serial)
	if err != nil {
		return fmt.Errorf("looking up %s: %w", serial, err)
	}
	also := ""
	if r.WithLineage() {
		also = ", and every certificate that renewed it"
	}
	fmt.Fprintf(a.stderr, "revoke %s of %s (%s, expires %s)%s? [y/N] ", c.Serial, printable(c.ClientID), c.Status, stamp(c.NotAfter), also)
	answer, err := bufio.NewReader(io.LimitReader(in, 100)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(answer))) {
		return errors.New("nothing was revoked")
	}
	return nil
}

func (a *app) listCommand() *cobra.Command {
	var f client.CertificateFilter
	var before, format string
	cmd := &cobra.Command{
		Use: "list", Short: "list certificates", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if f.ExpiresBefore, err = parseWhen(before, time.Now()); err != nil {
				return err
			}
			if a.json {
				format = "ndjson"
			}
			sheet, err := newSheet(format, a.stdout)
			if err != nil {
				return err
			}
			api, err := a.api(cmd.Context())
			if err != nil {
				return err
			}
			for c, err := range api.Certificates(cmd.Context(), f) {
				if err != nil {
					return fmt.Errorf("listing certificates: %w", errors.Join(err, sheet.end()))
				}
				if err := sheet.row(c); err != nil {
					return err
				}
			}
			return sheet.end()
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Client, "client", "", "of this client")
	flags.StringVar(&f.Name, "name", "", "with this name")
	flags.StringVar(&f.Thumbprint, "thumbprint", "", "with this x5t#S256")
	flags.StringVar(&f.Status, "status", "", "active, held, revoked or expired")
	flags.StringVar(&f.Profile, "profile", "", "of this profile")
	flags.StringVar(&before, "expires-before", "", "expiring before a time (2006-01-02 or RFC 3339) or within a duration (72h, 7d)")
	flags.StringVar(&format, "format", "table", strings.Join(formats, ", "))
	a.jsonFlag(cmd)
	return cmd
}

// parseWhen reads a time, or a duration from now; an empty text is the zero time.
func parseWhen(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return t, nil
	}
	var days int
	if n, err := fmt.Sscanf(text+"\n", "%dd\n", &days); n == 1 && err == nil && days >= 0 {
		return now.AddDate(0, 0, days), nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(d), nil
	}
	return time.Time{}, usagef("%q is no time (2006-01-02 or RFC 3339) and no duration (72h, 7d)", text)
}

func (a *app) showCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show SERIAL|FILE", Short: "show a certificate and what became of it", Args: exactly("SERIAL|FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			serial, err := serialOf(args[0])
			if err != nil {
				return err
			}
			api, err := a.api(cmd.Context())
			if err != nil {
				return err
			}
			c, err := api.Certificate(cmd.Context(), serial)
			if err != nil {
				return fmt.Errorf("looking up %s: %w", serial, err)
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

// serialOf returns the serial of a certificate file, or the argument as it is if there is no such file.
func serialOf(arg string) (string, error) {
	cert, err := readCertificate(arg, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return arg, nil
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%032x", cert.SerialNumber), nil
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

// readInput reads a small file, or stdin for "-".
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
	if err == nil && len(text) > maxInput {
		err = fmt.Errorf("%s is larger than %d octets", name, maxInput)
	}
	return text, err
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
