package daemon

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/stepca"
)

// InitSpec says what Init creates. Zero members have defaults.
type InitSpec struct {
	Dir        string
	Name       string     // of the CA; pkid
	Hosts      []string   // localhost and 127.0.0.1
	KeyType    ca.KeyType // of root and issuing CA; P-256
	Passphrase string     // as config.Config.Passphrase; a new file "passphrase" in Dir if empty
	Listen     config.Listen
}

// ErrExists reports that the directory is there and is no place to create another CA in.
var ErrExists = errors.New("already there")

const (
	rootKeyFile    = "keys/root.key"
	tokenKeyFile   = "keys/token.key"
	passphraseFile = "passphrase"
	adminDir       = "admin"
	operatorID     = "operator"
)

// Init creates a data directory: keys, root and issuing CA, configuration, store, and the operator's
// credentials. All of it is made beside its place and then renamed, so that a half-made directory is never
// taken for a CA.
func Init(ctx context.Context, spec InitSpec) (err error) {
	spec.Dir = filepath.Clean(spec.Dir)
	if err := spec.complete(ctx); err != nil {
		return err
	}
	parent := filepath.Dir(spec.Dir)
	if err := os.MkdirAll(parent, 0o750); err != nil {
		return fmt.Errorf("creating data directory: %w", err)
	}
	tmp, err := os.MkdirTemp(parent, "."+filepath.Base(spec.Dir)+".new-")
	if err != nil {
		return fmt.Errorf("creating data directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := spec.fill(ctx, tmp); err != nil {
		return err
	}
	// An empty directory may stand in the place; Remove leaves any other as it is.
	if err := os.Remove(spec.Dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w and not empty", spec.Dir, ErrExists)
	}
	if err := os.Rename(tmp, spec.Dir); err != nil {
		return fmt.Errorf("creating data directory: %w", err)
	}
	return nil
}

func (s *InitSpec) complete(ctx context.Context) error {
	if s.Name == "" {
		s.Name = "pkid"
	}
	if len(s.Hosts) == 0 {
		s.Hosts = []string{"localhost", "127.0.0.1"}
	}
	if s.KeyType == "" {
		s.KeyType = ca.P256
	}
	if s.Passphrase == "" {
		s.Passphrase = "file:" + passphraseFile
	}
	entries, err := os.ReadDir(s.Dir)
	switch {
	case errors.Is(err, os.ErrNotExist) || (err == nil && len(entries) == 0):
	case err != nil:
		return fmt.Errorf("data directory: %w", err)
	case Exists(s.Dir):
		return fmt.Errorf("%s: %w: it holds a CA; `pkid serve --data %s` serves it", s.Dir, ErrExists, s.Dir)
	default:
		return fmt.Errorf("%s: %w: it is not a pkid data directory and not empty; choose another with --data", s.Dir, ErrExists)
	}
	for _, addr := range []*string{&s.Listen.Public, &s.Listen.MTLS, &s.Listen.Status, &s.Listen.Ops} {
		if err := freePort(ctx, addr); err != nil {
			return err
		}
	}
	return nil
}

// freePort replaces port 0 by one that is free now: certificates carry the status listener's URL, so its
// port must be known and stay.
func freePort(ctx context.Context, addr *string) error {
	if !strings.HasSuffix(*addr, ":0") {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", *addr)
	if err != nil {
		return fmt.Errorf("choosing a port: %w", err)
	}
	*addr = l.Addr().String()
	return l.Close()
}

// Exists reports whether dir is a data directory.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, config.File))
	return err == nil
}

// fill makes everything in dir.
func (s *InitSpec) fill(ctx context.Context, dir string) error {
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		return fmt.Errorf("creating data directory: %w", err)
	}
	if s.Passphrase == "file:"+passphraseFile {
		if err := writeNew(filepath.Join(dir, passphraseFile), 0o600, []byte(newPassphrase()+"\n")); err != nil {
			return err
		}
	}
	if err := writeNew(filepath.Join(dir, config.File), 0o600, s.configFile()); err != nil {
		return err
	}
	cfg, err := config.Load(filepath.Join(dir, config.File))
	if err != nil {
		return err
	}
	passphrase, err := cfg.ReadPassphrase()
	if err != nil {
		return err
	}
	issuer, err := s.ceremony(ctx, cfg, passphrase)
	if err != nil {
		return err
	}
	if _, err := stepca.CreateKey(ctx, cfg.Path(tokenKeyFile), ca.P256, passphrase); err != nil {
		return fmt.Errorf("token signing key: %w", err)
	}
	if _, err := stepca.CreateDataKey(cfg.Path(cfg.Tokens.DataKey), passphrase); err != nil {
		return fmt.Errorf("data key: %w", err)
	}
	store, err := boltstore.Open(cfg.StorePath(), boltstore.Options{})
	if err != nil {
		return err
	}
	return errors.Join(s.record(ctx, cfg, store, issuer), store.Close())
}

