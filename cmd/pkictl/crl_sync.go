package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/crlfile"
)

// syncFlags are those of crl sync.
type syncFlags struct {
	out, format, mode string
	which             whichCRLs
	interval          time.Duration
	once              bool

	exec          string
	execTimeout   time.Duration
	hookInterval  time.Duration
	haproxySocket string
	haproxyName   string
}

func (a *app) crlSyncCommand() *cobra.Command {
	var f syncFlags
	cmd := &cobra.Command{
		Use: "sync --out FILE", Short: "keep a file of CRLs for a server that reads them from a file, and tell it of each change", Args: exactly(),
		Long: "Keep a file of CRLs for a server that reads them from a file, and tell it of each change: all of the CA's in PEM, its\n" +
			"root's among them for servers that check the whole chain, or one in DER. Each is verified before it goes into the file,\n" +
			"none is replaced by an older one, and the file is replaced in one step, with its owner and mode. While the CA is away,\n" +
			"the file stays. It runs until it is stopped; with --once it ends with 0 if the file has the newest lists and the server\n" +
			"knows them.\n\n" +
			"--exec names a command line for the shell, such as 'nginx -s reload'. It runs after each change, again if it fails, and\n" +
			"gets the file's name as PKICTL_CRL_FILE. --haproxy-socket tells a running HAProxy over its runtime socket, without a\n" +
			"reload; with --exec beside it, that command runs where HAProxy does not take the file.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.syncCRLs(cmd.Context(), &f) },
	}
	p := cmd.Flags()
	p.StringVar(&f.out, "out", "", "file to keep")
	p.StringVar(&f.format, "format", "pem", "pem, or der for a single CRL")
	p.StringVar(&f.mode, "mode", "", "mode of the file in octal; by default that of the one which is there, or 0644")
	f.which.flags(cmd)
	p.DurationVar(&f.interval, "interval", 500*time.Millisecond, "how often to ask for newer CRLs")
	p.BoolVar(&f.once, "once", false, "bring the file up to date, and end")
	p.StringVar(&f.exec, "exec", "", "shell command to run after each change, such as 'nginx -s reload'")
	p.DurationVar(&f.execTimeout, "exec-timeout", 30*time.Second, "how long the command may take")
	p.DurationVar(&f.hookInterval, "hook-interval", 500*time.Millisecond, "least time from telling the server to telling it again")
	p.StringVar(&f.haproxySocket, "haproxy-socket", "", "UNIX socket of a running HAProxy (`PATH` of `stats socket`, level admin)")
	p.StringVar(&f.haproxyName, "haproxy-name", "", "`NAME` of the file in HAProxy's configuration, where it is not that of --out")
	return cmd
}

func (a *app) syncCRLs(ctx context.Context, f *syncFlags) error {
	log := slog.New(slog.NewTextHandler(a.stderr, nil))
	c, err := f.config(log)
	if err != nil {
		return err
	}
	id, err := a.trusted()
	if err != nil {
		return err
	}
	c.Learn = f.learn(id)
	s, err := crlfile.New(c)
	if err != nil {
		return err
	}
	run := s.Run
	if f.once {
		run = s.Once
	}
	err = run(ctx)
	if errors.Is(err, crlfile.ErrNotOne) {
		return usagef("%w: choose one with --issuer and --shard, or write all of them in PEM", err)
	}
	return err
}

// learn returns what asks the CA for its CRLs. It has one API for all its questions, and so a connection that stays. A
// renewal by another process may bring a new root, and then it begins anew.
func (f *syncFlags) learn(id *client.Identity) func(context.Context) ([]crlfile.Point, error) {
	rootFile := filepath.Join(id.Dir(), "root.crt")
	api, seen := id.API(), fileTime(rootFile)
	return func(ctx context.Context) ([]crlfile.Point, error) {
		if now := fileTime(rootFile); !now.Equal(seen) {
			newer, err := client.Load(id.Dir())
			if err != nil {
				return nil, err
			}
			id, api, seen = newer, newer.API(), now
		}
		ca, err := api.CA(ctx)
		if err != nil {
			return nil, fmt.Errorf("asking for the issuing CAs: %w", err)
		}
		points, err := crlPoints(ca, f.which, f.format == "pem", id.TrustedRoots())
		if err == nil && len(points) == 0 {
			err = errors.New(f.which.String())
		}
		return points, err
	}
}

