package daemon

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/secret"
	"github.com/pkid/pkid/internal/stepca"
)

// Takeover names the files of a CA that exists already. Either RootCert and RootKey, which then signs the issuing CA, or
// IssuerCert, with the CAs above it, and IssuerKey.
type Takeover struct {
	RootCert, RootKey     string
	RootCRL               string // the root's newest CRL; what it lists stays listed
	IssuerCert, IssuerKey string
	Passphrase            string // of the key, as config.Config.Passphrase; empty if it is in clear

	flag string // that says where the passphrase is; --key-passphrase if empty
}

// completeKeys checks what is said of keys and CAs before anything is made.
func (s *InitSpec) completeKeys() (err error) {
	for key, uri := range map[string]*string{"--issuer-key": &s.IssuerKey, "--token-key": &s.TokenKey} {
		if err := config.CheckKey(key, *uri); err != nil {
			return err
		}
		if *uri != "" && !stepca.IsDevice(*uri) {
			return fmt.Errorf("%s: want the URI of a key in a device, such as pkcs11:token=pkid;id=01;object=issuer?pin-source=file:/etc/pkid/pin; without it the key is a file in the data directory", key)
		}
	}
	t := &s.Takeover
	switch {
	case s.ExistingKeys && s.IssuerKey == "" && s.TokenKey == "":
		return errors.New("--existing-key: say which keys exist with --issuer-key or --token-key")
	case s.OfflineRoot && *t != Takeover{}:
		return errors.New("--offline-root leaves everything about the root to `pkid issuer install`; take a CA over without it")
	case t.RootKey != "" && t.IssuerCert != "":
		return errors.New("--root-key signs a new issuing CA, and --issuer-cert takes one over: choose one")
	case t.RootKey != "" && t.RootCert == "", t.RootCert != "" && t.RootKey == "" && t.IssuerCert == "":
		return errors.New("--root-cert and --root-key belong together")
	case t.IssuerKey != "" && t.IssuerCert == "":
		return errors.New("--issuer-key-file: give the CA's certificate with --issuer-cert")
	case t.IssuerKey != "" && s.IssuerKey != "":
		return errors.New("--issuer-key-file cannot be put into a device: a key that was in a file is not safe in one")
	case t.IssuerCert != "" && t.IssuerKey == "" && (s.IssuerKey == "" || !s.ExistingKeys):
		return errors.New("--issuer-cert: give the CA's key with --issuer-key-file, or with --issuer-key and --existing-key where it is in a device")
	case t.RootCRL != "" && t.RootCert == "" && t.IssuerCert == "":
		return errors.New("--root-crl: there is no root that is taken over")
	}
	if s.IssuerKey == "" {
		s.IssuerKey = issuerKeyFile
	}
	if s.TokenKey == "" {
		s.TokenKey = tokenKeyFile
	}
	return nil
}

// tokenKey makes the key that signs tokens, unless it is there.
func (s *InitSpec) tokenKey(ctx context.Context, cfg *config.Config, passphrase []byte) error {
	uri := cfg.KeyURI(cfg.Tokens.Keys[0].Key)
	if !s.ExistingKeys || !stepca.IsDevice(uri) {
		_, err := stepca.CreateKey(ctx, uri, ca.P256, passphrase)
		return err
	}
	key, err := stepca.OpenKey(ctx, uri, nil)
	if err != nil {
		return err
	}
	if kind, err := ca.KeyTypeOf(key.Public()); err != nil || kind != ca.P256 {
		return fmt.Errorf("it is of type %s: want %s, for ES256", kind, ca.P256)
	}
	return nil
}

// issuingKey makes the issuing key, finds it in its device, or takes it over from a file.
func (s *InitSpec) issuingKey(ctx context.Context, cfg *config.Config, passphrase []byte) (crypto.Signer, error) {
	uri := cfg.KeyURI(cfg.Issuer.Key)
	switch {
	case s.Takeover.IssuerKey != "":
		key, err := s.Takeover.importKey(s.Takeover.IssuerKey)
		if err != nil {
			return nil, err
		}
		return key, stepca.StoreKey(uri, key, passphrase)
	case s.ExistingKeys && stepca.IsDevice(uri):
		return stepca.OpenKey(ctx, uri, nil)
	default:
		return stepca.CreateKey(ctx, uri, s.KeyType, passphrase)
	}
}

func (t *Takeover) importKey(path string) (crypto.Signer, error) {
	var passphrase []byte
	if t.Passphrase != "" {
		var err error
		if passphrase, err = secret.Read(cmp.Or(t.flag, "--key-passphrase"), t.Passphrase, "."); err != nil {
			return nil, err
		}
	}
	return stepca.ImportKey(path, passphrase)
}

