package client

import (
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

// ErrFingerprint reports a server that shows another root than the one it was asked for.
var ErrFingerprint = errors.New("the CA's root does not have the fingerprint that was named: wrong server, or someone between")

// EnrollOptions say where and how to enrol. The zero value enrols into the working directory with a P-256 key.
type EnrollOptions struct {
	Dir     string // made with mode 0700 if missing
	KeyType string // one of KeyTypes; P-256 if empty
}

// Enroll gets a first certificate for an enrolment token and writes the identity into a directory. It trusts
// nothing on first use: the secret is sent only to a server whose root has the token's fingerprint.
//
// A lost answer is safe to retry. Key and request are on disk before the request is sent, and Enroll with the
// same token in the same directory sends the very same request, to which the CA gives the very same answer.
// Failed connections and 5xx answers are retried for some seconds. Where the CA refuses, so that there is no
// answer to be lost, nothing is left of the attempt. Errors: ErrIdentityExists, ErrFingerprint, a *Problem
// with what the CA says.
func Enroll(ctx context.Context, token EnrolmentToken, opts EnrollOptions) (_ *Identity, err error) {
	dir := cmp.Or(opts.Dir, ".")
	made := missingDirs(dir)
	defer func() {
		if err != nil {
			removeMade(made)
		}
	}()
	unlock, err := openDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if exists(filepath.Join(dir, certName)) {
		return enrolled(dir)
	}
	var root *x509.Certificate
	if err := retry(ctx, func() error {
		root, err = FetchRoot(ctx, token.URL, token.Root)
		return err
	}); err != nil {
		return nil, err
	}
	resumed := exists(filepath.Join(dir, keyName))
	key, csr, err := pendingRequest(dir, opts.KeyType)
	if err != nil {
		return nil, err
	}
	var r redemption
	if err := retry(ctx, func() error { return r.try(ctx, token, root, csr) }); err != nil {
		err = fmt.Errorf("enrolling at %s: %w", token.URL, err)
		if !resumed && !r.lost {
			err = errors.Join(err, removeFile(filepath.Join(dir, keyName)), removeFile(filepath.Join(dir, csrName)))
		}
		return nil, err
	}
	pair, err := checkIssued(&r.issued, []*x509.Certificate{root}, key)
	if err != nil {
		return nil, err
	}
	return complete(dir, pair, root, Info{
		Name: r.ca.Name, ClientID: r.issued.ClientID, Fingerprint: hex.EncodeToString(token.Root[:]), URLs: r.ca.URLs,
	})
}

// redemption exchanges an invitation for a certificate.
type redemption struct {
	ca     CA
	issued Certificate
	lost   bool // an answer may have been lost, and a certificate with it
}

// try connects once, trusting the root alone, and sends the secret with the request. The first answer of
// GET /v1/ca was proven in its root only, so the URLs are asked for again.
func (r *redemption) try(ctx context.Context, token EnrolmentToken, root *x509.Certificate, csr []byte) error {
	pool := x509.NewCertPool()
	pool.AddCert(root)
	hc := newHTTPClient(showing(nil, pool))
	defer hc.CloseIdleConnections()
	if err := call(ctx, hc, http.MethodGet, join(token.URL, "/v1/ca"), nil, nil, &r.ca); err != nil {
		return err
	}
	header := http.Header{"Authorization": {"Bearer " + token.String()}}
	err := call(ctx, hc, http.MethodPost, join(token.URL, "/v1/certificates"), header, CSR{CSR: string(csr)}, &r.issued)
	if !isRefusal(err) {
		r.lost = true
	}
	return err
}

// isRefusal reports whether err is the CA's own no. Any other answer may be that of a proxy which lost the CA's.
func isRefusal(err error) bool {
	p, ok := errors.AsType[*Problem](err)
	return ok && p.Status/100 == 4 && strings.HasPrefix(p.Type, "urn:pkid:problem:")
}

// enrolled is Enroll's answer for a directory with a certificate: ErrIdentityExists, unless all that is
// missing from an enrolment is the removal of its request.
func enrolled(dir string) (*Identity, error) {
	_, csr, err := readRequest(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, ErrIdentityExists)
	}
	id := &Identity{dir: dir}
	if err := errors.Join(id.readInfo(), id.read()); err != nil {
		return nil, err
	}
	if !samePublicKey(csr.PublicKey, id.pair.Leaf.PublicKey) {
		return nil, fmt.Errorf("%s: %w", dir, ErrIdentityExists)
	}
	return id, removeFile(id.path(csrName))
}

