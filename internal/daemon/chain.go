package daemon

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pkid/pkid/internal/stepca"
)

// maxChain bounds the CAs from the issuing one up to the root, which is not counted. Clients take seven above it.
const maxChain = 5

// parseCertificates reads every certificate of a PEM text.
func parseCertificates(text []byte) (certs []*x509.Certificate, err error) {
	text = bytes.TrimPrefix(text, []byte("\uFEFF")) // an editor's, before which no PEM block is found
	begun := bytes.Count(text, []byte("-----BEGIN "))
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block of type %q among certificates", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if certs = append(certs, cert); len(certs) > maxChain+1 {
			return nil, fmt.Errorf("more than %d certificates", maxChain+1)
		}
	}
	switch {
	case len(certs) == 0 && len(text) > 0 && text[0] == 0x30: // a SEQUENCE
		return nil, errors.New("want certificates in PEM, not DER: `openssl x509 -inform DER -in OLD -out NEW`")
	case len(certs) == 0 && begun == 0:
		return nil, errors.New("want certificates in PEM")
	case len(certs) < begun: // what is damaged is skipped, and the rest would be taken for the whole
		return nil, fmt.Errorf("%d of %d PEM blocks are damaged", begun-len(certs), begun)
	}
	return certs, nil
}

// caChain is an issuing CA's way up: its own certificate, those of the CAs above, and the root, which no client is sent.
type caChain struct {
	certs []*x509.Certificate // the issuing CA's first; without the root
	root  *x509.Certificate
}

// above is the CA that signed the issuing CA.
func (c caChain) above() *x509.Certificate {
	if len(c.certs) > 1 {
		return c.certs[1]
	}
	return c.root
}

func (c caChain) pem() []byte {
	var ders [][]byte
	for _, cert := range c.certs {
		ders = append(ders, cert.Raw)
	}
	return certificatePEM(ders...)
}

// orderChain finds the chain of the CA that has the key among certificates in any order. If root is nil, it must be
// among them.
func orderChain(key crypto.PublicKey, certs []*x509.Certificate, root *x509.Certificate) (c caChain, err error) {
	pub, ok := key.(interface{ Equal(crypto.PublicKey) bool })
	own := slices.IndexFunc(certs, func(c *x509.Certificate) bool { return ok && pub.Equal(c.PublicKey) })
	if own < 0 {
		return c, errors.New("no certificate is for this CA's key: it was not made from the request that `pkid issuer csr` prints")
	}
	if root == nil {
		for _, cert := range certs {
			if selfIssued(cert) {
				root = cert
			}
		}
	}
	switch {
	case root == nil:
		return c, errors.New("the root is missing: give its certificate with --root")
	case !selfIssued(root):
		return c, fmt.Errorf("root: %q is not signed by itself: give the root, and put the CAs below it into the file of the issuing CA's certificate", root.Subject)
	case selfIssued(certs[own]):
		return c, errors.New("the issuing CA's certificate is signed by itself: pkid wants one below a root")
	}
	c = caChain{certs: []*x509.Certificate{certs[own]}, root: root}
	for at := certs[own]; !bytes.Equal(at.RawIssuer, root.RawSubject) || at.CheckSignatureFrom(root) != nil; {
		next := slices.IndexFunc(certs, func(above *x509.Certificate) bool {
			return bytes.Equal(at.RawIssuer, above.RawSubject) && !slices.Contains(c.certs, above) && !selfIssued(above)
		})
		if next < 0 {
			return c, fmt.Errorf("CA %q is signed by %q, which is neither the root (%q) nor among the certificates, or the root's key is another", at.Subject, at.Issuer, root.Subject)
		}
		at = certs[next]
		c.certs = append(c.certs, at)
	}
	return c, nil
}

