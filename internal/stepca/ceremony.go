package stepca

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"

	"go.step.sm/crypto/x509util"

	"github.com/pkid/pkid/ca"
)

// Defaults of a CeremonySpec.
const (
	DefaultRootLifetime   = 10 * 365 * 24 * time.Hour
	DefaultIssuerLifetime = 5 * 365 * 24 * time.Hour
)

// caBackdate puts the CAs' NotBefore no later than that of any certificate they sign.
const caBackdate = time.Minute

// CeremonySpec describes a root and the issuing CA below it. Name is required; the rest has defaults.
type CeremonySpec struct {
	Name           string        // the common names are "NAME Root CA" and "NAME Issuing CA"
	RootLifetime   time.Duration // DefaultRootLifetime
	IssuerLifetime time.Duration // DefaultIssuerLifetime; never beyond the root's expiry
	RootCRLURL     string        // where the root's CRL is published, for the issuing CA's certificate
	RootAIAURL     string        // where the root's certificate is published, for the same
	Now            func() time.Time
	rawSubject     []byte // of an issuing CA that was asked for with a CSR
}

func (s CeremonySpec) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

// CreateRoot signs a root certificate with its own key. It has no path length: RFC 5280 section 6.1.1 takes a
// trust anchor's name and key only, so the limit belongs into what the root signs.
func CreateRoot(spec CeremonySpec, key crypto.Signer) (*x509.Certificate, error) {
	template, err := spec.template("Root CA", key.Public(), cmp.Or(spec.RootLifetime, DefaultRootLifetime))
	if err != nil {
		return nil, fmt.Errorf("creating root: %w", err)
	}
	root, err := x509util.CreateCertificate(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("creating root: %w", err)
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("creating root: %w", err)
	}
	return root, nil
}

// CreateIssuer signs an issuing CA's certificate with the root's key. Its path length is 0: only leaves below.
func CreateIssuer(spec CeremonySpec, root *x509.Certificate, rootKey crypto.Signer, pub crypto.PublicKey) (*x509.Certificate, error) {
	template, err := spec.template("Issuing CA", pub, cmp.Or(spec.IssuerLifetime, DefaultIssuerLifetime))
	if err != nil {
		return nil, fmt.Errorf("creating issuing CA: %w", err)
	}
	if spec.RootCRLURL == "" || spec.RootAIAURL == "" {
		return nil, errors.New("creating issuing CA: the URLs of the root's CRL and certificate are required")
	}
	template.MaxPathLenZero, template.RawSubject = true, spec.rawSubject
	template.CRLDistributionPoints = []string{spec.RootCRLURL}
	template.IssuingCertificateURL = []string{spec.RootAIAURL}
	if template.NotAfter.After(root.NotAfter) {
		template.NotAfter = root.NotAfter
	}
	if !root.NotBefore.After(spec.now()) && template.NotBefore.Before(root.NotBefore) {
		template.NotBefore = root.NotBefore // of a root that was made this minute
	}
	if template.NotBefore.Before(root.NotBefore) || !template.NotBefore.Before(template.NotAfter) {
		return nil, fmt.Errorf("creating issuing CA: root %q is valid from %s to %s: look at the clock", root.Subject,
			root.NotBefore.UTC().Format(time.RFC3339), root.NotAfter.UTC().Format(time.RFC3339))
	}
	cert, err := x509util.CreateCertificate(template, root, pub, rootKey)
	if err != nil {
		return nil, fmt.Errorf("creating issuing CA: %w", err)
	}
	if err := cert.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("creating issuing CA: %w", err)
	}
	return cert, nil
}