// maxChain bounds the certificates that come with another one.
const maxChain = 8

// FetchRoot asks the CA at a URL for its root, over a connection that proves nothing, and returns it only if it
// has the fingerprint, the SHA-256 of its DER. A CA that has changed its root shows the one before, too. The error is
// ErrFingerprint if none has it.
func FetchRoot(ctx context.Context, url string, fingerprint thumbprint.Cert) (*x509.Certificate, error) {
	hc := newHTTPClient(&tls.Config{
		MinVersion:         tls.VersionTLS12,
		CipherSuites:       tokenbind.CipherSuites(),
		InsecureSkipVerify: true, //nolint:gosec // no root yet; nothing secret is sent, and the fingerprint decides
	})
	defer hc.CloseIdleConnections()
	var ca CA
	if err := call(ctx, hc, http.MethodGet, join(url, "/v1/ca"), nil, nil, &ca); err != nil {
		return nil, fmt.Errorf("asking the CA for its root: %w", err)
	}
	for _, text := range append([]string{ca.Root}, ca.OtherRoots...) {
		root, err := parseCertificate(text)
		if err != nil {
			return nil, fmt.Errorf("the root that %s shows: %w", url, err)
		}
		if thumbprint.OfCertificate(root).Equal(fingerprint) {
			return root, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", url, ErrFingerprint)
}

// pendingRequest returns the key and request of an enrolment that was begun in dir, or begins one. An ECDSA
// signature differs each time, so it is the request's bytes that are kept. The request is written first: a
// key without one is somebody else's and stays untouched; a request without a key was never sent.
func pendingRequest(dir, keyType string) (crypto.Signer, []byte, error) {
	keyFile, csrFile := filepath.Join(dir, keyName), filepath.Join(dir, csrName)
	if exists(keyFile) {
		return resume(dir, keyType)
	}
	key, err := NewKey(keyType)
	if err != nil {
		return nil, nil, err
	}
	csr, err := newCSR(key)
	if err != nil {
		return nil, nil, err
	}
	keyText, err := marshalKey(key)
	if err != nil {
		return nil, nil, err
	}
	if err := writeFile(csrFile, csr, 0o600); err != nil {
		return nil, nil, err
	}
	return key, csr, createFile(keyFile, keyText, 0o600)
}

func resume(dir, keyType string) (crypto.Signer, []byte, error) {
	keyFile := filepath.Join(dir, keyName)
	text, csr, err := readRequest(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s exists and belongs to no enrolment: move it away, or enrol into another directory", keyFile)
	}
	if err != nil {
		return nil, nil, err
	}
	keyText, err := readFile(keyFile)
	if err != nil {
		return nil, nil, err
	}
	key, err := ParseKey(keyText)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	switch has := keyTypeOf(key.Public()); {
	case !samePublicKey(key.Public(), csr.PublicKey):
		return nil, nil, fmt.Errorf("%s and %s do not belong together: move them away, or enrol into another directory", keyName, csrName)
	case keyType != "" && keyType != has:
		return nil, nil, fmt.Errorf("an enrolment with a key of type %s was begun in %s: finish it, or use another directory", has, dir)
	}
	return key, text, nil
}

func readRequest(dir string) ([]byte, *x509.CertificateRequest, error) {
	name := filepath.Join(dir, csrName)
	text, err := readFile(name)
	if err != nil {
		return nil, nil, err
	}
	csr, err := parseCSR(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return text, csr, nil
}

// checkIssued checks a certificate that the CA answered with before anything is replaced by it: it is for
// this key, it is valid now, and its chain leads to one of the roots.
func checkIssued(c *Certificate, roots []*x509.Certificate, key crypto.Signer) (*tls.Certificate, error) {
	if len(c.Chain) > maxChain {
		return nil, fmt.Errorf("the CA's answer has a chain of %d certificates", len(c.Chain))
	}
	intermediates := x509.NewCertPool()
	var chain []*x509.Certificate
	for _, text := range append([]string{c.Certificate}, c.Chain...) {
		cert, err := parseCertificate(text)
		if err != nil {
			return nil, fmt.Errorf("the CA's answer: %w", err)
		}
		if len(chain) > 0 {
			intermediates.AddCert(cert)
		}
		chain = append(chain, cert)
	}
	if !samePublicKey(chain[0].PublicKey, key.Public()) {
		return nil, errors.New("the CA answered with a certificate for another key")
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{
		Roots: pool(roots...), Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return nil, fmt.Errorf("the CA's answer: %w", err)
	}
	return newPair(chain, key)
}
