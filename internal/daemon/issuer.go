package daemon

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/stepca"
)

func newIssuer(chain caChain, key crypto.Signer, cfg *config.Config) (*ca.Issuer, error) {
	signer, err := stepca.NewSigner(chain.certs[0], key)
	if err != nil {
		return nil, fmt.Errorf("issuing CA: %w", err)
	}
	id := ca.IssuerID(chain.certs[0])
	return &ca.Issuer{
		Signer: signer, Root: chain.root, Intermediates: chain.certs[1:], Whole: cfg.Issuer.WholeCRL,
		CRLURL: crlURL(cfg.URLs.Status, id), AIAURL: aiaURL(cfg.URLs.Status, id), OCSPURL: ocspURL(cfg),
	}, nil
}

// The status listener's URLs. They stand in certificates, so they must never change their form. The root's
// CRL and certificate have the id "root".
func crlURL(status, id string) string { return status + "/crl/" + id + ".crl" }
func aiaURL(status, id string) string { return status + "/issuers/" + id + ".crt" }

const rootID = "root"

// ocspURL is the same for all issuing CAs: a request names the one that it is about.
func ocspURL(cfg *config.Config) string {
	if !cfg.OCSP.On() {
		return ""
	}
	return cfg.URLs.Status + "/ocsp"
}

// RootCRLURL is where the daemon publishes the CRL of who signed the issuing CA.
func RootCRLURL(cfg *config.Config) string { return crlURL(cfg.URLs.Status, rootID) }

// identity ties a store to the issuing CA and root whose certificates it holds: serving a store under another
// CA would publish its revocations nowhere.
func identity(i *ca.Issuer) string { return i.ID() + " below " + fingerprint(i.Root) }

func sameKey(key crypto.Signer, i *ca.Issuer) bool {
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(i.Signer.Certificate().PublicKey)
}

func readCertificate(path string) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading certificate: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: want a PEM certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
}

func certificatePEM(der ...[]byte) []byte {
	var out []byte
	for _, d := range der {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d})...)
	}
	return out
}

// loadChain reads the issuing CA's certificate with those above it, and the root's.
func loadChain(certificates, root string) (chain caChain, err error) {
	if chain.certs, err = readCertificates(certificates); err != nil {
		return chain, fmt.Errorf("issuing CA: %w", err)
	}
	if chain.root, err = readCertificate(root); err != nil {
		return chain, err
	}
	return chain, nil
}

// loadIssuer opens the issuing CA: its certificate, its root's, and its key, the only CA key that a daemon
// opens.
func loadIssuer(ctx context.Context, cfg *config.Config, passphrase []byte) (*ca.Issuer, error) {
	if err := Incomplete(cfg); err != nil {
		return nil, err
	}
	chain, err := loadChain(cfg.Path(cfg.Issuer.Certificate), cfg.Path(cfg.Issuer.Root))
	if err != nil {
		return nil, err
	}
	key, err := stepca.OpenKey(ctx, cfg.KeyURI(cfg.Issuer.Key), passphrase)
	if err != nil {
		return nil, fmt.Errorf("issuing key: %w", err)
	}
	return newIssuer(chain, key, cfg)
}

// loadRootCRL reads the CRL of who signed the issuing CA. There need not be one unless the issuing CA's certificate says
// that it is published here.
func loadRootCRL(cfg *config.Config, issuer *ca.Issuer) ([]byte, error) {
	der, err := os.ReadFile(cfg.Path(cfg.Issuer.RootCRL))
	if errors.Is(err, os.ErrNotExist) {
		if publishedHere(issuer.Signer.Certificate(), cfg.URLs.Status) {
			return nil, fmt.Errorf("the root's CRL is missing at %s, and the issuing CA's certificate says that it is published here: `pkid issuer install --data %s --root-crl FILE`",
				cfg.Path(cfg.Issuer.RootCRL), cfg.Path("."))
		}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the root's CRL: %w", err)
	}
	return der, nil
}
