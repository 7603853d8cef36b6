package daemon

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/stepca"
)

// Rotation is how an operator asks a running daemon for its next issuing CA.
type Rotation struct {
	Home     string // the operator's credentials; admin in the data directory if empty
	KeyType  string // of the new key; that of the first issuing CA if empty
	KeyURI   string // of a key in a device, instead of a new one
	ActiveIn string // a duration: from when on it signs; the daemon's default if empty
}

// Operator returns the API of the running daemon.
func (r Rotation) Operator(cfg *config.Config) (*client.API, error) {
	if lead, err := time.ParseDuration(cmp.Or(r.ActiveIn, "0s")); err != nil || lead < 0 {
		return nil, fmt.Errorf(`--active-in: want a duration such as 10m or 0s, not %q`, r.ActiveIn)
	}
	id, err := client.Load(cmp.Or(r.Home, cfg.Path(adminDir)))
	if err != nil {
		return nil, fmt.Errorf("operator's credentials: %w", err)
	}
	return id.API(), nil
}

// Next returns the issuing CA that waits for its certificate. If there is none it is asked for.
func (r Rotation) Next(ctx context.Context, cfg *config.Config) (*client.IssuerState, error) {
	api, err := r.Operator(cfg)
	if err != nil {
		return nil, err
	}
	return r.next(ctx, api)
}

func (r Rotation) next(ctx context.Context, api *client.API) (*client.IssuerState, error) {
	all, err := api.IssuerStates(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		switch {
		case i.State != "requested":
		case r.KeyType != "" || r.KeyURI != "":
			return nil, fmt.Errorf("issuing CA %s waits for its certificate already: leave out --key and --key-type to go on with it, or `pkid issuer drop %s`", i.ID, i.ID)
		default:
			return &i, nil
		}
	}
	return api.RequestIssuer(ctx, client.IssuerRequest{KeyType: r.KeyType, KeyURI: r.KeyURI})
}

// Install gives the certificate that was signed for the next issuing CA to the running daemon.
func (r Rotation) Install(ctx context.Context, cfg *config.Config, in Installation) (*client.IssuerState, error) {
	api, err := r.Operator(cfg)
	if err != nil {
		return nil, err
	}
	certs, err := readCertificates(in.Certificate)
	if err != nil {
		return nil, err
	}
	if in.Root != "" {
		root, err := readCertificate(in.Root)
		if err != nil {
			return nil, err
		}
		certs = append(certs, root)
	}
	all, err := api.IssuerStates(ctx)
	if err != nil {
		return nil, err
	}
	id, own := match(all, certs)
	if own == nil {
		return nil, fmt.Errorf("%s: no certificate in it is for a request that waits: `pkid issuer csr --data %s` prints the request", in.Certificate, cfg.Path("."))
	}
	body := client.IssuerInstallation{Certificate: string(certificatePEM(own.Raw)), ActiveIn: r.ActiveIn}
	above := own
	for _, c := range certs {
		switch {
		case c == own:
		case selfIssued(c):
			body.Root = string(certificatePEM(c.Raw))
		default:
			body.Chain = append(body.Chain, string(certificatePEM(c.Raw)))
		}
		if c != own && own.CheckSignatureFrom(c) == nil {
			above = c
		}
	}
	if in.RootCRL != "" {
		if above == own { // its signer is the root that the daemon has
			if above, err = readCertificate(cfg.Path(cfg.Issuer.Root)); err != nil {
				return nil, err
			}
		}
		list, err := parseAboveCRL(in.RootCRL, above)
		if err != nil {
			return nil, err
		}
		body.RootCRL = list.Raw
	}
	return api.InstallIssuer(ctx, id, body)
}

// match finds the certificate that answers a request, or that was installed and did not become active.
func match(all []client.IssuerState, certs []*x509.Certificate) (id string, own *x509.Certificate) {
	for _, i := range all {
		for _, c := range certs {
			if block, _ := pem.Decode([]byte(i.CSR)); block != nil {
				req, err := x509.ParseCertificateRequest(block.Bytes)
				if err == nil && bytes.Equal(req.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo) && !selfIssued(c) {
					return i.ID, c
				}
			}
			if !i.CreatedAt.IsZero() && i.Certificate == string(certificatePEM(c.Raw)) {
				return i.ID, c
			}
		}
	}
	return "", nil
}

// ErrNoRootKey: the root's key is not in the data directory, so another CA signs, or the same one elsewhere.
var ErrNoRootKey = errors.New("the root's key is not here: have what `pkid issuer csr` prints signed where it is, and give the certificate to `pkid issuer install`")

// Rotate brings a new issuing CA into service, signed with the root's key in the data directory, all in one go. If it is
// interrupted, the next call goes on.
func (r Rotation) Rotate(ctx context.Context, cfg *config.Config) (*client.IssuerState, error) {
	keyFile := cfg.Path(rootKeyFile)
	if _, err := os.Stat(keyFile); errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoRootKey
	}
	api, err := r.Operator(cfg)
	if err != nil {
		return nil, err
	}
	root, err := readCertificate(cfg.Path(cfg.Issuer.Root))
	if err != nil {
		return nil, err
	}
	passphrase, err := cfg.ReadPassphrase()
	if err != nil {
		return nil, err
	}
	rootKey, err := stepca.OpenKey(ctx, keyFile, passphrase)
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	all, err := api.IssuerStates(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if i.State == "installed" { // and its CRL was not published, so it got no instant
			return api.InstallIssuer(ctx, i.ID, client.IssuerInstallation{Certificate: i.Certificate, ActiveIn: r.ActiveIn})
		}
	}
	next, err := r.next(ctx, api)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(next.CSR))
	if block == nil {
		return nil, fmt.Errorf("the daemon's answer has no request of issuing CA %s", next.ID)
	}
	spec := stepca.CeremonySpec{Name: cfg.Name, RootCRLURL: crlURL(cfg.URLs.Status, rootID), RootAIAURL: aiaURL(cfg.URLs.Status, rootID)}
	cert, err := stepca.SignIssuerRequest(spec, root, rootKey, block.Bytes)
	if err != nil {
		return nil, err
	}
	// The root's key goes away again, so its CRL must last as long as the CAs that it speaks of.
	list, err := signRootCRL(cfg, root, func(old *x509.RevocationList, number *big.Int, now time.Time) ([]byte, error) {
		until := cert.NotAfter
		if old.NextUpdate.After(until) {
			until = old.NextUpdate
		}
		return stepca.CreateRootCRL(root, rootKey, number, now, until, old.RevokedCertificateEntries...)
	})
	if err != nil {
		return nil, err
	}
	return api.InstallIssuer(ctx, next.ID, client.IssuerInstallation{
		Certificate: string(certificatePEM(cert.Raw)), Root: string(certificatePEM(root.Raw)), RootCRL: list, ActiveIn: r.ActiveIn,
	})
}
