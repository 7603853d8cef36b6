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
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/secret"
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
	// Store is where everything will be kept, as config.Config.Store: a file in Dir if empty, or an empty database.
	Store         string
	StorePassword string // as config.Config.StorePassword
}

// ErrExists reports that the directory is there and is no place to create another CA in.
var ErrExists = errors.New("already there")

const (
	rootKeyFile    = "keys/root.key"
	tokenKeyFile   = "keys/token.key"
	passphraseFile = "passphrase"
	adminDir       = "admin"
)

// Init creates a data directory: keys, root and issuing CA, configuration, store, and the operator's
// credentials. The directory may be there if it is empty. Everything is made in a directory inside it and moved
// to its place at the end, the configuration last: without that file nothing takes the directory for a CA.
func Init(ctx context.Context, spec InitSpec) (err error) {
	if err := spec.complete(ctx); err != nil {
		return err
	}
	_, missing := os.Stat(spec.Dir)
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		return fmt.Errorf("creating data directory: %w", err)
	}
	tmp, err := os.MkdirTemp(spec.Dir, unfinished)
	if err != nil {
		return fmt.Errorf("creating data directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
			if missing != nil {
				os.Remove(spec.Dir)
			}
		}
	}()
	if err := spec.fill(ctx, tmp); err != nil {
		return err
	}
	return moveUp(tmp, spec.Dir)
}

// unfinished begins the name of the directory that Init works in. One that is found later is an interrupted
// Init's.
const unfinished = ".new-"

// moveUp moves what is in tmp to dir, the configuration last, and removes tmp.
func moveUp(tmp, dir string) error {
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return fmt.Errorf("creating data directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != config.File {
			names = append(names, e.Name())
		}
	}
	steps := []func() error{func() error { return syncDir(tmp) }}
	for _, name := range append(names, config.File) {
		if name == config.File {
			steps = append(steps, func() error { return syncDir(dir) })
		}
		steps = append(steps, func() error { return os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)) })
	}
	steps = append(steps, func() error { return os.Remove(tmp) }, func() error { return syncDir(dir) })
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("creating data directory: %w", err)
		}
	}
	return nil
}

// syncDir makes the names in a directory durable. Windows has no such call, and journals them itself.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// complete fills in the defaults and refuses, before anything is made, what would make a CA that cannot serve.
func (s *InitSpec) complete(ctx context.Context) (err error) {
	if s.Dir, err = filepath.Abs(s.Dir); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if s.Name == "" {
		s.Name = "pkid"
	}
	if len(s.Hosts) == 0 {
		s.Hosts = []string{"localhost", "127.0.0.1"}
	}
	if _, err := ServerNames(s.Hosts); err != nil {
		return err
	}
	if s.KeyType == "" {
		s.KeyType = ca.P256
	}
	if !slices.Contains(ca.KeyTypes, s.KeyType) {
		return fmt.Errorf("key type %q: want one of %v", s.KeyType, ca.KeyTypes)
	}
	if s.Passphrase == "" {
		s.Passphrase = "file:" + passphraseFile
	} else if s.Passphrase, err = secret.Absolute("passphrase", s.Passphrase); err != nil {
		return err
	}
	if err := s.completeStore(); err != nil {
		return err
	}
	if err := checkEmpty(s.Dir); err != nil {
		return err
	}
	for _, addr := range []*string{&s.Listen.Public, &s.Listen.MTLS, &s.Listen.Status, &s.Listen.Ops} {
		if err := freePort(ctx, addr); err != nil {
			return err
		}
	}
	return nil
}

// checkEmpty refuses a directory that holds something, lost+found of a new volume excepted.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if Exists(dir) {
		return fmt.Errorf("%s: %w: it holds a CA; `pkid serve --data %s` serves it", dir, ErrExists, dir)
	}
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name(), unfinished):
			return fmt.Errorf("%s: %w: an earlier init was interrupted in it; remove what it holds and start over", dir, ErrExists)
		case e.Name() != "lost+found":
			return fmt.Errorf("%s: %w: it is not a pkid data directory and not empty; choose another with --data", dir, ErrExists)
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
	cfg, err := config.Parse(s.configFile(), dir)
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
	store, err := createStore(ctx, cfg, issuer)
	if err != nil {
		return err
	}
	return errors.Join(s.record(ctx, cfg, store, issuer), store.Close())
}

// record makes the first entries of the audit log and the operator's credentials.
func (s *InitSpec) record(ctx context.Context, cfg *config.Config, store store, issuer *ca.Issuer) error {
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
	return WriteOperator(ctx, authority, cfg, OperatorID, cfg.Path(adminDir))
}

// ceremony makes the root, which signs the issuing CA and its own CRL and is not needed again to serve.
func (s *InitSpec) ceremony(ctx context.Context, cfg *config.Config, passphrase []byte) (*ca.Issuer, error) {
	rootKey, err := stepca.CreateRootKey(ctx, cfg.Path(rootKeyFile), s.KeyType, passphrase)
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