// record makes the first entries of the audit log and the operator's credentials.
func (s *InitSpec) record(ctx context.Context, cfg *config.Config, store *boltstore.Store, issuer *ca.Issuer) error {
	err := store.Record(ctx, audit.Event{
		Time: time.Now(), Actor: audit.From(ctx), Action: audit.Initialise, Subject: issuer.ID(),
		Detail: map[string]string{"root": fingerprint(issuer.Root), "key_type": string(s.KeyType)},
	})
	if err != nil {
		return fmt.Errorf("recording the ceremony: %w", err)
	}
	profiles, err := Profiles(cfg.Profiles)
	if err != nil {
		return err
	}
	authority, err := ca.New(ca.Config{Issuer: issuer, Store: store, Profiles: profiles})
	if err != nil {
		return err
	}
	return WriteOperator(ctx, authority, cfg, cfg.Path(adminDir))
}

// ceremony makes the root, which signs the issuing CA and its own CRL and is not needed again to serve.
func (s *InitSpec) ceremony(ctx context.Context, cfg *config.Config, passphrase []byte) (*ca.Issuer, error) {
	rootKey, err := stepca.CreateKey(ctx, cfg.Path(rootKeyFile), s.KeyType, passphrase)
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	issuerKey, err := stepca.CreateKey(ctx, cfg.KeyURI(cfg.Issuer.Key), s.KeyType, passphrase)
	if err != nil {
		return nil, fmt.Errorf("issuing key: %w", err)
	}
	spec := stepca.CeremonySpec{Name: s.Name, RootCRLURL: crlURL(cfg.URLs.Status, rootID), RootAIAURL: aiaURL(cfg.URLs.Status, rootID)}
	root, err := stepca.CreateRoot(spec, rootKey)
	if err != nil {
		return nil, err
	}
	cert, err := stepca.CreateIssuer(spec, root, rootKey, issuerKey.Public())
	if err != nil {
		return nil, err
	}
	// The root's key is not there to sign another CRL, so this one lasts as long as the CA that it speaks of.
	now := time.Now()
	crl, err := stepca.CreateRootCRL(root, rootKey, big.NewInt(now.UnixMilli()), now, cert.NotAfter)
	if err != nil {
		return nil, err
	}
	for path, content := range map[string][]byte{
		cfg.Issuer.Root:        certificatePEM(root.Raw),
		cfg.Issuer.Certificate: certificatePEM(cert.Raw),
		cfg.Issuer.RootCRL:     crl,
	} {
		if err := writeNew(cfg.Path(path), 0o644, content); err != nil {
			return nil, err
		}
	}
	return newIssuer(cert, root, issuerKey, cfg.URLs.Status)
}

// newPassphrase has 192 random bits.
func newPassphrase() string {
	var b [24]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// writeNew writes a file that must not exist, and makes it durable.
func writeNew(path string, mode os.FileMode, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
