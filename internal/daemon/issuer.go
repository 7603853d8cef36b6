package daemon

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/stepca"
)

// issuerPaths are where an issuing CA is kept, resolved.
type issuerPaths struct{ certificate, key, root string }

func newIssuer(cert, root *x509.Certificate, key crypto.Signer, statusURL string) (*ca.Issuer, error) {
	signer, err := stepca.NewSigner(cert, key)
	if err != nil {
		return nil, fmt.Errorf("issuing CA: %w", err)
	}
	id := ca.IssuerID(cert)
	return &ca.Issuer{Signer: signer, Root: root, CRLURL: crlURL(statusURL, id), AIAURL: aiaURL(statusURL, id)}, nil
}

// The status listener's URLs. They stand in certificates, so they must never change their form. The root's
// CRL and certificate have the id "root".
func crlURL(status, id string) string { return status + "/crl/" + id + ".crl" }
func aiaURL(status, id string) string { return status + "/issuers/" + id + ".crt" }

const rootID = "root"

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

// loadIssuer opens the issuing CA: its certificate, its root's, and its key, the only CA key that a daemon
// opens.
func loadIssuer(ctx context.Context, paths issuerPaths, statusURL string, passphrase []byte) (*ca.Issuer, error) {
	cert, err := readCertificate(paths.certificate)
	if err != nil {
		return nil, err
	}
	root, err := readCertificate(paths.root)
	if err != nil {
		return nil, err
	}
	key, err := stepca.OpenKey(ctx, paths.key, passphrase)
	if err != nil {
		return nil, fmt.Errorf("issuing key: %w", err)
	}
	return newIssuer(cert, root, key, statusURL)
}
