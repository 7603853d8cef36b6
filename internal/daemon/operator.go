package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/config"
)

// OperatorID is the name of the operator that Init makes.
const OperatorID = "operator"

// WriteOperator issues an operator's certificate and writes it with its key into dir, in the form of every
// other identity. It needs the issuing key and not an operator: whoever can read that key is one.
func WriteOperator(ctx context.Context, authority *ca.Authority, cfg *config.Config, name, dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("operator's key: %w", err)
	}
	proven, err := ca.ProveOwn(key)
	if err != nil {
		return fmt.Errorf("operator's key: %w", err)
	}
	issued, err := authority.Issue(ctx, ca.Request{
		Profile: config.ProfileOperator, ClientID: name, Names: ca.Names{CommonName: name}, Key: proven,
	})
	if err != nil {
		return fmt.Errorf("operator's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(issued.Record.DER)
	if err != nil {
		return fmt.Errorf("operator's certificate: %w", err)
	}
	info := client.Info{Name: cfg.Name, ClientID: name, Fingerprint: fingerprint(issued.Root), URLs: urlsOf(cfg)}
	if _, err := client.Create(dir, key, append([]*x509.Certificate{leaf}, issued.Chain...), issued.Root, info); err != nil {
		return fmt.Errorf("operator's credentials: %w", err)
	}
	return nil
}

// CreateOperator makes another operator while the daemon is stopped: for a second person, or where the
// credentials were lost or have expired.
func CreateOperator(ctx context.Context, cfg *config.Config, log *slog.Logger, name, dir string) (err error) {
	if err := enroll.CheckClientID(name); err != nil {
		return err
	}
	d, err := New(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.store.Record(ctx, audit.Event{Time: time.Now(), Actor: audit.From(ctx), Action: audit.OperatorCreate, Subject: name}); err != nil {
		return fmt.Errorf("recording the operator: %w", err)
	}
	return WriteOperator(ctx, d.authority, cfg, name, dir)
}

// fingerprint is the SHA-256 of a certificate's DER in hex, as `openssl x509 -fingerprint -sha256` shows it
// without its colons.
func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Fingerprint is the root's.
func (d *Daemon) Fingerprint() string { return fingerprint(d.issuer.Root) }

// RootFingerprint reads the root's fingerprint without opening anything else.
func RootFingerprint(cfg *config.Config) (string, error) {
	root, err := readCertificate(cfg.Path(cfg.Issuer.Root))
	if err != nil {
		return "", err
	}
	return fingerprint(root), nil
}
