package daemon

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/rollover"
	"github.com/pkid/pkid/internal/stepca"
	"github.com/pkid/pkid/internal/stepimport"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// StepCA says which step-ca is taken over.
type StepCA struct {
	Home         string // as `step path` prints it
	PasswordFile string // has the password of its keys; empty if they are in clear
	// KeepIssuer has step-ca's intermediate go on issuing, though the root's key is there to sign a new issuing CA.
	KeepIssuer bool
}

// ImportStepCA creates a data directory as Init does, with the root and the intermediate of a step-ca that was stopped,
// and with what its database knows of certificates and revocations. The certificates of its clients stay valid, and can
// be renewed.
//
// Where the root's key is there, it signs a new issuing CA, for what pkid issues. The intermediate then signs its CRLs
// until its last certificate has expired. Without that key the intermediate goes on issuing (docs/design/016-import.md).
func ImportStepCA(ctx context.Context, spec InitSpec, from StepCA) (_ *Imported, err error) {
	if spec.Takeover != (Takeover{}) || spec.OfflineRoot {
		return nil, errors.New("what is taken over is step-ca's: leave out what names another root or issuing CA")
	}
	home, err := stepimport.Open(from.Home)
	if err != nil {
		return nil, err
	}
	switch {
	case home.IntermediateKey == "" && spec.IssuerKey == "":
		return nil, errors.New("step-ca has the intermediate's key in a device: name it with --issuer-key and --existing-key")
	case home.IntermediateKey != "" && spec.IssuerKey != "":
		return nil, errors.New("--issuer-key: step-ca has the intermediate's key in a file, and a key that was in a file is not safe in a device")
	}
	spec.Takeover = Takeover{RootCert: home.Root, IssuerCert: home.Intermediate, IssuerKey: home.IntermediateKey, flag: "--password-file"}
	if from.PasswordFile != "" {
		spec.Takeover.Passphrase = "file:" + from.PasswordFile
	}
	spec.takesOver = true
	im := &stepImport{Imported: Imported{Skipped: map[string]int{}}}
	if home.RootKey != "" && !from.KeepIssuer {
		if im.rootKey, err = spec.Takeover.importKey(home.RootKey); err != nil {
			return nil, fmt.Errorf("root key: %w (--password-file says where, --keep-issuer does without this key)", err)
		}
	}
	if im.db, err = home.Database(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, im.db.Close()) }()
	spec.begun = func(ctx context.Context, b *beginning) error { return im.run(ctx, b, cmp.Or(spec.KeyType, ca.P256)) }
	if err := Init(ctx, spec); err != nil {
		return nil, err
	}
	return &im.Imported, nil
}

// Imported is what ImportStepCA found and did.
type Imported struct {
	Found        int            // certificates in step-ca's database
	Certificates int            // that were taken over
	Skipped      map[string]int // of the others, by reason
	Revoked      int            // revocations that were taken over
	Lost         int            // of these, those of certificates that step-ca kept nothing else of
	CRLNumber    uint64         // of step-ca's newest CRL; zero if there was none
	NewIssuer    bool           // a new issuing CA signs from now on

	Derived      Sample // client ids that are not the common name, with the names that they stand for
	Unrenewable  Sample // certificates that pkid will not renew, with the reason
	Unregistered Sample // certificates by which the token endpoint can tell no client
}

// Sample counts, and has the first of what it counts.
type Sample struct {
	Count int
	First []string
}

// maxSample bounds what a Sample has, so that memory stays bounded however many certificates there are.
const maxSample = 20

func (s *Sample) add(format string, args ...any) {
	if s.Count++; len(s.First) < maxSample {
		s.First = append(s.First, fmt.Sprintf(format, args...))
	}
}

// stepImport is an import under way.
type stepImport struct {
	importCounts
	Imported
	db      *stepimport.Database
	rootKey crypto.Signer // nil if there is to be no new issuing CA

	*beginning
	clients  *authserver.Registry
	enrolled recently
	keep     time.Duration // after a certificate's end
}

