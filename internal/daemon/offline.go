package daemon

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/durable"
	"github.com/pkid/pkid/internal/stepca"
)

// requestFile is the request of an issuing CA whose certificate another CA will sign.
const requestFile = "issuer.csr"

// maxCAFile bounds a file of certificates, or a CRL of a CA that signs CAs, in octets.
const maxCAFile = 1 << 20

// writeRequest writes the issuing CA's request.
func writeRequest(cfg *config.Config, key crypto.Signer) error {
	der, err := stepca.CreateIssuerRequest(cfg.Name+" Issuing CA", key)
	if err != nil {
		return err
	}
	return writeNew(cfg.Path(requestFile), 0o644, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// Request returns the issuing CA's request, in PEM. It needs no key.
func Request(cfg *config.Config) ([]byte, error) {
	text, err := os.ReadFile(cfg.Path(requestFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: no such file: only `pkid init --offline-root` leaves a request", cfg.Path(requestFile))
	}
	if err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	return text, nil
}

// Incomplete returns what a data directory lacks before it can be served, and nil if that is nothing.
func Incomplete(cfg *config.Config) error {
	missing := func(path string) bool {
		_, err := os.Stat(cfg.Path(path))
		return errors.Is(err, os.ErrNotExist)
	}
	if !missing(cfg.Issuer.Certificate) || missing(requestFile) {
		return nil // it is there, or nobody waits for it, and whoever reads it says that it is missing
	}
	dir := cfg.Path(".")
	return fmt.Errorf("the issuing CA has no certificate yet: have the root sign what `pkid issuer csr --data %s` prints, and give the certificate to `pkid issuer install --data %s`", dir, dir)
}

// Installation names the files that complete a CA whose root is elsewhere.
type Installation struct {
	Certificate string // PEM: the issuing CA's, with those between it and the root, in any order
	Root        string // PEM; may be empty if the root is in Certificate
	RootCRL     string // PEM or DER: the CRL of who signed the issuing CA; may be empty
}

// InstallIssuer checks everything about an issuing CA's certificate and completes the data directory with it. It returns
// what an operator should know of the chain.
func InstallIssuer(ctx context.Context, cfg *config.Config, in Installation) (notes []string, err error) {
	if _, err := os.Stat(cfg.Path(cfg.Issuer.Certificate)); err == nil {
		return nil, fmt.Errorf("%s: %w: this directory has its issuing CA", cfg.Path(cfg.Issuer.Certificate), ErrExists)
	}
	passphrase, err := cfg.ReadPassphrase()
	if err != nil {
		return nil, err
	}
	key, err := stepca.OpenKey(ctx, cfg.KeyURI(cfg.Issuer.Key), passphrase)
	if err != nil {
		return nil, fmt.Errorf("issuing key: %w", err)
	}
	chain, err := readChain(key.Public(), in.Certificate, in.Root)
	if err != nil {
		return nil, err
	}
	if err := chain.check(key, cfg.Hosts, time.Now()); err != nil {
		return nil, err
	}
	crl, err := readAboveCRL(in.RootCRL, chain)
	if err != nil {
		return nil, err
	}
	notes = chain.notes(time.Now())
	if crl == nil && publishedHere(chain.certs[0], cfg.URLs.Status) {
		notes = append(notes, "the issuing CA's certificate says that its issuer's CRL is at "+crlURL(cfg.URLs.Status, rootID)+
			": give that CRL to `pkid issuer install --root-crl FILE` before the daemon can start")
	}
	return notes, install(ctx, cfg, chain, crl, key)
}

// installing is the name of a directory with all that an installation makes. It is there while that moves to its place.
const installing = ".installing"

// install makes everything in a directory inside the data directory, as Init does, and moves it to its place, the issuing
// CA's certificate last: without that file the directory is incomplete. When that was interrupted, the next one goes on
// where it was: the store, and what an operator has, are made once.
func install(ctx context.Context, cfg *config.Config, chain caChain, crl []byte, key crypto.Signer) error {
	dir := cfg.Path(".")
	made := filepath.Join(dir, installing)
	switch before, err := os.ReadFile(filepath.Join(made, cfg.Issuer.Certificate)); {
	case errors.Is(err, os.ErrNotExist):
		if _, err := os.Stat(cfg.Path(adminDir)); err == nil { // a store is there too, with all that was issued
			return fmt.Errorf("%s: %w: this directory had its issuing CA; put %s back", cfg.Path(adminDir), ErrExists, cfg.Path(cfg.Issuer.Certificate))
		}
		if err := makeInstallation(ctx, cfg, made, chain, crl, key); err != nil {
			return fmt.Errorf("installing the issuing CA: %w", err)
		}
	case err != nil:
		return fmt.Errorf("installing the issuing CA: %w", err)
	case !bytes.Equal(before, chain.pem()):
		return fmt.Errorf("an installation of another certificate was interrupted: finish it with that one, which is %s", filepath.Join(made, cfg.Issuer.Certificate))
	}
	return moveUpBut(cfg.Issuer.Certificate, made, dir)
}

// makeInstallation makes the directory made, whole or not at all.
func makeInstallation(ctx context.Context, cfg *config.Config, made string, chain caChain, crl []byte, key crypto.Signer) (err error) {
	dir := cfg.Path(".")
	text, err := os.ReadFile(filepath.Join(dir, config.File))
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, unfinished)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	inside, err := config.Parse(text, tmp)
	if err != nil {
		return err
	}
	if err := begin(ctx, inside, chain, crl, key, nil); err != nil {
		return err
	}
	if err := errors.Join(durable.Dir(tmp), os.Rename(tmp, made)); err != nil {
		return err
	}
	return durable.Dir(dir)
}

// InstallRootCRL replaces the CRL that the daemon publishes of who signed the issuing CA.
func InstallRootCRL(cfg *config.Config, file string) error {
	if err := Incomplete(cfg); err != nil {
		return err
	}
	chain, err := loadChain(cfg.Path(cfg.Issuer.Certificate), cfg.Path(cfg.Issuer.Root))
	if err != nil {
		return err
	}
	path := cfg.Path(cfg.Issuer.RootCRL)
	list, err := parseAboveCRL(file, chain.above())
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(path); err == nil {
		if old, err := x509.ParseRevocationList(old); err == nil && old.Number.Cmp(list.Number) > 0 {
			return fmt.Errorf("%s: its number %d is lower than that of the CRL in service, %d: it is an older one", file, list.Number, old.Number)
		}
	}
	return replaceFile(path, list.Raw)
}

// readChain reads the files of a CA. root may be empty.
func readChain(key crypto.PublicKey, file, rootFile string) (caChain, error) {
	certs, err := readCertificates(file)
	if err != nil {
		return caChain{}, err
	}
	var root *x509.Certificate
	if rootFile != "" {
		roots, err := readCertificates(rootFile)
		if err != nil {
			return caChain{}, err
		}
		if len(roots) != 1 {
			return caChain{}, fmt.Errorf("%s: want one certificate, the root's", rootFile)
		}
		root = roots[0]
	}
	chain, err := orderChain(key, certs, root)
	if err != nil {
		return caChain{}, fmt.Errorf("%s: %w", file, err)
	}
	return chain, nil
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	text, err := readCAFile(path)
	if err != nil {
		return nil, err
	}
	certs, err := parseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs, nil
}

// readAboveCRL returns the CRL in file in DER, checked, or nil if there is no file.
func readAboveCRL(file string, chain caChain) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	list, err := parseAboveCRL(file, chain.above())
	if err != nil {
		return nil, err
	}
	for _, entry := range list.RevokedCertificateEntries {
		if entry.SerialNumber.Cmp(chain.certs[0].SerialNumber) == 0 {
			return nil, fmt.Errorf("%s: the CRL revokes the issuing CA", file)
		}
	}
	return list.Raw, nil
}

// parseAboveCRL reads a CRL of the CA that has this certificate.
func parseAboveCRL(file string, signer *x509.Certificate) (*x509.RevocationList, error) {
	der, err := readCAFile(file)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(der); block != nil {
		der = block.Bytes
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("%s: no CRL: %w", file, err)
	}
	if err := list.CheckSignatureFrom(signer); err != nil {
		return nil, fmt.Errorf("%s: not the CRL of %q: %w", file, signer.Subject, err)
	}
	switch {
	case list.Number == nil:
		return nil, fmt.Errorf("%s: the CRL has no number (RFC 5280 section 5.2.3)", file)
	case !bytes.Equal(list.AuthorityKeyId, signer.SubjectKeyId):
		return nil, fmt.Errorf("%s: the CRL has no authority key identifier, or another CA's (RFC 5280 section 5.2.1)", file)
	case list.NextUpdate.IsZero():
		return nil, fmt.Errorf("%s: the CRL has no nextUpdate (RFC 5280 section 5.1.2.5)", file)
	case time.Now().After(list.NextUpdate):
		return nil, fmt.Errorf("%s: the CRL expired at %s: have a new one signed", file, stamp(list.NextUpdate))
	}
	return list, nil
}

func readCAFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCAFile+1))
	if err == nil && len(text) > maxCAFile {
		err = fmt.Errorf("%s: larger than %d octets", path, maxCAFile)
	}
	return text, err
}