// ceremony returns the issuing CA's certificate with those above, and the CRL of who signed it: a new CA below a root that
// is new or taken over, or one that is taken over itself. The root's key is not needed again to serve.
func (s *InitSpec) ceremony(ctx context.Context, cfg *config.Config, key crypto.Signer, passphrase []byte) (chain caChain, crl []byte, err error) {
	if s.Takeover.IssuerCert != "" {
		if chain, err = readChain(key.Public(), s.Takeover.IssuerCert, s.Takeover.RootCert); err == nil {
			crl, err = readAboveCRL(s.Takeover.RootCRL, chain)
		}
	} else {
		chain, crl, err = s.signIssuer(ctx, cfg, key.Public(), passphrase)
	}
	if err != nil {
		return caChain{}, nil, err
	}
	return chain, crl, chain.check(key, cfg.Hosts, time.Now())
}

// signIssuer has the root sign the issuing CA and the CRL above it.
func (s *InitSpec) signIssuer(ctx context.Context, cfg *config.Config, key crypto.PublicKey, passphrase []byte) (chain caChain, crl []byte, err error) {
	spec := stepca.CeremonySpec{Name: s.Name, RootCRLURL: crlURL(cfg.URLs.Status, rootID), RootAIAURL: aiaURL(cfg.URLs.Status, rootID)}
	root, rootKey, listed, err := s.root(ctx, cfg, spec, passphrase)
	if err != nil {
		return chain, nil, err
	}
	cert, err := stepca.CreateIssuer(spec, root, rootKey, key)
	if err != nil {
		return chain, nil, err
	}
	now := time.Now()
	number := big.NewInt(now.UnixMilli())
	if next := new(big.Int).Add(listed.Number, big.NewInt(1)); next.Cmp(number) > 0 {
		number = next
	}
	// The root's key is not there to sign another CRL, so this one lasts as long as the CA that it speaks of.
	crl, err = stepca.CreateRootCRL(root, rootKey, number, now, cert.NotAfter, listed.RevokedCertificateEntries...)
	return caChain{certs: []*x509.Certificate{cert}, root: root}, crl, err
}

// root makes a root, or opens the one that is taken over. listed is what its CRL had before.
func (s *InitSpec) root(ctx context.Context, cfg *config.Config, spec stepca.CeremonySpec, passphrase []byte) (root *x509.Certificate, key crypto.Signer, listed *x509.RevocationList, err error) {
	listed = &x509.RevocationList{Number: new(big.Int)}
	if s.Takeover.RootCert == "" {
		if key, err = stepca.CreateRootKey(ctx, cfg.Path(rootKeyFile), s.KeyType, passphrase); err == nil {
			root, err = stepca.CreateRoot(spec, key)
		}
		return root, key, listed, err
	}
	if root, err = readCertificate(s.Takeover.RootCert); err != nil {
		return nil, nil, nil, err
	}
	if key, err = s.Takeover.importKey(s.Takeover.RootKey); err != nil {
		return nil, nil, nil, fmt.Errorf("root key: %w", err)
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(root.PublicKey) || !selfIssued(root) {
		return nil, nil, nil, fmt.Errorf("root %q: the key is another's, or it is no root", root.Subject)
	}
	if s.Takeover.RootCRL != "" {
		listed, err = parseAboveCRL(s.Takeover.RootCRL, root)
	}
	return root, key, listed, err
}

// beginning is a CA whose store was made and has its first entry.
type beginning struct {
	cfg        *config.Config
	store      store
	issuer     *ca.Issuer
	authority  *ca.Authority
	passphrase []byte
}

// begin writes what the ceremony made, and makes the store with the first entries of the audit log and the operator's
// credentials. What more is to be done before anybody has those, begun does; it may be nil.
func begin(ctx context.Context, cfg *config.Config, chain caChain, crl []byte, key crypto.Signer, begun func(context.Context, *beginning) error) error {
	issuer, err := newIssuer(chain, key, cfg)
	if err != nil {
		return err
	}
	files := map[string][]byte{cfg.Issuer.Root: certificatePEM(chain.root.Raw), cfg.Issuer.Certificate: chain.pem()}
	if crl != nil {
		files[cfg.Issuer.RootCRL] = crl
	}
	for path, content := range files {
		if err := writeNew(cfg.Path(path), 0o644, content); err != nil {
			return err
		}
	}
	store, err := createStore(ctx, cfg, issuer)
	if err != nil {
		return err
	}
	return errors.Join(record(ctx, cfg, store, issuer, begun), store.Close())
}

func record(ctx context.Context, cfg *config.Config, store store, issuer *ca.Issuer, begun func(context.Context, *beginning) error) error {
	kind, err := ca.KeyTypeOf(issuer.Signer.Certificate().PublicKey)
	if err != nil {
		return err
	}
	err = store.Record(ctx, audit.Event{
		Time: time.Now(), Actor: audit.From(ctx), Action: audit.Initialise, Subject: issuer.ID(),
		Detail: map[string]string{"root": fingerprint(issuer.Root), "key_type": string(kind)},
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
	if begun != nil {
		passphrase, err := cfg.ReadPassphrase()
		if err != nil {
			return err
		}
		if err := begun(ctx, &beginning{cfg, store, issuer, authority, passphrase}); err != nil {
			return err
		}
	}
	return WriteOperator(ctx, authority, cfg, OperatorID, cfg.Path(adminDir))
}
