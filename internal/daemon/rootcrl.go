package daemon

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/durable"
	"github.com/pkid/pkid/internal/stepca"
)

// SignRootCRL signs the root's CRL anew: with what it lists already, and the issuing CAs whose certificate
// files are named. It needs the root's key back in its place.
func SignRootCRL(ctx context.Context, cfg *config.Config, revoke []string) error {
	root, err := readCertificate(cfg.Path(cfg.Issuer.Root))
	if err != nil {
		return err
	}
	issuer, err := readCertificate(cfg.Path(cfg.Issuer.Certificate))
	if err != nil {
		return err
	}
	passphrase, err := cfg.ReadPassphrase()
	if err != nil {
		return err
	}
	_, err = signRootCRL(cfg, root, func(old *x509.RevocationList, number *big.Int, now time.Time) ([]byte, error) {
		entries := old.RevokedCertificateEntries
		for _, file := range revoke {
			if entries, err = revokeIssuer(entries, file, root, now); err != nil {
				return nil, err
			}
		}
		key, err := stepca.OpenKey(ctx, cfg.Path(rootKeyFile), passphrase)
		if err != nil {
			return nil, fmt.Errorf("root key: %w", err)
		}
		until := issuer.NotAfter
		if old.NextUpdate.After(until) { // it speaks of issuing CAs that came later
			until = old.NextUpdate
		}
		return stepca.CreateRootCRL(root, key, number, now, until, entries...)
	})
	return err
}

// signRootCRL has the CRL after the one in the data directory signed, and puts it into its place. A running daemon
// publishes it when it looks again.
func signRootCRL(cfg *config.Config, root *x509.Certificate, sign func(old *x509.RevocationList, number *big.Int, now time.Time) ([]byte, error)) ([]byte, error) {
	path := cfg.Path(cfg.Issuer.RootCRL)
	old, err := readRootCRL(path, root)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	number := big.NewInt(now.UnixMilli())
	if next := new(big.Int).Add(old.Number, big.NewInt(1)); next.Cmp(number) > 0 {
		number = next
	}
	der, err := sign(old, number, now)
	if err != nil {
		return nil, err
	}
	return der, replaceFile(path, der)
}

func readRootCRL(path string, root *x509.Certificate) (*x509.RevocationList, error) {
	der, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("root's CRL: %w", err)
	}
	list, err := x509.ParseRevocationList(der)
	if err == nil {
		err = list.CheckSignatureFrom(root)
	}
	if err != nil {
		return nil, fmt.Errorf("root's CRL %s: %w", path, err)
	}
	return list, nil
}

// revokeIssuer adds the issuing CA in file to entries, once.
func revokeIssuer(entries []x509.RevocationListEntry, file string, root *x509.Certificate, now time.Time) ([]x509.RevocationListEntry, error) {
	cert, err := readCertificate(file)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA || bytes.Equal(cert.Raw, root.Raw) || cert.CheckSignatureFrom(root) != nil {
		return nil, fmt.Errorf("%s: not an issuing CA below this root", file)
	}
	for _, e := range entries {
		if e.SerialNumber.Cmp(cert.SerialNumber) == 0 {
			return entries, nil
		}
	}
	return append(entries, x509.RevocationListEntry{
		SerialNumber: cert.SerialNumber, RevocationTime: now.UTC().Truncate(time.Second), ReasonCode: int(ca.CACompromise),
	}), nil
}

// replaceFile puts content in the place of a file in one step.
func replaceFile(path string, content []byte) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("writing: %w", err)
	}
	if err := writeNew(tmp, 0o644, content); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return durable.Dir(filepath.Dir(path))
}