func selfIssued(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// check finds whatever would keep certificates that the issuing CA signs with its key from being accepted.
func (c caChain) check(key crypto.Signer, hosts []string, now time.Time) error {
	if _, err := stepca.NewSigner(c.certs[0], key); err != nil {
		return fmt.Errorf("issuing CA: %w", err)
	}
	all := append(slices.Clone(c.certs), c.root)
	for n, cert := range all {
		switch {
		case now.After(cert.NotAfter):
			return fmt.Errorf("CA %q: it expired at %s", cert.Subject, stamp(cert.NotAfter))
		case now.Before(cert.NotBefore):
			return fmt.Errorf("CA %q: it is not valid before %s: look at the clocks", cert.Subject, stamp(cert.NotBefore))
		case len(cert.UnhandledCriticalExtensions) > 0:
			return fmt.Errorf("CA %q: it has critical extensions that Go does not know, and clients would refuse: %v", cert.Subject, cert.UnhandledCriticalExtensions)
		}
		if n+1 < len(all) {
			if err := cert.CheckSignatureFrom(all[n+1]); err != nil {
				return fmt.Errorf("CA %q: not rightly signed by %q: %w", cert.Subject, all[n+1].Subject, err)
			}
		}
	}
	return c.rehearse(hosts, now)
}

// rehearse builds the same chain with keys of its own, puts a certificate for the daemon's hosts below, and has
// crypto/x509 verify that. It finds what path lengths, name constraints and extended key usages anywhere above forbid
// (RFC 5280 section 6.1), before a certificate is issued that nobody accepts.
func (c caChain) rehearse(hosts []string, now time.Time) error {
	names, err := ServerNames(hosts)
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Minute), DNSNames: names.DNS,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, ip := range names.IPs {
		leaf.IPAddresses = append(leaf.IPAddresses, net.IP(ip.AsSlice()))
	}
	var above *x509.Certificate
	var aboveKey *ecdsa.PrivateKey
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, template := range append(slices.Collect(c.actors()), leaf) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		parent, parentKey := above, aboveKey
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
		if err != nil {
			return fmt.Errorf("rehearsing the chain: %w", err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("rehearsing the chain: %w", err)
		}
		if above == nil {
			roots.AddCert(cert)
		} else {
			intermediates.AddCert(cert)
		}
		above, aboveKey = cert, key
	}
	for usage, purpose := range map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: "the daemon's own", x509.ExtKeyUsageClientAuth: "a client's"} {
		options := x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}
		if _, err := above.Verify(options); err != nil {
			return fmt.Errorf("below these CAs %s certificate would be refused: %w", purpose, err)
		}
	}
	return nil
}

// actors are templates like the certificates of the chain, the root's first.
func (c caChain) actors() func(yield func(*x509.Certificate) bool) {
	return func(yield func(*x509.Certificate) bool) {
		for _, cert := range slices.Backward(append(slices.Clone(c.certs), c.root)) {
			template := *cert
			template.PublicKey, template.SignatureAlgorithm, template.Extensions, template.AuthorityKeyId = nil, 0, nil, nil
			if !yield(&template) {
				return
			}
		}
	}
}

// notes say what an operator should know of the chain and cannot be an error.
func (c caChain) notes(now time.Time) (notes []string) {
	for _, cert := range append(slices.Clone(c.certs), c.root) {
		if permitted := constraints(cert); permitted != "" {
			notes = append(notes, fmt.Sprintf("CA %q has name constraints: %s", cert.Subject, permitted))
		}
		if left := cert.NotAfter.Sub(now); left < 180*24*time.Hour {
			notes = append(notes, fmt.Sprintf("CA %q expires in %d days, at %s, and everything below it with it", cert.Subject, left/(24*time.Hour), stamp(cert.NotAfter)))
		}
	}
	issuing := c.certs[0]
	if len(issuing.CRLDistributionPoints) == 0 {
		notes = append(notes, "the issuing CA's certificate names no CRL: who checks whole chains, as openssl -crl_check_all does, needs its issuer's CRL from you")
	}
	if len(issuing.IssuingCertificateURL) == 0 {
		notes = append(notes, "the issuing CA's certificate does not say where its issuer's is (AIA); clients are sent the chain, so that only strangers miss it")
	}
	return notes
}

// constraints lists a CA's name constraints (RFC 5280 section 4.2.1.10).
func constraints(c *x509.Certificate) string {
	var all []string
	add := func(verb string, kinds ...[]string) {
		for _, names := range kinds {
			for _, name := range names {
				all = append(all, verb+" "+name)
			}
		}
	}
	add("permits", c.PermittedDNSDomains, networks(c.PermittedIPRanges), c.PermittedEmailAddresses, c.PermittedURIDomains)
	add("excludes", c.ExcludedDNSDomains, networks(c.ExcludedIPRanges), c.ExcludedEmailAddresses, c.ExcludedURIDomains)
	return strings.Join(all, ", ")
}

func networks(ranges []*net.IPNet) (texts []string) {
	for _, r := range ranges {
		texts = append(texts, r.String())
	}
	return texts
}

// publishedHere reports whether the issuing CA's certificate says that its issuer's CRL is at this daemon.
func publishedHere(issuing *x509.Certificate, statusURL string) bool {
	return slices.ContainsFunc(issuing.CRLDistributionPoints, func(point string) bool {
		got, err := url.Parse(point)
		want, wrong := url.Parse(crlURL(statusURL, rootID))
		return err == nil && wrong == nil && strings.EqualFold(got.Host, want.Host) && got.Path == want.Path
	})
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
