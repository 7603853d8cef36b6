package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// testCA is a root and an issuing CA on P-256, and what the servers need of them as files.
type testCA struct {
	dir           string
	root, issuing *x509.Certificate
	issuingKey    *ecdsa.PrivateKey
	roots         *x509.CertPool
}

func newTestCA(dir string) (*testCA, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	c := &testCA{dir: dir, roots: x509.NewCertPool()}
	rootKey, err := newKey()
	if err != nil {
		return nil, err
	}
	if c.issuingKey, err = newKey(); err != nil {
		return nil, err
	}
	root := caTemplate("bench root")
	if c.root, err = sign(root, root, rootKey.Public(), rootKey); err != nil {
		return nil, err
	}
	if c.issuing, err = sign(caTemplate("bench issuing CA"), c.root, c.issuingKey.Public(), rootKey); err != nil {
		return nil, err
	}
	c.roots.AddCert(c.root)
	if err := writeCertificates(filepath.Join(dir, "root.crt"), c.root); err != nil {
		return nil, err
	}
	if err := writeCertificates(filepath.Join(dir, "issuing.crt"), c.issuing); err != nil {
		return nil, err
	}
	return c, writeKey(filepath.Join(dir, "issuing.key"), c.issuingKey)
}

func caTemplate(name string) *x509.Certificate {
	t := template(name)
	t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	return t
}

func template(name string) *x509.Certificate {
	var serial [16]byte
	rand.Read(serial[:])
	serial[0] &= 0x7f
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:]), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func sign(t, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// server issues a certificate for loopback and writes it with its key, as server.crt and server.key.
func (c *testCA) server() error {
	key, err := newKey()
	if err != nil {
		return err
	}
	t := template("localhost")
	t.DNSNames, t.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	cert, err := sign(t, c.issuing, key.Public(), c.issuingKey)
	if err != nil {
		return err
	}
	if err := writeCertificates(filepath.Join(c.dir, "server.crt"), cert, c.issuing); err != nil {
		return err
	}
	return writeKey(filepath.Join(c.dir, "server.key"), key)
}

// client issues a client certificate.
func (c *testCA) client(name string) (tls.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	t := template(name)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	cert, err := sign(t, c.issuing, key.Public(), c.issuingKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw, c.issuing.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// clients issues one to each of the first n.
func (c *testCA) clients(n int) ([]tls.Certificate, error) {
	out := make([]tls.Certificate, n)
	for i := range out {
		var err error
		if out[i], err = c.client(clientName(i)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func writeCertificates(path string, certs ...*x509.Certificate) error {
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return os.WriteFile(path, text, 0o600)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// applicant is somebody who asks for certificates: a name, a key, and a request for it.
type applicant struct {
	name string
	key  *ecdsa.PrivateKey
	csr  []byte // DER
	pem  string
}

// clientName is the i-th client's. All are of one length.
func clientName(i int) string { return fmt.Sprintf("client-%08d", i) }

// applicants are as many as a fleet has, so that stores and their indexes see different clients.
const applicants = 2000

// fleet makes the applicants, once per run.
var fleet = sync.OnceValues(func() ([]applicant, error) {
	out := make([]applicant, applicants)
	for i := range out {
		a := &out[i]
		a.name = clientName(i)
		var err error
		if a.key, err = newKey(); err != nil {
			return nil, err
		}
		// The name stands as a SAN too, since step-ca compares the request's with its token's.
		req := &x509.CertificateRequest{Subject: pkix.Name{CommonName: a.name}, DNSNames: []string{a.name}}
		if a.csr, err = x509.CreateCertificateRequest(rand.Reader, req, a.key); err != nil {
			return nil, err
		}
		a.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: a.csr}))
	}
	return out, nil
})

func readCertificate(path string) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM", path)
	}
	return x509.ParseCertificate(block.Bytes)
}