// fileTime is when a file was changed; zero if it cannot be known.
func fileTime(name string) time.Time {
	info, err := os.Stat(name)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// config checks the flags.
func (f *syncFlags) config(log *slog.Logger) (c crlfile.Config, err error) {
	switch {
	case f.out == "" || f.out == "-":
		return c, usagef("name the file with --out")
	case f.format != "pem" && f.format != "der":
		return c, usagef("unknown format %q: use pem or der", f.format)
	case f.interval < 50*time.Millisecond || f.hookInterval <= 0 || f.execTimeout <= 0:
		return c, usagef("--interval must be 50ms at least, and --hook-interval and --exec-timeout more than zero")
	case f.haproxyName != "" && f.haproxySocket == "":
		return c, usagef("--haproxy-name goes with --haproxy-socket")
	case f.haproxySocket != "" && f.format != "pem":
		return c, usagef("HAProxy takes PEM")
	}
	file, err := filepath.Abs(f.out)
	if err != nil {
		return c, err
	}
	c = crlfile.Config{File: file, DER: f.format == "der", Interval: f.interval, HookInterval: f.hookInterval, Logger: log}
	if f.mode != "" {
		mode, err := strconv.ParseUint(f.mode, 8, 9)
		if err != nil || mode&0o400 == 0 {
			return c, usagef("--mode %q: want octal digits, such as 0644", f.mode)
		}
		c.Mode = fs.FileMode(mode)
	}
	if f.exec != "" {
		c.Hook = crlfile.Command(f.exec, file, f.execTimeout, log)
	}
	if f.haproxySocket == "" {
		return c, nil
	}
	name := f.haproxyName
	if name == "" {
		name = file
	}
	h, err := crlfile.NewHAProxy(f.haproxySocket, name, file)
	if err != nil {
		return c, usageError{fmt.Errorf("%w: choose a file without blanks and quotes", err)}
	}
	c.Hook = crlfile.Else(h.Replace, c.Hook, log)
	return c, nil
}

// crlPoints returns the CRLs of the CA's issuing CAs, and if they are wanted those of the CAs above them, as far as the
// certificates say where they are.
func crlPoints(ca *client.CA, which whichCRLs, chains bool, roots []*x509.Certificate) ([]crlfile.Point, error) {
	certs, err := ca.VerifiedIssuers(roots...)
	if err != nil {
		return nil, err
	}
	var points, above []crlfile.Point
	for _, cert := range certs {
		i := ca.IssuerOf(cert)
		if which.issuer != "" && which.issuer != i.ID {
			continue
		}
		crls := i.CRLs()
		for _, n := range slices.Sorted(maps.Keys(crls)) {
			if which.shard != everyShard && which.shard != int64(n) {
				continue
			}
			p := crlfile.Point{Name: i.ID, Signer: cert, URL: crls[n], Scopes: []string{crls[n]}}
			if n > 0 {
				p.Name = fmt.Sprintf("%s shard %d", i.ID, n)
			}
			if i.WholeCRL {
				p.Scopes = []string{""}
			}
			points = append(points, p)
		}
		for _, p := range pointsAbove(cert, i.Chain, roots) {
			if !slices.ContainsFunc(above, func(o crlfile.Point) bool { return o.URL == p.URL && o.Name == p.Name }) {
				above = append(above, p)
			}
		}
	}
	if !chains || len(points) == 0 {
		return points, nil
	}
	return append(points, above...), nil
}

// pointsAbove returns the CRLs by which a server checks an issuing CA and those between it and the roots: where each
// certificate says that they are.
func pointsAbove(cert *x509.Certificate, chain []string, roots []*x509.Certificate) []crlfile.Point {
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, root := range roots {
		opts.Roots.AddCert(root)
	}
	for _, text := range chain {
		opts.Intermediates.AppendCertsFromPEM([]byte(text))
	}
	chains, err := cert.Verify(opts)
	if err != nil {
		return nil // it has expired, and with it all that it signed
	}
	var points []crlfile.Point
	for _, way := range chains {
		for k, below := range way[:len(way)-1] {
			at := slices.IndexFunc(below.CRLDistributionPoints, func(u string) bool {
				return strings.HasPrefix(u, "http://") || strings.HasPrefix(u, "https://")
			})
			if at < 0 {
				continue
			}
			url := below.CRLDistributionPoints[at]
			points = append(points, crlfile.Point{
				Name: fmt.Sprintf("CA above (%s)", way[k+1].Subject), Signer: way[k+1], URL: url, Scopes: []string{"", url},
			})
		}
	}
	return points
}