// run fills the store of a new CA, before anybody else uses it.
func (im *stepImport) run(ctx context.Context, b *beginning, kind ca.KeyType) error {
	im.beginning, im.keep = b, *b.cfg.Retention.Certificates
	dataKey, err := stepca.OpenDataKey(b.cfg.Path(b.cfg.Tokens.DataKey), b.passphrase)
	if err != nil {
		return fmt.Errorf("data key: %w", err)
	}
	if im.clients, err = authserver.NewRegistry(authserver.RegistryConfig{Store: b.store, DataKey: dataKey}); err != nil {
		return err
	}
	if err := im.certificates(ctx); err != nil {
		return err
	}
	if err := im.revocations(ctx); err != nil {
		return err
	}
	if err := im.list(ctx); err != nil {
		return err
	}
	ssh, err := im.db.SSHCertificates()
	if err != nil {
		return err
	}
	if ssh > 0 {
		im.Skipped["for SSH"] = ssh
	}
	if im.rootKey != nil {
		if err := im.newIssuer(ctx, kind); err != nil {
			return fmt.Errorf("new issuing CA: %w", err)
		}
		im.NewIssuer = true
	}
	err = b.store.Record(ctx, audit.Event{
		Time: time.Now(), Actor: audit.From(ctx), Action: audit.ImportCA, Subject: b.issuer.ID(), Detail: map[string]string{
			"from": "step-ca", "certificates": strconv.Itoa(im.Certificates), "revoked": strconv.Itoa(im.Revoked), "lost": strconv.Itoa(im.Lost),
		},
	})
	if err != nil {
		return fmt.Errorf("recording the import: %w", err)
	}
	return nil
}

// list has the CRLs go on from step-ca's newest one: from its number, and from what had expired when it was signed.
func (im *stepImport) list(ctx context.Context) error {
	number, der, err := im.db.NewestCRL()
	if err != nil || number == 0 {
		return err
	}
	last := crl.Signed{Shard: crl.Shard{Issuer: im.issuer.ID()}, Number: number, ThisUpdate: time.Unix(0, 0).UTC(), NextUpdate: time.Unix(0, 0).UTC()}
	if list, err := x509.ParseRevocationList(der); err == nil && list.CheckSignatureFrom(im.issuer.Signer.Certificate()) == nil {
		last.ThisUpdate, last.NextUpdate = list.ThisUpdate, list.NextUpdate
	}
	if err := im.store.Replace(ctx, crl.Signed{}, last); err != nil {
		return fmt.Errorf("noting step-ca's CRL: %w", err)
	}
	im.CRLNumber = number
	return nil
}

// newIssuer makes the issuing CA that signs certificates from now on, below step-ca's root.
func (im *stepImport) newIssuer(ctx context.Context, kind ca.KeyType) error {
	cfg, root := im.cfg, im.issuer.Root
	issuers := rollover.NewIssuers(rollover.IssuersConfig{
		Store: im.store, First: im.issuer, Passphrase: im.passphrase, Name: cfg.Name, ListLifetime: cfg.CRL.Lifetime,
		URLs:  func(id string) (crl, aia string) { return crlURL(cfg.URLs.Status, id), aiaURL(cfg.URLs.Status, id) },
		Check: func(way []*x509.Certificate) error { return rehearse(way, cfg) },
	})
	next, err := issuers.Request(ctx, rollover.Request{KeyType: kind})
	if err != nil {
		return err
	}
	spec := stepca.CeremonySpec{Name: cfg.Name, RootCRLURL: crlURL(cfg.URLs.Status, rootID), RootAIAURL: aiaURL(cfg.URLs.Status, rootID)}
	cert, err := stepca.SignIssuerRequest(spec, root, im.rootKey, next.Key.Request)
	if err != nil {
		return err
	}
	now := time.Now()
	list, err := stepca.CreateRootCRL(root, im.rootKey, big.NewInt(now.UnixMilli()), now, cert.NotAfter)
	if err != nil {
		return err
	}
	if err := writeNew(cfg.Path(cfg.Issuer.RootCRL), 0o644, list); err != nil {
		return err
	}
	next, err = issuers.Install(ctx, next.Key.ID, rollover.Installation{Certificate: cert, Root: root, RootCRL: list}, 0)
	if err != nil {
		return err
	}
	return im.authority.SetIssuers(im.issuer, next.Issuer)
}

// rehearse finds what would keep certificates below an issuing CA from being accepted.
func rehearse(way []*x509.Certificate, cfg *config.Config) error {
	last := len(way) - 1
	return caChain{certs: way[:last], root: way[last]}.rehearse(cfg.Hosts, time.Now())
}