// CrossSign signs the name and key of a new root with the old one's key, so that who trusts only the old root can
// verify what is below the new one. The key identifier is that of the new root's own certificate, which all below it
// name as their issuer's.
func CrossSign(spec CeremonySpec, next, root *x509.Certificate, rootKey crypto.Signer) (*x509.Certificate, error) {
	template, err := spec.template("Root CA", next.PublicKey, DefaultRootLifetime)
	if err != nil {
		return nil, fmt.Errorf("cross-signing %q: %w", next.Subject, err)
	}
	if spec.RootCRLURL == "" || spec.RootAIAURL == "" {
		return nil, errors.New("cross-signing: the URLs of the root's CRL and certificate are required")
	}
	if !next.IsCA || next.CheckSignatureFrom(next) != nil {
		return nil, fmt.Errorf("cross-signing: %q is not a root", next.Subject)
	}
	template.RawSubject, template.SubjectKeyId = next.RawSubject, next.SubjectKeyId
	template.MaxPathLen = 1 // the issuing CAs below it
	template.CRLDistributionPoints = []string{spec.RootCRLURL}
	template.IssuingCertificateURL = []string{spec.RootAIAURL}
	for _, limit := range []*x509.Certificate{root, next} {
		if template.NotAfter.After(limit.NotAfter) {
			template.NotAfter = limit.NotAfter
		}
	}
	cert, err := x509util.CreateCertificate(template, root, next.PublicKey, rootKey)
	if err == nil {
		err = cert.CheckSignatureFrom(root)
	}
	if err != nil {
		return nil, fmt.Errorf("cross-signing %q: %w", next.Subject, err)
	}
	return cert, nil
}

// template is what root and issuing CA have in common. RFC 5280 sections 4.2.1.3 and 4.2.1.9: a CA's key
// usage and basic constraints are critical, which crypto/x509 sees to.
func (s CeremonySpec) template(role string, pub crypto.PublicKey, lifetime time.Duration) (*x509.Certificate, error) {
	name := s.Name + " " + role
	if s.Name == "" || len(name) > 64 || !printable(name) { // ub-common-name, RFC 5280 appendix A.1
		return nil, fmt.Errorf("name %q: want 1 to %d printable ASCII characters", s.Name, 64-len(" "+role))
	}
	if _, err := ca.KeyTypeOf(pub); err != nil {
		return nil, err
	}
	if lifetime < 24*time.Hour {
		return nil, fmt.Errorf("a CA's lifetime of %s is less than a day", lifetime)
	}
	serial := make([]byte, 16) // RFC 5280 section 4.1.2.2: positive, at most 20 octets
	rand.Read(serial)
	serial[0] = serial[0]&0x7f | 0x40
	now := s.now().UTC()
	return &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-caBackdate).Truncate(time.Second),
		NotAfter:              now.Add(lifetime).Truncate(time.Second),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}, nil
}

// CreateRootCRL signs the root's CRL. Servers that check whole chains, such as nginx with ssl_crl, need it
// beside the issuing CA's; the root's key is away from the daemon, so nextUpdate is best the issuing CA's
// expiry. revoked is empty unless an issuing CA was revoked.
func CreateRootCRL(root *x509.Certificate, rootKey crypto.Signer, number *big.Int, thisUpdate, nextUpdate time.Time, revoked ...x509.RevocationListEntry) ([]byte, error) {
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number:                    number,
		ThisUpdate:                thisUpdate.UTC().Truncate(time.Second),
		NextUpdate:                nextUpdate.UTC().Truncate(time.Second),
		RevokedCertificateEntries: revoked,
	}, root, rootKey)
	if err != nil {
		return nil, fmt.Errorf("creating the root's CRL: %w", err)
	}
	list, err := x509.ParseRevocationList(der)
	if err == nil {
		err = list.CheckSignatureFrom(root)
	}
	if err == nil && !bytes.Equal(list.AuthorityKeyId, root.SubjectKeyId) {
		err = errors.New("authority key identifier is not the root's")
	}
	if err != nil {
		return nil, fmt.Errorf("creating the root's CRL: %w", err)
	}
	return der, nil
}

func printable(s string) bool {
	for _, r := range s {
		if r < 0x20 || r > 0x7e {
			return false
		}
	}
	return true
}
