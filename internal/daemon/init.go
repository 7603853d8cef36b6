package daemon

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/durable"
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
	// IssuerKey and TokenKey are where these keys will be, as config.Issuer.Key: files in Dir if empty.
	IssuerKey, TokenKey string
	ExistingKeys        bool // those of them that are in devices are there already
	// OfflineRoot makes no root: another CA will sign the request, and InstallIssuer complete the directory.
	OfflineRoot bool
	Takeover    Takeover

	takesOver bool                                    // certificates of another program too
	begun     func(context.Context, *beginning) error // as begin has it
}

// ErrExists reports that the directory is there and is no place to create another CA in.
var ErrExists = errors.New("already there")

const (
	rootKeyFile    = "keys/root.key"
	issuerKeyFile  = "keys/issuer.key"
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
func moveUp(tmp, dir string) error { return moveUpBut(config.File, tmp, dir) }

// moveUpBut is moveUp with another file that makes the rest count and so is moved last.
func moveUpBut(last, tmp, dir string) error {
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return fmt.Errorf("creating data directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != last {
			names = append(names, e.Name())
		}
	}
	steps := []func() error{func() error { return durable.Dir(tmp) }}
	for _, name := range append(names, last) {
		if name == last {
			steps = append(steps, func() error { return durable.Dir(dir) })
		}
		steps = append(steps, func() error { return os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)) })
	}
	steps = append(steps, func() error { return os.Remove(tmp) }, func() error { return durable.Dir(dir) })
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("creating data directory: %w", err)
		}
	}
	return nil
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
	if err := s.completeKeys(); err != nil {
		return err
	}
	if err := checkEmpty(s.Dir); err != nil {
		return err
	}
	return freePorts(ctx, &s.Listen.Public, &s.Listen.MTLS, &s.Listen.Status, &s.Listen.Ops)
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

// freePorts replaces each port 0 by another one that is free now: certificates carry the status listener's URL, so its
// port must be known and stay. All are held until the last is chosen, or one could be chosen twice.
func freePorts(ctx context.Context, addrs ...*string) error {
	for _, addr := range addrs {
		if !strings.HasSuffix(*addr, ":0") {
			continue
		}
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", *addr)
		if err != nil {
			return fmt.Errorf("choosing a port: %w", err)
		}
		defer l.Close()
		*addr = l.Addr().String()
	}
	return nil
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
	if _, err := stepca.CreateDataKey(cfg.Path(cfg.Tokens.DataKey), passphrase); err != nil {
		return fmt.Errorf("data key: %w", err)
	}
	if err := s.tokenKey(ctx, cfg, passphrase); err != nil {
		return fmt.Errorf("token signing key: %w", err)
	}
	key, err := s.issuingKey(ctx, cfg, passphrase)
	if err != nil {
		return fmt.Errorf("issuing key: %w", err)
	}
	if s.OfflineRoot {
		return writeRequest(cfg, key)
	}
	chain, crl, err := s.ceremony(ctx, cfg, key, passphrase)
	if err != nil {
		return err
	}
	return begin(ctx, cfg, chain, crl, key, s.begun)
}

// newPassphrase has 192 random bits.
func newPassphrase() string {
	var b [24]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// writeNew writes a file that must not exist, and makes it durable.
func writeNew(path string, mode os.FileMode, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode) //nolint:gosec // G703: the operator says where
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
